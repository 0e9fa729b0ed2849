"""The script that measures published shapes, on small ones."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import backbones
from making.models import TINY
from making.speech import LARGE, RELATIVE, SMALL
from pfm.backbones.family import PRESETS


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shapes: dict[str, dict[str, Any]] = {
        "small_vit": {**TINY, "model_type": "vit"},
        "small_wavlm": {**SMALL, **RELATIVE, **LARGE, "model_type": "wavlm", "max_length": 20},
    }
    for name, values in shapes.items():
        monkeypatch.setitem(PRESETS, name, values)
    return [f"scratch:{name}" for name in shapes]


def call(*arguments: object) -> None:
    sys.argv = ["backbones.py", *map(str, arguments)]
    backbones.main()


@pytest.mark.slow
def test_shapes_are_measured_one_by_one_and_shown(
    small_shapes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)  # as before when this is over
    out = tmp_path / "backbones.json"
    settings = ("--rounds", 2, "--clip", 0.1, "--out", out)
    call(*settings, "--shapes", small_shapes[1])
    first = json.loads(out.read_text())
    call(*settings, "--shapes", *small_shapes)
    document = json.loads(out.read_text())
    assert document["shapes"][0] == first["shapes"][0]  # not measured again
    assert [found["shape"] for found in document["shapes"]] == small_shapes[::-1]
    for found in document["shapes"]:
        assert found["worst_difference_to_library"] < 1e-5
        assert found["worst_difference_to_torch"] < 1e-5
        assert set(found["latency_ms"]) == {"bundle", "torch", "library in torch", "library exported"}
    capsys.readouterr()
    call("--out", out, "--show")
    shown = capsys.readouterr().out
    assert "| scratch:small_wavlm, 0.1 s |" in shown
    with pytest.raises(SystemExit, match="of other settings"):
        call("--rounds", 3, "--out", out)
