"""What is saved and read back: our own checkpoints, and those of the paper's tool.

A checkpoint of ours holds what was trained (adapters, prompts, readout; the backbone only with
`--tune full`), the optimizer's moments by parameter name, and everything needed to rebuild the
model. It is plain tensors, numbers and strings, and loads with `torch.load(weights_only=True)`.
"""

import dataclasses
import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pfm import __version__
from pfm.backbones.config import SCRATCH
from pfm.backbones.limits import check_stored
from pfm.backbones.loading import build_backbone, frozen_sha256
from pfm.backbones.spec import BackboneSpec
from pfm.classes import ClassList
from pfm.data.inputs import Preprocess, preprocess_from_dict
from pfm.errors import BackboneError, CheckpointError, ConfigError, PfmError
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings, ModelConfig
from pfm.model.opening import misfit, open_torch_file
from pfm.model.paper_files import read_paper_file
from pfm.model.sharding import gathered
from pfm.model.starts import UNSTATED
from pfm.options import expanded
from pfm.storage import write_bytes

FORMAT = "pfm-checkpoint"
VERSION = 1

Moments = dict[str, dict[str, torch.Tensor]]
Record = Mapping[str, Any]  # plain values, as they are saved


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model as a value.

    Attributes:
        classes: the classes that are there.
        erased: number and name of those that were erased.
        tensors: trained tensors by the model's parameter names.
        moments: optimizer state of each trained tensor, by the same names.
        frozen_sha256: SHA-256 of the backbone weights that are not in `tensors`; "" where all are.
        run: the resolved configuration of the training run.
        averaged: exponential moving average of the trained tensors, by the same names; empty where none was kept.
        progress: where the run stands, for one that goes on; see `pfm.training.saving`.
        notes: what had to be assumed when a foreign file was read.
        ledger_head: hash of the ledger line that announced the last erasure from this file; "" where there was none.
        unknown_below: largest probability under which the answer is `unknown`; 0 where there is no such threshold.
        exact: what a solved readout is a function of, in plain values; empty for readouts that are trained.
        memory: what is kept of the samples of a solved readout, by name; see `pfm.exact.stored`.
        data_commit: of the hub's repository that the training data is from; "" where it is from elsewhere.
        written_by: version of pfm that wrote the file that this was read from; "" where it was not one of ours.
        start: where the classes' rows started, a name in `pfm.model.starts`; "" where the file does not say, see
            `prompt_start`.
        init_key: file in which the keys of secret starts were kept, absolute; "" where none was.
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
    run: Record = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    averaged: dict[str, torch.Tensor] = field(default_factory=dict)
    progress: Record = field(default_factory=dict)
    ledger_head: str = ""
    unknown_below: float = 0.0
    written_by: str = ""
    exact: Record = field(default_factory=dict)
    memory: dict[str, torch.Tensor] = field(default_factory=dict)
    data_commit: str = ""
    start: str = ""
    init_key: str = ""

    @property
    def prompt_start(self) -> str:
        """Where the classes' rows started: files that do not say are from the time when all followed from the seed."""
        return self.start or UNSTATED

    @property
    def is_personal(self) -> bool:
        """Whether samples can be read off it, so that others may not read the file."""
        return bool(self.memory)

    @property
    def keeps_samples(self) -> bool:
        """Whether samples are kept one by one, so that some can be found in it and taken out."""
        return self.exact.get("memory") == "features"

    def build_model(self) -> PromptedClassifier:
        """The model, in eval mode on the CPU, with the averaged tensors where there are some.

        Raises:
            CheckpointError: the tensors do not fit the model described.
            BackboneError: the frozen backbone cannot be loaded, or is not the one trained on.
        """
        if not self.frozen_sha256:  # everything is in the file
            check_stored(self.spec.config, sum(tensor.nbytes for tensor in self.tensors.values()), "the checkpoint")
        backbone = build_backbone(self.spec, seed=self.seed, load_weights=bool(self.frozen_sha256))
        if self.frozen_sha256 and frozen_sha256(backbone) != self.frozen_sha256:
            raise BackboneError(
                f"the weights of {self.spec.model_name} are not those this checkpoint was trained on; "
                "give the same backbone with --model_name"
            )
        model = PromptedClassifier(backbone, self.classes, self.model, self.lora)
        wanted = set(model.stored_tensors()) if self.frozen_sha256 else set(model.state_dict())
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


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands when its model is saved; the attributes are those of `Checkpoint`."""

    seed: int = 42
    epoch: int = 0
    step: int = 0
    run: Record = field(default_factory=dict)
    averaged: Mapping[str, torch.Tensor] = field(default_factory=dict)
    progress: Record = field(default_factory=dict)
    unknown_below: float = 0.0
    data_commit: str = ""
    start: str = ""
    init_key: str = ""


def snapshot(
    model: PromptedClassifier,
    *,
    spec: BackboneSpec,
    preprocess: Preprocess,
    lora: LoraSettings | None,
    optimizer: torch.optim.Optimizer | None = None,
    frozen_sha256: str = "",
    state: RunState | None = None,
) -> Checkpoint:
    """The state of a model in training, copied to the CPU."""
    state = state or RunState()
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
        tensors={name: _copy(tensor) for name, tensor in model.stored_tensors().items()},
        moments=moments,
        frozen_sha256=frozen_sha256,
        seed=state.seed,
        epoch=state.epoch,
        step=state.step,
        run=state.run,
        averaged={name: _copy(tensor) for name, tensor in state.averaged.items()},
        progress=state.progress,
        unknown_below=state.unknown_below,
        data_commit=state.data_commit,
        start=state.start,
        init_key=state.init_key,
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, whole, with storage of its own: what is saved must not drag erased rows along."""
    return gathered(tensor.detach()).to("cpu", copy=True).contiguous()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; `path` is the old file or the new one, never half of one.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    write_bytes(path, checkpoint_bytes(checkpoint), is_private=checkpoint.is_personal)


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """What `save_checkpoint` writes."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "pfm": __version__,
        "classes": {"ids": list(checkpoint.classes.ids), "names": list(checkpoint.classes.names)},
        "erased": [list(entry) for entry in checkpoint.erased],
        "preprocess": checkpoint.preprocess.to_dict(),
        "backbone": {
            "model_name": checkpoint.spec.model_name,
            "config": _plain(checkpoint.spec.config),
            "commit": checkpoint.spec.commit,
        },
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
        "exact": checkpoint.exact,
        "memory": {name: _copy(tensor) for name, tensor in checkpoint.memory.items()},
        "data_commit": checkpoint.data_commit,
        "start": checkpoint.start,
        "init_key": checkpoint.init_key,
    }
    buffer = io.BytesIO()
    torch.save(_canonical(content), buffer)
    return buffer.getvalue()


def _canonical(value: Any) -> Any:
    """The same value made of objects whose identity follows from what they are equal to.

    pickle writes an object that it has met before as a reference, and knows it by its identity: two equal strings may
    be one object or two, depending on whether they were read from a file. So that equal checkpoints have equal bytes,
    equal strings are one object here, and no two containers are.
    """
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, Mapping):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, tuple):
        return tuple([_canonical(item) for item in value])
    return value


def _plain(value: Any) -> Any:
    """Nothing but dict, list, str, numbers, bool and None, so that the file loads with weights_only."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def checkpoint_file(path: Path | str) -> Path:
    """Where a checkpoint is.

    Raises:
        CheckpointError: it is not there.
    """
    path = expanded(Path(path))
    if path.is_dir():
        inside = sorted((file for file in path.glob("*.pt") if file.is_file()), key=os.path.getmtime)
        hint = f"; name the file, such as {inside[-1]}" if inside else ", and has no checkpoint in it (.pt)"
        raise CheckpointError(f"{path} is a folder{hint}")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    return path


