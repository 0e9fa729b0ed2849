"""`pfm bench forget` at a tiny size: figures derived from raw samples, and the checkpoint left as it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from making.commands import train_arguments
from making.images import write_npz
from making.models import NAMES
from pfm.cli import pfm, run
from pfm_bench.scenarios import forgetting


@pytest.mark.slow
@pytest.mark.usefixtures("preset")
def test_an_erasure_is_timed_beside_what_it_replaces(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npz = write_npz(tmp_path / "colours.npz", train=32, test=16)
    arguments = train_arguments(npz, tmp_path, "--eval_every", "0", "--save_every", "0")
    assert run(pfm, [*arguments, "--epochs", "1", "--class_names", ",".join(NAMES)]) == 0
    (ckpt,) = tmp_path.glob("*.pt")
    before = ckpt.read_bytes()
    # a bundle of these classes that is there already
    monkeypatch.setattr(forgetting, "export_bundle", lambda _, folder: shutil.copytree(bundle, folder))
    out = tmp_path / "out"
    common = ["bench", "forget", "--ckpt", str(ckpt), "--rounds", "5", "--out", str(out)]
    assert run(pfm, [*common, "--classes", "2"]) == 0
    document = json.loads((out / "forget.json").read_text())
    assert set(document["erase_to_first_prediction"]) == {"bundle", "checkpoint"}
    for found in document["erase_to_first_prediction"].values():
        assert len(found["latency_ms"]) == 5
        assert found["p50_ms"] == pytest.approx(np.median(found["latency_ms"]))
        assert min(found["latency_ms"]) > 0
    assert document["retrain_s"] > 0
    assert ckpt.read_bytes() == before
    capsys.readouterr()
    assert run(pfm, [*common, "--classes", "pink"]) == 2
    assert "no class 'pink'" in capsys.readouterr().err
