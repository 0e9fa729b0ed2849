"""Checkpoints of tiny models, as they come out of training."""

import dataclasses
from typing import Any

import torch

from making.models import tiny_ast_backbone, tiny_ast_spec, tiny_backbone, tiny_model, tiny_spec
from pfm.backbones.loading import build_backbone, frozen_sha256
from pfm.data.images import ImagePreprocess
from pfm.data.sounds import SoundPreprocess
from pfm.model.checkpoint import Checkpoint, RunState, snapshot
from pfm.model.config import LoraSettings

PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
VARIANTS = {
    "cls": {"readout": "cls"},
    "cls-lora-norm-tokens": {"readout": "cls", "final_norm": True, "prompt_tokens": 3, "prompt_layer": 1},
    "prompt": {"readout": "prompt", "wrong_target": "none"},
    "prompt-tokens": {"readout": "prompt", "prompt_tokens": 2},
}


def image_checkpoint(name: str = "cls") -> Checkpoint:
    """One of VARIANTS, as it is after it was saved and loaded."""
    spec = dataclasses.replace(tiny_spec(), preprocess=PREPROCESS)
    lora = LoraSettings() if "lora" in name else None
    if lora:
        backbone = build_backbone(spec, seed=5)
        frozen = frozen_sha256(backbone)
        model = tiny_model(backbone=backbone, lora=lora, **VARIANTS[name])  # type: ignore[arg-type]
        return snapshot(
            model, spec=spec, preprocess=PREPROCESS, lora=lora, frozen_sha256=frozen, state=RunState(seed=5)
        )
    model = tiny_model(**VARIANTS[name])  # type: ignore[arg-type]
    return snapshot(model, spec=spec, preprocess=PREPROCESS, lora=None)


BICUBIC = dataclasses.replace(PREPROCESS, resample="bicubic")


def deep_prompt_checkpoint() -> Checkpoint:
    model = tiny_model(readout="prompt", wrong_target="none", prompt_layer=1)
    return snapshot(model, spec=tiny_spec(), preprocess=BICUBIC, lora=None)


SOUND_PREPROCESS = SoundPreprocess(max_length=32, mean=-6.0, std=3.0, num_mel_bins=16)
SOUND_VARIANTS: dict[str, dict[str, Any]] = {
    "cls": {"readout": "cls"},
    "cls-lora": {"readout": "cls", "prompt_tokens": 2, "prompt_layer": 1},
    "prompt": {"readout": "prompt", "wrong_target": "none"},
    "prompt-deep": {"readout": "prompt", "prompt_layer": 1},
}


def sound_checkpoint(name: str) -> Checkpoint:
    """One of SOUND_VARIANTS, as it is after it was saved and loaded."""
    spec = dataclasses.replace(tiny_ast_spec(), preprocess=SOUND_PREPROCESS)
    lora = LoraSettings(lora_r=2) if "lora" in name else None
    if lora is None:
        model = tiny_model(backbone=tiny_ast_backbone(), **SOUND_VARIANTS[name])
        return snapshot(model, spec=spec, preprocess=SOUND_PREPROCESS, lora=None)
    backbone = build_backbone(spec, seed=5)
    frozen = frozen_sha256(backbone)
    model = tiny_model(backbone=backbone, lora=lora, **SOUND_VARIANTS[name])
    return snapshot(
        model, spec=spec, preprocess=SOUND_PREPROCESS, lora=lora, frozen_sha256=frozen, state=RunState(seed=5)
    )


BLUE = 2


def trained_state(seed: int = 0, readout: str = "cls") -> Checkpoint:
    """A model in training: with moments, an average, and a position to go on from; of one block, of which each has."""
    model = tiny_model(backbone=tiny_backbone(num_hidden_layers=1), readout=readout)
    optimizer = torch.optim.Adam(model.trained_tensors().values())
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(5, 3, 8, 8, generator=generator)
    for _ in range(2):
        logits = model.logits(inputs, torch.tensor([[0, 1, 2, 3]] * 5))
        (logits.square() * torch.tensor([1.0, 2.0, 3.0, 4.0])).mean().backward()
        optimizer.step()
    averaged = {name: tensor.detach() * 1.01 + 0.003 for name, tensor in model.trained_tensors().items()}
    preprocess = ImagePreprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return snapshot(
        model,
        spec=tiny_spec(num_hidden_layers=1),
        preprocess=preprocess,
        lora=None,
        optimizer=optimizer,
        state=RunState(averaged=averaged, progress={"epoch": 1, "history": {"class_2": [0.5]}}),
    )


def same_bytes(first: Checkpoint, second: Checkpoint) -> bool:
    pairs = [(first.tensors, second.tensors), (first.averaged, second.averaged)]
    pairs += [(first.moments[name], second.moments[name]) for name in first.moments]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)
