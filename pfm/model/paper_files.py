"""Checkpoints of the paper's tool: transformers 4 names, `prompt_dict.<i>`, the backbone included.

Such a file says nothing of the backbone's configuration. It is that of the backbone which the user names, or what the
shapes of the weights imply.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import FAMILIES, Family, HfConfig, Tensors, rename
from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.backbones.vit import OLDER_ATTENTION
from pfm.classes import ClassList
from pfm.data.inputs import Preprocess
from pfm.errors import CheckpointError
from pfm.model.classifier import BANK
from pfm.model.config import LoraSettings, ModelConfig

_PREFIX = re.compile(r"^backbone\.(base_model\.model\.)?")
# transformers 4 module names -> transformers 5, in this order
_RENAMES = (
    (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
    *OLDER_ATTENTION,
    (r"\.intermediate\.dense\b", ".mlp.fc1"),
    (r"\.output\.dense\b", ".mlp.fc2"),
)
_ALPHA = 4
_HEAD_WIDTH = 64
_CLASSIFIER = {"classifier.weight", "classifier.bias"}


@dataclass(frozen=True, kw_only=True)
class PaperModel:
    """What such a file holds; the attributes are those of `pfm.model.checkpoint.Checkpoint`."""

    classes: ClassList
    preprocess: Preprocess
    spec: BackboneSpec
    model: ModelConfig
    lora: LoraSettings | None
    tensors: Tensors
    notes: tuple[str, ...]


def read_paper_file(path: Path, state: Tensors, model_name: str | None) -> PaperModel:
    """Read the `model_state_dict` of such a file.

    Args:
        model_name: a backbone whose configuration and preprocessing apply; None takes what the shapes imply.

    Raises:
        CheckpointError: it is incomplete, or of another backbone than the one named.
    """
    encoder: Tensors = {}
    prompts: dict[int, torch.Tensor] = {}
    tensors: Tensors = {}
    for key, tensor in state.items():
        if key.startswith("backbone."):
            name = rename(_PREFIX.sub("", key), _RENAMES)
            if not name.startswith("pooler."):
                encoder[name] = tensor
        elif key.startswith("prompt_dict."):
            prompts[int(key.removeprefix("prompt_dict."))] = tensor
        elif key in _CLASSIFIER:
            tensors[key] = tensor
        else:
            raise CheckpointError(f"{path} holds {key!r}, which no checkpoint of the paper's tool has")
    ids = tuple(sorted(prompts))
    if not ids or "embeddings.cls_token" not in encoder or set(tensors) != _CLASSIFIER:
        raise CheckpointError(f"{path} lacks the prompts, the classifier or the backbone of the paper's tool")
    if tensors["classifier.weight"].shape[0] != len(ids):
        raise CheckpointError(
            f"{path} has {len(ids)} prompts but a classifier for {tensors['classifier.weight'].shape[0]} classes"
        )
    tensors[BANK] = torch.stack([prompts[i] for i in ids])  # (C, 1, D)
    tensors |= {f"backbone.encoder.{name}": tensor for name, tensor in encoder.items()}
    adapters = [tensor for name, tensor in encoder.items() if ".lora_A." in name]
    lora = LoraSettings(lora_r=adapters[0].shape[0], lora_alpha=_ALPHA) if adapters else None
    spec, notes = _describe(path, encoder, model_name)
    return PaperModel(
        classes=ClassList(ids, tuple(str(i) for i in ids)),
        preprocess=spec.preprocess or spec.storage.default_preprocess(spec.input_shape),
        spec=spec,
        model=ModelConfig(tune="lora" if lora else "full"),
        lora=lora,
        tensors=tensors,
        notes=notes,
    )


def _describe(path: Path, encoder: Tensors, model_name: str | None) -> tuple[BackboneSpec, tuple[str, ...]]:
    """The backbone, and what had to be assumed of it."""
    family, size = _family_of(path, encoder)
    hidden = encoder["embeddings.cls_token"].shape[-1]
    patch = encoder["embeddings.patch_embeddings.projection.weight"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in encoder if name.startswith("layers."))
    if model_name is not None:
        named = describe_backbone(BackboneConfig(model_name=model_name))
        if named.family is not family:
            raise CheckpointError(f"{path} is a model of {family.noun}, but {model_name} takes {named.family.noun}")
        option = {family.size_option: size[family.size_option]}
        spec = describe_backbone(BackboneConfig(model_name=model_name, **option))
        shape = (spec.hidden_size, spec.config["patch_size"], spec.num_layers)
        if shape != (hidden, patch, depth):
            raise CheckpointError(
                f"{path} was trained on another backbone than {model_name}: width, patch, depth are "
                f"{(hidden, patch, depth)}, not {shape}"
            )
        default = spec.storage.default_preprocess(spec.input_shape)
        return dataclasses.replace(spec, preprocess=spec.preprocess or default), ()
    if hidden % _HEAD_WIDTH:
        raise CheckpointError(
            f"{path}: the number of attention heads cannot be told from width {hidden}; "
            "give the backbone with --model_name"
        )
    values = {
        "model_type": family.name,
        **size,
        "patch_size": patch,
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": hidden // _HEAD_WIDTH,
        "intermediate_size": encoder["layers.0.mlp.fc1.weight"].shape[0],
        "layer_norm_eps": 1e-12,
        "qkv_bias": "layers.0.attention.k_proj.bias" in encoder,
    }
    note = (
        f"the file says nothing of the backbone's configuration: assumed {hidden // _HEAD_WIDTH} heads of "
        f"{_HEAD_WIDTH}, and {family.assumption()} (give --model_name to say otherwise)"
    )
    spec = BackboneSpec("", values)
    return dataclasses.replace(spec, preprocess=spec.storage.default_preprocess(spec.input_shape)), (note,)


def _family_of(path: Path, encoder: Tensors) -> tuple[Family, HfConfig]:
    """The family that the weights are of, and the size of its input."""
    for family in FAMILIES:
        size = family.config_of(encoder)
        if size is not None:
            return family, size
    raise CheckpointError(f"{path} holds weights of no backbone that is known")
