"""Tiny real models and data, made on the spot; no downloads, no network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread each; models this small are all overhead
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pfm.backbones.backbone import AST, PRESETS, Backbone, BackboneSpec, build_backbone
from pfm.classes import ClassList
from pfm.model.classifier import ModelConfig, PromptedClassifier
from pfm.model.lora import LoraSettings

NAMES = ("red", "green", "blue", "grey")
TINY = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-6,
}

TINY_AST: dict[str, int | float] = {
    "max_length": 32,
    "num_mel_bins": 16,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
PITCHES = {"low": 300.0, "middle": 700.0, "high": 1500.0, "top": 3000.0}  # classes of the tone data, in Hz


def tiny_spec(**changes: Any) -> BackboneSpec:
    return BackboneSpec("scratch:vit_digits", {**TINY, **changes})


def tiny_ast_spec(**changes: Any) -> BackboneSpec:
    """Sounds of 32 frames of 16 mel bins, in 2 x 4 patches."""
    return BackboneSpec("scratch:ast_mini", {"model_type": AST, **TINY_AST, "layer_norm_eps": 1e-6, **changes})


def tiny_backbone(**changes: Any) -> Backbone:
    """Two blocks, width 32, on 2 x 2 patches; weights large enough that outputs differ."""
    return spread_out(build_backbone(tiny_spec(**changes), seed=1))


def tiny_ast_backbone() -> Backbone:
    """The same for sounds."""
    return spread_out(build_backbone(tiny_ast_spec(), seed=1))


def spread_out(backbone: Backbone) -> Backbone:
    """With noise on every weight."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in backbone.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return backbone


def tiny_model(
    *, num_classes: int = 4, lora: LoraSettings | None = None, backbone: Backbone | None = None, **changes: Any
) -> PromptedClassifier:
    torch.manual_seed(3)
    names = NAMES[:num_classes] if num_classes <= len(NAMES) else [f"class{i}" for i in range(num_classes)]
    model = PromptedClassifier(
        backbone or tiny_backbone(), ClassList.from_names(list(names)), ModelConfig(**changes), lora
    )
    for name, tensor in model.named_parameters():
        if "lora_B" in name:  # starts at zero, which would hide a missing merge
            torch.nn.init.normal_(tensor, std=0.3)
    return model.eval()


def coloured_images(count: int, *, num_classes: int = 4, size: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, size, size, 3) whose colour tells the class, and labels (count, 1), as MedMNIST stores them."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % num_classes
    colours = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [128, 128, 128]])[labels % 4]
    noise = random.integers(-30, 30, (count, size, size, 3))
    return (colours[:, None, None] + noise).clip(0, 255).astype(np.uint8), labels[:, None].astype(np.uint8)


def write_npz(
    path: Path, *, num_classes: int = 4, train: int = 64, test: int = 22, size: int = 8, **changes: Any
) -> Path:
    """A file in MedMNIST's layout; `changes` replace or add arrays, None removes one."""
    arrays: dict[str, Any] = {}
    for split, count in (("train", train), ("test", test)):
        images, labels = coloured_images(count, num_classes=num_classes, size=size, seed=len(split))
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **arrays)
    return path


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "colours.npz")


def tone(pitch: float, seconds: float, *, rate: int = 8000, seed: int = 0) -> np.ndarray:
    """(n,) float32: a pitch with some noise, in [-1, 1]."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    sound = 0.5 * np.sin(2 * np.pi * (pitch * times + random.random()))
    return (sound + 0.02 * random.standard_normal(len(times))).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    """Samples (n,) or (n, c) in [-1, 1] as PCM of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def write_tones(
    folder: Path, *, train: int = 10, test: int = 4, seconds: float = 0.3, classes: tuple[str, ...] = tuple(PITCHES)
) -> Path:
    """PATH/train/<class>/… and PATH/test/<class>/… of clips whose pitch tells the class, 8 kHz, up to `seconds`.

    Args:
        train, test: clips of each class; 0 leaves the split out.
    """
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            for name in classes:
                length = seconds * (0.7 + 0.3 * number / max(count - 1, 1))
                samples = tone(PITCHES[name], length, seed=number + 1000 * len(split))
                write_wav(folder / split / name / f"{name}_{number}.wav", samples)
    return folder


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    return write_tones(tmp_path / "tones")


@pytest.fixture
def sound_preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset of sounds that trains in a moment."""
    monkeypatch.setitem(PRESETS, "tiny_ast", TINY_AST)
    return "scratch:tiny_ast"


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset that trains in a moment."""
    monkeypatch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
    return "scratch:tiny"


def train_arguments(dataset: str | Path, folder: Path, *more: str) -> list[str]:
    return [
        "train", "--dataset", str(dataset), "--model_name", "scratch:tiny", "--epochs", "2", "--lr", "0.01",
        "--save_dir", str(folder), "--cpu", *more,
    ]  # fmt: skip


def train_on_sounds(dataset: str | Path, folder: Path, *more: str) -> list[str]:
    return [*train_arguments(f"audiofolder:{dataset}", folder), "--model_name", "scratch:tiny_ast", *more]
