"""From splits by name to a data set: which one is trained on, which one tested on, and what is held out."""

from collections.abc import Iterable, Mapping

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.splits import ClassificationData, Split, class_list, split_off_test

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}


def role_of(name: str) -> str | None:
    """What a split of this name is for, "train", "val" or "test"; None where it is not one, such as `test_simple`."""
    return next((role for role, names in SPLIT_NAMES.items() if name.lower() in names), None)


def as_data(
    config: DataConfig,
    splits: Mapping[str, Split],
    names: list[str],
    storage: Storage,
    *,
    called: Mapping[str, str],
    notes: Iterable[str] = (),
) -> ClassificationData:
    """A data set of the splits that a source has, a test split held out where it has none.

    Args:
        splits: by role; one for training at the least.
        names: of the classes.
        storage: how the inputs are stored.
        called: what the source calls the split of each role.
        notes: of what was read.

    Raises:
        DataError: too small to hold a test split out.
    """
    name, notes, splits = config.short_name, tuple(notes), dict(splits)
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes += (f"no test split in the source: tested on {called['val']!r}",)
    elif "test" not in splits:
        splits["train"], splits["test"], note = split_off_test(splits["train"], name, names)
        notes += (note,)
    classes = class_list(config, names)
    return ClassificationData(name, classes, splits["train"], splits["test"], splits.get("val"), notes, storage)
