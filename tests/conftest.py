"""Tiny real models and data, made on the spot; no downloads, no network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread each; models this small are all overhead
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from pathlib import Path

import pytest

from making.images import write_npz
from making.models import TINY, TINY_AST
from making.sounds import write_tones
from pfm.backbones.family import PRESETS


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "colours.npz")


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
