"""Scrub by retraining: everything that is trained is trained again, without a sample of the classes.

The recipe, its seed and the backbone that it started from are those of before; what a frozen trunk makes of the
retained samples is computed once and kept while it trains, where there is room for it. No value of the result was
computed from a sample of the classes.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pfm.audit.comparisons.data import by_position, without_classes
from pfm.audit.comparisons.trained import recipe_of, undisturbed
from pfm.audit.subject import Loaded, as_subject
from pfm.classes import ClassKeys, check_removal
from pfm.data.room import DISK_SHARE, HOST_SHARE, free_disk, free_memory
from pfm.data.splits import ClassificationData, Split
from pfm.errors import ConfigError
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.training.config import RunConfig
from pfm.training.run import train


@dataclass(frozen=True, kw_only=True)
class RetrainReport:
    """What retraining took, and what it did to the classes that stay.

    Attributes:
        seconds: of the training, with the trunk's pass where its output was kept.
        cache_trunk: where that was kept while it trained; "off" where each step computed it.
        retain_before, retain_after: accuracy on the retained classes' test samples, in [0, 1]; before, of the model
            that the classes were erased from.
    """

    epochs: int
    seconds: float
    cache_trunk: str
    retain_before: float
    retain_after: float

    def describe(self) -> str:
        """One line for people."""
        kept = "" if self.cache_trunk == "off" else f", the frozen trunk's output kept ({self.cache_trunk})"
        return (
            f"trained again without the classes: {self.epochs} epochs in {self.seconds:.0f} s{kept}; retained "
            f"{100 * self.retain_before:.1f} % before, {100 * self.retain_after:.1f} % now"
        )

    def to_dict(self) -> dict[str, object]:
        return {"method": "retrain", **dataclasses.asdict(self)}


def retrain(
    full: Checkpoint,
    data: ClassificationData,
    keys: ClassKeys,
    device: torch.device,
    *,
    say: Callable[[str], None] = print,
) -> tuple[Checkpoint, RetrainReport]:
    """The checkpoint that its recipe makes of the retained samples, under the numbers that the classes have.

    Args:
        data: as `pfm train` loaded it for this model.

    Raises:
        ConfigError: the checkpoint does not say how it was trained, or its readout forgets exactly by erasing.
        ClassNameError: it does not have the classes, or no others.
    """
    positions = full.classes.positions(keys)
    check_removal(full.classes, positions)
    if full.exact:
        raise ConfigError("this readout is solved, and forgets a class exactly: pfm forget is enough")
    retained = without_classes(by_position(data, full), positions)
    recipe = recipe_of(full)
    smaller = erase(full, [full.classes.names[p] for p in positions])
    where = _cache_for(full, recipe, retained.train)
    with tempfile.TemporaryDirectory() as folder:
        settings = undisturbed(recipe.train, recipe.train.seed, folder)
        feed = dataclasses.replace(recipe.feed, cache_trunk=where)
        result = train(dataclasses.replace(recipe, train=settings, feed=feed), device, say, data=retained)
        made = load_checkpoint(result.checkpoint)
    again = dataclasses.replace(
        made,
        classes=smaller.classes,
        erased=smaller.erased,
        ledger_head=smaller.ledger_head,
        run=smaller.run,
        notes=smaller.notes,
        moments={},
        progress={},
    )
    report = RetrainReport(
        epochs=settings.epochs,
        seconds=round(result.seconds, 3),
        cache_trunk=where,
        retain_before=_accuracy(smaller, retained.test, device),
        retain_after=_accuracy(again, retained.test, device),
    )
    return again, report


def _cache_for(full: Checkpoint, recipe: RunConfig, split: Split) -> str:
    """Where the output of blocks that nothing trains is kept; "off" where there is none, or no room."""
    if recipe.feed.cache_trunk != "off":
        return recipe.feed.cache_trunk
    is_varied = recipe.augment.is_on or full.preprocess.is_cropped(split.inputs)
    if not full.model.prompt_layer or full.lora is None or is_varied:
        return "off"
    tokens = full.spec.num_patches + full.spec.num_special
    needed = len(split) * tokens * full.spec.hidden_size * 4
    if needed < HOST_SHARE * free_memory():
        return "host"
    return "disk" if needed < DISK_SHARE * free_disk() else "off"


def _accuracy(checkpoint: Checkpoint, test: Split, device: torch.device) -> float:
    """Share of right answers; labels are positions in the model."""
    subject = as_subject("asked", Loaded.of(checkpoint, device), checkpoint.classes.ids)
    return float((subject.log_probabilities(test).argmax(dim=1) == test.labels).double().mean())