def load_checkpoint(path: Path | str, *, model_name: str | None = None) -> Checkpoint:
    """Read a checkpoint of ours, or one of the paper's tool.

    Args:
        model_name: where the frozen backbone is now, if not where it was in training; for a file
            of the paper's tool, a backbone whose configuration and preprocessing apply.

    Raises:
        CheckpointError: missing, unreadable, or not a checkpoint.
        ConfigError: a backbone is named for a file that holds its own.
    """
    path = checkpoint_file(path)
    content = open_torch_file(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        checkpoint = _read_own(path, content, model_name)
        trained_on = content["backbone"]["model_name"]
        if model_name not in (None, trained_on):
            whose = "holds all of its model's weights" if not checkpoint.frozen_sha256 else "was trained from scratch"
            if not checkpoint.frozen_sha256 or trained_on.startswith(SCRATCH):
                raise ConfigError(
                    f"--model_name {model_name}: {path} {whose}, and takes none from elsewhere; leave it out"
                )
        return checkpoint
    if isinstance(content, dict) and isinstance(content.get("model_state_dict"), dict):
        return Checkpoint(**vars(read_paper_file(path, content["model_state_dict"], model_name)))
    raise CheckpointError(f"{path} is not a checkpoint of pfm or of the paper's tool")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    interesting = next((line for line in lines if "size mismatch" in line), lines[0] if lines else "")
    return interesting[:160].rstrip(".:") or type(error).__name__


def _read_own(path: Path, content: Record, model_name: str | None) -> Checkpoint:
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of format {str(content.get('version'))[:40]}; this pfm reads format {VERSION}"
        )
    wrong = misfit(content)
    if wrong:
        raise CheckpointError(f"{path} is a damaged checkpoint ({wrong})")
    try:
        preprocess = preprocess_from_dict(content["preprocess"])
        config = dict(content["backbone"]["config"])
        trained_on = content["backbone"]["model_name"]
        commit = content["backbone"].get("commit", "") if model_name in (None, trained_on) else ""
        return Checkpoint(
            classes=ClassList(tuple(content["classes"]["ids"]), tuple(content["classes"]["names"])),
            preprocess=preprocess,
            spec=BackboneSpec(model_name or trained_on, config, preprocess, commit=commit),
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
            written_by=content["pfm"],
            exact=content.get("exact", {}),
            memory=content.get("memory", {}),
            data_commit=content.get("data_commit", ""),
            start=content.get("start", ""),
            init_key=content.get("init_key", ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, PfmError) as error:
        raise CheckpointError(f"{path} is a damaged checkpoint ({_reason(error)})") from error
