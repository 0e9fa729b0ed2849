"""The same digest whatever computes it: sounds from files, several processes, several threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from making.exact import fit
from making.images import write_npz
from making.launching import ROOT, environment
from making.sounds import write_tones
from pfm.backbones.config import BackboneConfig
from pfm.backbones.spec import describe_backbone
from pfm.data.config import DataConfig
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData
from pfm.forgetting.erase import erase
from pfm.forgetting.samples import Removal, remove
from pfm.model.checkpoint import load_checkpoint

RAW = "scratch:raw_sounds"


def sounds(folder: Path) -> ClassificationData:
    storage = describe_backbone(BackboneConfig(model_name=RAW)).storage
    return load_data(DataConfig(dataset=f"audiofolder:{folder}", data_type="audio"), storage)


def test_sounds_are_forgotten_exactly_from_their_files(tmp_path: Path) -> None:
    tones = write_tones(tmp_path / "tones", train=6, test=2)
    full = fit(sounds(tones), tmp_path, model_name=RAW)
    sample = tones / "train" / "low" / "low_3.wav"
    one_less = remove(full, Removal(samples=[str(sample)]))
    assert one_less.num_samples == 1
    sample.unlink()
    assert one_less.digest == fit(sounds(tones), tmp_path, model_name=RAW).exact["digest"]
    for split in ("train", "test"):
        shutil.rmtree(tones / split / "high")
    without = fit(sounds(tones), tmp_path, model_name=RAW)
    assert erase(one_less.checkpoint, ["high"]).exact["digest"] == without.exact["digest"]
    assert torch.equal(erase(one_less.checkpoint, ["high"]).tensors["ridge.weight"], without.tensors["ridge.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "features", [("--features", "raw"), ("--model_name", "scratch:vit_mini", "--image_size", "16")]
)
def test_any_number_of_processes_and_threads_gives_the_same_bytes(tmp_path: Path, features: tuple[str, ...]) -> None:
    data = write_npz(tmp_path / "colours.npz", train=130, test=20)
    options = ["--dataset", str(data), "--readout", "ridge", *features, "--width", "64", "--eval_every", "0", "--cpu"]
    alone = [sys.executable, "-c", "from pfm.cli import main; main()", "train"]
    found = {}
    for name, command, threads in (
        ("one thread", alone, "1"),
        ("two threads", alone, "2"),
        ("two processes", [*torchrun(2), "pfm/train.py"], "1"),
        ("three processes", [*torchrun(3), "pfm/train.py"], "1"),
    ):
        folder = tmp_path / name.replace(" ", "_")
        where = {**environment(), "OMP_NUM_THREADS": threads}
        where["PYTHONPATH"] = os.pathsep.join(str(ROOT / part) for part in (".", "export", "bench"))
        subprocess.run([*command, *options, "--save_dir", str(folder)], cwd=ROOT, env=where, check=True, timeout=1800)
        (path,) = folder.glob("*.pt")
        made = load_checkpoint(path)
        found[name] = made.exact["digest"], made.tensors["ridge.weight"].numpy().tobytes()
        assert len(made.memory["rows.labels"]) == 130
    assert len(set(found.values())) == 1, {name: digest for name, (digest, _) in found.items()}


def torchrun(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
