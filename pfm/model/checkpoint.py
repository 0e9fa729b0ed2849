"""What is saved and read back: our own checkpoints, and those of the paper's tool.

A checkpoint of ours holds what was trained (adapters, prompts, readout; the backbone only with
`--tune full`), the optimizer's moments by parameter name, and everything needed to rebuild the
model. It is plain tensors, numbers and strings, and loads with `torch.load(weights_only=True)`.
"""

import dataclasses
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pfm import __version__
from pfm.backbones.backbone import (
    AST,
    AUDIO_DEFAULT,
    IMAGE_DEFAULT,
    BackboneConfig,
    BackboneSpec,
    build_backbone,
    describe_backbone,
    fingerprint,
)
from pfm.classes import ClassList
from pfm.data.images import ImageStorage
from pfm.data.inputs import Preprocess, preprocess_from_dict
from pfm.data.sounds import SoundStorage
from pfm.errors import BackboneError, CheckpointError
from pfm.model.classifier import ModelConfig, PromptedClassifier
from pfm.model.lora import LoraSettings
from pfm.model.sharding import gathered
from pfm.storage import explain, write_bytes

FORMAT = "pfm-checkpoint"
VERSION = 1

Moments = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model as a value.

    Attributes:
        classes: the classes that are there.
        erased: number and name of those that were erased.
        tensors: trained tensors by the model's parameter names.
        moments: optimizer state of each trained tensor, by the same names.
        frozen_sha256: fingerprint of the backbone weights that are not in `tensors`; "" where all are.
        run: the resolved configuration of the training run.
        averaged: exponential moving average of the trained tensors, by the same names; empty where none was kept.
        progress: where the run stands, for one that goes on; see `pfm.resume`.
        notes: what had to be assumed when a foreign file was read.
        ledger_head: hash of the ledger line that announced the last erasure from this file; "" where there was none.
        unknown_below: largest probability under which the answer is `unknown`; 0 where there is no such threshold.
    """

    classes: ClassList
    preprocess: Preprocess
    spec: BackboneSpec
    model: ModelConfig
    lora: LoraSettings | None
    tensors: dict[str, torch.Tensor]
    moments: Moments = field(default_factory=dict)
    frozen_sha256: str = ""
    seed: int = 42
    epoch: int = 0
    step: int = 0
    erased: tuple[tuple[int, str], ...] = ()
    run: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    averaged: dict[str, torch.Tensor] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    ledger_head: str = ""
    unknown_below: float = 0.0

    def build_model(self) -> PromptedClassifier:
        """The model, in eval mode on the CPU, with the averaged tensors where there are some.

        Raises:
            CheckpointError: the tensors do not fit the model described.
            BackboneError: the frozen backbone cannot be loaded, or is not the one trained on.
        """
        backbone = build_backbone(self.spec, seed=self.seed, load_weights=bool(self.frozen_sha256))
        if self.frozen_sha256 and fingerprint(backbone) != self.frozen_sha256:
            raise BackboneError(
                f"the weights of {self.spec.model_name} are not those this checkpoint was trained on; "
                "give the same backbone with --model_name"
            )
        model = PromptedClassifier(backbone, self.classes, self.model, self.lora)
        wanted = set(model.trained_tensors()) if self.frozen_sha256 else set(model.state_dict())
        missing = wanted - set(self.tensors)
        if self.frozen_sha256 == "" and not self.model.final_norm:
            missing -= {name for name in missing if name.startswith("backbone.encoder.layernorm.")}
        if missing:
            raise CheckpointError(f"the checkpoint lacks {len(missing)} tensors of its model ({sorted(missing)[0]}, …)")
        try:
            unexpected = model.load_state_dict({**self.tensors, **self.averaged}, strict=False).unexpected_keys
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's tensors are of another shape: {_reason(error)}") from error
        if unexpected:
            raise CheckpointError(f"the checkpoint holds tensors its model does not have ({unexpected[0]}, …)")
        model.unknown_below = self.unknown_below
        return model.eval()


def snapshot(
    model: PromptedClassifier,
    *,
    spec: BackboneSpec,
    preprocess: Preprocess,
    lora: LoraSettings | None,
    optimizer: torch.optim.Optimizer | None = None,
    frozen_sha256: str = "",
    seed: int = 42,
    epoch: int = 0,
    step: int = 0,
    erased: tuple[tuple[int, str], ...] = (),
    run: dict[str, Any] | None = None,
    averaged: dict[str, torch.Tensor] | None = None,
    progress: dict[str, Any] | None = None,
    unknown_below: float = 0.0,
) -> Checkpoint:
    """The state of a model in training, copied to the CPU."""
    trained = model.trained_tensors()
    moments: Moments = {}
    if optimizer is not None:
        moments = {
            name: {key: _copy(value) for key, value in optimizer.state[tensor].items() if torch.is_tensor(value)}
            for name, tensor in trained.items()
            if tensor in optimizer.state
        }
    return Checkpoint(
        classes=model.classes,
        preprocess=preprocess,
        spec=spec,
        model=model.config,
        lora=lora,
        tensors={name: _copy(tensor) for name, tensor in trained.items()},
        moments=moments,
        frozen_sha256=frozen_sha256,
        seed=seed,
        epoch=epoch,
        step=step,
        erased=erased,
        run=run or {},
        averaged={name: _copy(tensor) for name, tensor in (averaged or {}).items()},
        progress=progress or {},
        unknown_below=unknown_below,
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, whole, with storage of its own: what is saved must not drag erased rows along."""
    return gathered(tensor.detach()).to("cpu", copy=True).contiguous()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; `path` is the old file or the new one, never half of one.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    write_bytes(path, checkpoint_bytes(checkpoint))


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """What `save_checkpoint` writes."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "pfm": __version__,
        "classes": {"ids": list(checkpoint.classes.ids), "names": list(checkpoint.classes.names)},
        "erased": [list(entry) for entry in checkpoint.erased],
        "preprocess": checkpoint.preprocess.to_dict(),
        "backbone": {"model_name": checkpoint.spec.model_name, "config": _plain(checkpoint.spec.config)},
        "frozen_sha256": checkpoint.frozen_sha256,
        "model": dataclasses.asdict(checkpoint.model),
        "lora": None if checkpoint.lora is None else dataclasses.asdict(checkpoint.lora),
        "seed": checkpoint.seed,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "run": checkpoint.run,
        "model_state_dict": {name: _copy(tensor) for name, tensor in checkpoint.tensors.items()},
        "optimizer_state_dict": {
            name: {key: _copy(value) for key, value in state.items()} for name, state in checkpoint.moments.items()
        },
        "ema_state_dict": {name: _copy(tensor) for name, tensor in checkpoint.averaged.items()},
        "progress": checkpoint.progress,
        "ledger_head": checkpoint.ledger_head,
        "unknown_below": checkpoint.unknown_below,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """Nothing but dict, list, str, numbers, bool and None, so that the file loads with weights_only."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def load_checkpoint(path: Path, *, model_name: str | None = None) -> Checkpoint:
    """Read a checkpoint of ours, or one of the paper's tool.

    Args:
        model_name: where the frozen backbone lies now, if not where it was in training; for a file
            of the paper's tool, a backbone whose configuration and preprocessing apply.

    Raises:
        CheckpointError: missing, unreadable, or no checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {explain(error)}") from error
    except Exception as error:  # torch raises a dozen kinds for a file that is not its own
        raise CheckpointError(f"{path} is no checkpoint, or a damaged one; nothing in it was executed") from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return _read_own(path, content, model_name)
    if isinstance(content, dict) and isinstance(content.get("model_state_dict"), dict):
        return _read_paper(path, content["model_state_dict"], model_name)
    raise CheckpointError(f"{path} is no checkpoint of pfm or of the paper's tool")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    interesting = next((line for line in lines if "size mismatch" in line), lines[0] if lines else "")
    return interesting[:160].rstrip(".:") or type(error).__name__


def _read_own(path: Path, content: dict[str, Any], model_name: str | None) -> Checkpoint:
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of format {content.get('version')}; this pfm reads format {VERSION}"
        )
    try:
        preprocess = preprocess_from_dict(content["preprocess"])
        config = dict(content["backbone"]["config"])
        return Checkpoint(
            classes=ClassList(tuple(content["classes"]["ids"]), tuple(content["classes"]["names"])),
            preprocess=preprocess,
            spec=BackboneSpec(model_name or content["backbone"]["model_name"], config, preprocess),
            model=ModelConfig(**content["model"]),
            lora=None if content["lora"] is None else LoraSettings(**content["lora"]),
            tensors=content["model_state_dict"],
            moments=content["optimizer_state_dict"],
            frozen_sha256=content["frozen_sha256"],
            seed=content["seed"],
            epoch=content["epoch"],
            step=content["step"],
            erased=tuple((number, name) for number, name in content["erased"]),
            run=content["run"],
            averaged=content.get("ema_state_dict", {}),
            progress=content.get("progress", {}),
            ledger_head=content.get("ledger_head", ""),
            unknown_below=float(content.get("unknown_below", 0.0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged checkpoint ({_reason(error)})") from error


# --- files of the paper's tool --------------------------------------------------------------------

_PAPER_PREFIX = re.compile(r"^backbone\.(base_model\.model\.)?")
# transformers 4 module names -> transformers 5, in this order
_RENAMES = (
    (re.compile(r"^encoder\.layer\.(\d+)\."), r"layers.\1."),
    (re.compile(r"\.attention\.attention\.query\b"), ".attention.q_proj"),
    (re.compile(r"\.attention\.attention\.key\b"), ".attention.k_proj"),
    (re.compile(r"\.attention\.attention\.value\b"), ".attention.v_proj"),
    (re.compile(r"\.attention\.output\.dense\b"), ".attention.o_proj"),
    (re.compile(r"\.intermediate\.dense\b"), ".mlp.fc1"),
    (re.compile(r"\.output\.dense\b"), ".mlp.fc2"),
)
_PAPER_ALPHA = 4


def _read_paper(path: Path, state: dict[str, torch.Tensor], model_name: str | None) -> Checkpoint:
    """Weights of the paper's tool: transformers 4 names, `prompt_dict.<i>`, the backbone included."""
    encoder: dict[str, torch.Tensor] = {}
    prompts: dict[int, torch.Tensor] = {}
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if key.startswith("backbone."):
            name = _PAPER_PREFIX.sub("", key)
            for pattern, replacement in _RENAMES:
                name = pattern.sub(replacement, name)
            if not name.startswith("pooler."):
                encoder[name] = tensor
        elif key.startswith("prompt_dict."):
            prompts[int(key.removeprefix("prompt_dict."))] = tensor
        elif key in ("classifier.weight", "classifier.bias"):
            tensors[key] = tensor
        else:
            raise CheckpointError(f"{path} holds {key!r}, which no checkpoint of the paper's tool has")
    ids = tuple(sorted(prompts))
    if not ids or "embeddings.cls_token" not in encoder or set(tensors) != {"classifier.weight", "classifier.bias"}:
        raise CheckpointError(f"{path} lacks the prompts, the classifier or the backbone of the paper's tool")
    if tensors["classifier.weight"].shape[0] != len(ids):
        raise CheckpointError(
            f"{path} has {len(ids)} prompts but a classifier for {tensors['classifier.weight'].shape[0]} classes"
        )
    tensors["bank.prompts"] = torch.stack([prompts[i] for i in ids])  # (C, 1, D)
    tensors |= {f"backbone.encoder.{name}": tensor for name, tensor in encoder.items()}
    adapters = [tensor for name, tensor in encoder.items() if ".lora_A." in name]
    lora = LoraSettings(lora_r=adapters[0].shape[0], lora_alpha=_PAPER_ALPHA) if adapters else None
    spec, notes = _paper_spec(path, encoder, model_name)
    preprocess = spec.preprocess
    assert preprocess is not None
    return Checkpoint(
        classes=ClassList(ids, tuple(str(i) for i in ids)),
        preprocess=preprocess,
        spec=spec,
        model=ModelConfig(tune="lora" if lora else "full"),
        lora=lora,
        tensors=tensors,
        notes=notes,
    )


