"""The compared models that have to be trained, each once, and kept by a hash of what it was made of.

- retrained (oracle): the same recipe, without any sample of the classes;
- fine-tuned: the erased model, trained on with the retained samples;
- shadow: the same recipe on half of the samples, for the membership attacks.
"""

import contextlib
import dataclasses
import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pfm.audit.comparisons.data import split_checksum, without_classes
from pfm.audit.comparisons.tuning import tune
from pfm.data.splits import ClassificationData
from pfm.errors import ConfigError, FolderInUseError
from pfm.forgetting.erase import erase
from pfm.forgetting.ledger import canonical
from pfm.holding import run_in, running, writing
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfm.model.starts import STARTS
from pfm.seeds import make_generator
from pfm.storage import make_folder, sha256_bytes, write_json
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.run import train

RETRAINED, SHADOW = "retrained", "shadow"
Job = tuple[str, int]  # one of these, and which of them
NOTE = "made.json"  # beside a model that was kept


@dataclass(frozen=True)
class Trained:
    """A model that was trained to be compared with, and what that took in seconds."""

    checkpoint: Checkpoint
    seconds: float


@dataclass(frozen=True)
class Shadow:
    """A model of a random half of all samples.

    Attributes:
        is_in: (N train + N test,) bool, which samples it had.
    """

    trained: Trained
    is_in: torch.Tensor


def recipe_of(checkpoint: Checkpoint) -> RunConfig:
    """The training run a checkpoint came from; of what is from a hub, at the commit that it was of then.

    Raises:
        ConfigError: the file does not say.
    """
    if not checkpoint.run:
        raise ConfigError(
            "the checkpoint does not say how it was trained, so nothing can be trained like it; audit one of pfm train"
        )
    # the models that are compared start as this one did; of secret keys, from some of their own that nobody keeps
    start = {"prompt_start": checkpoint.prompt_start}
    pinned = {"backbone": {"revision": checkpoint.spec.commit}, "data": {"data_revision": checkpoint.data_commit}}
    known = {
        section: {**checkpoint.run.get(section, {}), **{name: commit for name, commit in commits.items() if commit}}
        for section, commits in pinned.items()
    }
    return RunConfig.from_dict({**checkpoint.run, **known, "start": start})


def undisturbed(settings: TrainConfig, seed: int, save_dir: str) -> TrainConfig:
    """The same training from beginning to end: no evaluation stops it or chooses an epoch, one file is written."""
    return dataclasses.replace(
        settings, seed=seed, save_every=0, save_steps=0, keep=0, eval_every=0, best_metric="", patience=0,
        resume="", report_to="", save_dir=save_dir,
    )  # fmt: skip


