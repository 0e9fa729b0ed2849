"""Runs of any family by its case's name: a small model in a folder, data that it learns, and commands over both."""

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import torch

from making.families import CASES, MORE
from making.images import write_npz
from making.logs import log_records
from making.models import tiny_model
from making.sounds import write_tones
from making.speech import MORE_SPEECH, SPEECH
from making.timm_files import small_vit, write_timm
from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone
from pfm.cli import pfm, run
from pfm.model.checkpoint import Checkpoint, snapshot

IMAGES = (*(name for name in CASES if name != "vit"), "dinov2-swiglu", "siglip-mean", "timm")
FAMILIES = (*IMAGES, *SPEECH)
# one with rotary positions, those without CLS, one in timm's layout, all of samples
SEVERAL = ("dinov3_vit", "siglip_vision_model", "siglip-mean", "timm", *SPEECH)
FORKSERVER = multiprocessing.get_context("forkserver")  # imports are done once
FORKSERVER.set_forkserver_preload(["pfm.commands.train", "transformers", "peft"])


def make_backbone(name: str, folder: Path) -> Path:
    """Two blocks of a family in the layout that its models come in."""
    if name == "timm":
        return write_timm(folder, "vit_tiny_patch16_224", small_vit(depth=2))
    ({**CASES, **MORE, **SPEECH, **MORE_SPEECH})[name].make(folder)
    return folder


def family_checkpoint(name: str, **changes: Any) -> Checkpoint:
    """A model of a family with four classes, trained whole, as it comes out of training."""
    with tempfile.TemporaryDirectory() as temporary:
        backbone = make_backbone(name, Path(temporary) / "backbone")
        spec = describe_backbone(BackboneConfig(model_name=str(backbone), max_length=16 if name in SPEECH else None))
        model = tiny_model(backbone=build_backbone(spec, seed=0), **changes)
    preprocess = spec.preprocess or spec.family.constant_preprocess(spec.config)
    return snapshot(model, spec=spec, preprocess=preprocess, lora=None)


def write_data(folder: Path) -> dict[bool, str]:
    """What `--dataset` is given: colours, and under True tones, clips of unlike length."""
    colours = write_npz(folder / "data.npz", size=16, train=40, test=12)
    tones = write_tones(folder / "data", train=6, test=3, seconds=0.2)
    return {False: str(colours), True: f"audiofolder:{tones}"}


def options(name: str, backbone: Path, data: dict[bool, str], folder: str | Path, *more: object) -> list[str]:
    """`pfm train` on the data of the family's kind; runs are called `data` whatever they hear or see."""
    given = ["train", "--dataset", data[name in SPEECH], "--model_name", backbone, "--save_dir", folder, "--epochs", 2,
             "--batch_size", 8, "--lr", 0.003, "--optimizer", "adamw", "--log_every", 1, "--eval_every", 0, "--cpu",
             *more]  # fmt: skip
    return [str(argument) for argument in given]


def call(*arguments: object) -> None:
    """A command of ours, which has to go well."""
    assert run(pfm, [str(argument) for argument in arguments]) == 0


def losses(folder: Path) -> list[float]:
    """Of each step of a run."""
    (log,) = folder.glob("*_log.jsonl")
    return [record["loss"] for record in log_records(log) if record["event"] == "step"]


def killed(arguments: list[str], folder: Path, *, after: int) -> int:
    """Run a command in a process that kills itself once it has put the `after`th file of weights in its place.

    Returns:
        The process's exit code, below 0 where a signal ended it.
    """
    process: Any = FORKSERVER.Process(target=_die, args=(arguments, str(folder), after))
    process.start()
    process.join(1800)
    return process.exitcode


def _die(arguments: list[str], folder: str, after: int) -> None:
    replace, left = os.replace, [after]

    def dying(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        left[0] -= Path(target).suffix == ".pt"
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying
    os.chdir(folder)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        raise SystemExit(run(pfm, arguments))