def _paper_spec(
    path: Path, encoder: dict[str, torch.Tensor], model_name: str | None
) -> tuple[BackboneSpec, tuple[str, ...]]:
    """The backbone's configuration: given by `model_name` where that can be read, else from the shapes."""
    hidden = encoder["embeddings.cls_token"].shape[-1]
    patch = encoder["embeddings.patch_embeddings.projection.weight"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in encoder if name.startswith("layers."))
    is_audio = "embeddings.distillation_token" in encoder
    places = encoder["embeddings.position_embeddings"].shape[1]
    if is_audio:
        # AST's own 128 mel bins, a patch every 10 bins and 10 frames
        across = (places - 2) // ((128 - patch) // 10 + 1)
        size = {"max_length": _AST_LENGTHS.get(across, (across - 1) * 10 + patch)}
    else:
        size = {"image_size": math.isqrt(places - 1) * patch}
    if model_name is not None:
        if describe_backbone(BackboneConfig(model_name=model_name)).is_audio != is_audio:
            kinds = ("sounds", "images") if is_audio else ("images", "sounds")
            raise CheckpointError(f"{path} is a model of {kinds[0]}, but {model_name} takes {kinds[1]}")
        spec = describe_backbone(BackboneConfig(model_name=model_name, **size))
        shape = (spec.hidden_size, spec.config["patch_size"], spec.num_layers)
        if shape != (hidden, patch, depth):
            raise CheckpointError(
                f"{path} was trained on another backbone than {model_name}: width, patch, depth are "
                f"{(hidden, patch, depth)}, not {shape}"
            )
        if spec.preprocess is None:
            spec = dataclasses.replace(spec, preprocess=_own_preprocess(size))
        return spec, ()
    if hidden % 64:
        raise CheckpointError(
            f"{path}: the number of attention heads cannot be told from width {hidden}; "
            "give the backbone with --model_name"
        )
    values = {
        "model_type": AST if is_audio else "vit",
        **size,
        **({"num_mel_bins": 128, "frequency_stride": 10, "time_stride": 10} if is_audio else {}),
        "patch_size": patch,
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": hidden // 64,
        "intermediate_size": encoder["layers.0.mlp.fc1.weight"].shape[0],
        "layer_norm_eps": 1e-12,
        "qkv_bias": "layers.0.attention.k_proj.bias" in encoder,
    }
    normalised = (
        f"features normalised as for {AUDIO_DEFAULT}"
        if is_audio
        else f"pixels normalised with mean and std 0.5, as {IMAGE_DEFAULT} has it"
    )
    notes = (
        f"the file says nothing of the backbone's configuration: assumed {hidden // 64} heads of 64, and "
        f"{normalised} (give --model_name to say otherwise)",
    )
    return BackboneSpec("", values, _own_preprocess(size)), notes


# frames for which patches across are AST's own, where several lengths give as many
_AST_LENGTHS = {101: 1024}


def _own_preprocess(size: dict[str, int]) -> Preprocess:
    """What the paper's backbones take."""
    if "max_length" in size:
        storage = SoundStorage()
        return storage.default_preprocess((size["max_length"], storage.num_mel_bins))
    return ImageStorage(size["image_size"]).default_preprocess((3, size["image_size"], size["image_size"]))