class Comparisons:
    """Trains what is asked for, or takes it from `folder`.

    Args:
        data: `by_position` of the full model.
        positions: of the classes to be forgotten.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: ClassificationData,
        positions: Sequence[int],
        folder: Path,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.checkpoint = checkpoint
        if STARTS.get(checkpoint.prompt_start).samples:  # whoever trains which model, in which process
            data = dataclasses.replace(data, train=data.train.with_contents(), test=data.test.with_contents())
        self.data = data
        self.positions = list(positions)
        self.folder = folder
        self.device = device
        self.say = say
        self.recipe = recipe_of(checkpoint)
        self._places: dict[Job, Path] = {}

    def retrained(self, number: int = 0) -> Trained:
        """The oracle: the recipe without the classes; the first with the full model's own seed, others beside it."""
        data, seed = self._oracle(number)
        return self._trained(f"retrained (seed {seed})", data, seed)

    def shadow(self, number: int) -> Shadow:
        """A model of a random half of all samples.

        Shadows 2k and 2k + 1 have complementary halves, so that each sample is in one of them.
        """
        data, is_in, seed = self._half(number)
        return Shadow(self._trained(f"shadow {number + 1}", data, seed), is_in)

    def finetuned(self) -> Trained:
        """The erased model, trained on with the retained samples for a tenth of the recipe's epochs."""
        names = [self.checkpoint.classes.names[p] for p in self.positions]
        smaller = erase(self.checkpoint, names)
        data = without_classes(self.data, self.positions)
        epochs = max(1, round(0.1 * self.recipe.train.epochs))
        key: dict[str, object] = {"start": _checksum(smaller), "epochs": epochs, "data": split_checksum(data.train)}

        def make(_: Path) -> Checkpoint:
            model = smaller.build_model().to(self.device)
            tune(model, data.train, smaller, self.recipe, epochs=epochs, lr=0.3 * self.recipe.train.lr)
            trained = {name: tensor.detach().cpu() for name, tensor in model.trained_tensors().items()}
            return dataclasses.replace(smaller, tensors={**smaller.tensors, **trained}, averaged={}, moments={})

        return self._kept("fine-tuned", key, make)

    def is_kept(self, job: Job) -> bool:
        """Whether an oracle or a shadow was trained before."""
        return (self._place_of(job) / NOTE).exists()

    def make_if_free(self, job: Job) -> None:
        """Train an oracle or a shadow unless it is there, or another process is at it."""
        if run_in(self._place_of(job)) is not None:
            return
        what, number = job
        with contextlib.suppress(FolderInUseError):  # it began at the same moment
            _ = self.retrained(number) if what == RETRAINED else self.shadow(number)

    def _place_of(self, job: Job) -> Path:
        """Its folder; worked out once, since it hangs on the samples."""
        if job not in self._places:
            what, number = job
            if what == RETRAINED:
                data, seed = self._oracle(number)
            else:
                data, _, seed = self._half(number)
            self._places[job] = self._place(self._key(data, self._recipe(seed)))
        return self._places[job]

    def _oracle(self, number: int) -> tuple[ClassificationData, int]:
        """Data and seed."""
        return without_classes(self.data, self.positions), self.recipe.train.seed + number

    def _half(self, number: int) -> tuple[ClassificationData, torch.Tensor, int]:
        """Data, which samples are in it, and seed."""
        pool = self.data.train.followed_by(self.data.test)
        order = torch.randperm(len(pool), generator=make_generator("shadow", number // 2))
        half = order[: len(pool) // 2] if number % 2 == 0 else order[len(pool) // 2 :]
        is_in = torch.zeros(len(pool), dtype=torch.bool)
        is_in[half] = True
        return dataclasses.replace(self.data, train=pool.subset(half), val=None), is_in, 1000 + number

    def _recipe(self, seed: int) -> RunConfig:
        return dataclasses.replace(self.recipe, train=undisturbed(self.recipe.train, seed, ""))

    def _key(self, data: ClassificationData, recipe: RunConfig) -> dict[str, object]:
        return {
            "config": recipe.to_dict(),
            "classes": list(data.classes.names),
            "data": split_checksum(data.train),
            "frozen": self.checkpoint.frozen_sha256,
        }

    def _place(self, key: dict[str, object]) -> Path:
        return self.folder / sha256_bytes(canonical(key))[:16]

    def _trained(self, name: str, data: ClassificationData, seed: int) -> Trained:
        recipe = self._recipe(seed)
        settings = recipe.train

        def make(folder: Path) -> Checkpoint:
            here = dataclasses.replace(recipe, train=dataclasses.replace(settings, save_dir=str(folder / "run")))
            result = train(here, self.device, lambda _: None, data=data)
            return dataclasses.replace(load_checkpoint(result.checkpoint), moments={}, progress={})

        return self._kept(name, self._key(data, recipe), make)

    def _kept(self, name: str, key: dict[str, object], make: Callable[[Path], Checkpoint]) -> Trained:
        folder = self._place(key)
        path, note = folder / "model.pt", folder / NOTE
        if note.exists():
            self.say(f"{name}: taken from {folder}")
            return _read(folder)
        self.say(f"{name}: training …")
        make_folder(folder)
        with running(folder, self.checkpoint.classes):
            if note.exists():  # by another process, a moment ago
                return _read(folder)
            started = time.monotonic()
            made = make(folder)
            seconds = time.monotonic() - started
            with writing(folder, made.classes.names):
                save_checkpoint(path, made)
            write_json(note, {"name": name, "seconds": round(seconds, 3), "key": key})
        return Trained(made, seconds)


def _read(folder: Path) -> Trained:
    return Trained(load_checkpoint(folder / "model.pt"), json.loads((folder / NOTE).read_text())["seconds"])


def _checksum(checkpoint: Checkpoint) -> int:
    """CRC-32 of the trained tensors and their names."""
    total = 0
    for name, tensor in sorted({**checkpoint.tensors, **checkpoint.averaged}.items()):
        total = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), total))
    return total
