"""A backbone with its weights: pretrained ones read into our encoder, or initial ones from a seed."""

import hashlib
from pathlib import Path

import torch

from pfm.backbones.backbone import Backbone
from pfm.backbones.family import Tensors
from pfm.backbones.hub import read_weights
from pfm.backbones.limits import check_stored, stored_bytes
from pfm.backbones.spec import BackboneSpec


def build_backbone(spec: BackboneSpec, *, seed: int, load_weights: bool = True) -> Backbone:
    """Make the backbone a spec describes.

    Args:
        seed: of the initial weights where there are no pretrained ones; the global generator is not touched.
        load_weights: False leaves pretrained weights out, for a caller that loads its own.

    Raises:
        BackboneError: weights that are missing, cannot be read or have another shape.
    """
    family = spec.family
    if spec.is_pretrained and load_weights:
        folder = Path(spec.model_name).expanduser()
        if folder.is_dir():
            check_stored(spec.config, stored_bytes(folder), spec.model_name)
        stored, weights = read_weights(family, spec.model_name, spec.commit)
        weights = family.at_size(family.names(weights), stored, spec.config)
    else:
        weights = family.names(_initial_weights(spec, seed))
    with torch.device("meta"):
        encoder = family.encoder(spec.config)
    own = {name: weights[name] for name in encoder.state_dict()}
    encoder.load_state_dict(own, assign=True)
    return Backbone(encoder, spec)


def _initial_weights(spec: BackboneSpec, seed: int) -> Tensors:
    """Weights as the library initialises them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.family.initial_weights(spec.config)


def frozen_sha256(backbone: Backbone) -> str:
    """SHA-256 over the frozen weights, adapters left out: a checkpoint that does not hold them names them by it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.encoder.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
    return digest.hexdigest()
