"""Which data, where it is kept and what is varied in it: the options, and what follows from a name alone."""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.classes import split_names
from pfm.data.decoding import DECODE, FIT, FIT_AUTO, FULL_DEPTH, read_window
from pfm.data.file_names import PREFIX, NamePattern
from pfm.data.groups import group_pattern
from pfm.data.kinds import KINDS
from pfm.data.limits import MOST_EXPANSION, MOST_PIXELS
from pfm.data.room import parse_size
from pfm.errors import ConfigError
from pfm.options import Section, expand_paths, option

if TYPE_CHECKING:
    from pfm.data.inputs import Storage

MEDMNIST_SIZES = (28, 64, 128, 224)
DEFAULT_KIND = "image"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and where it is."""

    section: ClassVar = Section.DATA
    of_training: ClassVar = ("fit", "depth", "decode")  # what a model keeps to for good
    dataset: str = option(
        "bloodmnist",
        "A MedMNIST name, a path to an .npz in MedMNIST's layout, imagefolder:PATH, audiofolder:PATH, "
        "a Hugging Face data set (name or local folder), or digits.",
        is_path=True,
    )
    data_type: str = option(DEFAULT_KIND, "Kind of input; audiofolder:PATH is audio anyway.", choices=KINDS.names)
    data_dir: str | None = option(None, "Folder of MedMNIST's .npz files.  [default: ~/.medmnist]", is_path=True)
    data_revision: str = option(
        "",
        "Branch, tag or commit of a data set of the hub; a checkpoint says which it was.  [default: what main is now]",
    )
    size: int = option(224, "Resolution of the MedMNIST files: 28, 64, 128 or 224.")
    class_names: str = option("", "Names of the classes, in order, separated by commas, where the data has none.")
    input_column: str = option(
        "", "Column of the inputs in a Hugging Face data set, or of the files in --table.  [default: found by its type]"
    )
    label_column: str = option(
        "", "Column of the labels in a Hugging Face data set, or in --table.  [default: found by its type or name]"
    )
    label_from: str = option(
        "",
        "Take the label from the file's name: name:PATTERN with fields in braces, such as "
        "'name:{digit}_{speaker}_{n}'; --label says which.  [default: the label column, or the folder]",
    )
    label: str = option("", "Field of --label_from that is the label.")
    table: str = option(
        "",
        "A CSV file with a row for each file of a folder: its name, and its label, group or split.  [default: a "
        "metadata.csv beside the files]",
        is_path=True,
    )
    split_column: str = option("", "Column of --table that holds the split.  [default: split, where there is one]")
    ignore: str = option("", "Folders of splits or classes to leave out, separated by commas.")
    group: str = option(
        "",
        "What samples belong together, such as a patient's: a column, folder (below the class's), dicom (the patient), "
        "or name:PATTERN with a field {group}. Samples that are held out never divide a group.",
    )
    hash_groups: str = option(
        "",
        "Store a keyed hash of each group instead of its name; the key is in this file, which is made where there is "
        "none.",
        is_path=True,
    )
    max_seconds: float = option(30.0, "What of a longer clip is read, in seconds (audio).", minimum=0.025)
    max_pixels: int = option(MOST_PIXELS, "Pixels of an image above which it is refused, not decoded.", minimum=1)
    max_expansion: int = option(
        MOST_EXPANSION,
        "Times its compressed size above which an array of an .npz that is also large (over 256 MiB) is refused.",
        minimum=1,
    )
    fit: str = option(
        FIT_AUTO,
        "How an image becomes square: stretched, its middle cut out, or with black beside; auto is what the backbone's "
        "processor does, or stretch.",
        choices=(FIT_AUTO, *FIT),
    )
    depth: str = option(
        FULL_DEPTH,
        "Of grey images with more than 8 bits, what becomes black and white: the full range of 16 bits, the range of "
        "the training images, or a window of levels such as 0:4095.",
    )
    decode: str = option(
        "fast",
        "Photographs are decoded straight to the model's size, JPEG at the nearest smaller scale (fast), or whole "
        "first (full).",
        choices=DECODE,
    )
    skip_bad: bool = option(False, "Leave out files that cannot be read, and count them, instead of stopping.")

    def __post_init__(self) -> None:
        expand_paths(self)
        if not self.folder:
            raise ConfigError(f"--dataset {self.dataset!r} names no data set; . behind imagefolder: is the folder here")
        if self.size not in MEDMNIST_SIZES:
            raise ConfigError(f"--size {self.size} is not a MedMNIST resolution; choose 28, 64, 128 or 224")
        if self.data_revision and not self.may_be_of_hub:
            raise ConfigError(f"--data_revision is for data sets of the hub; {self.dataset} is not one")
        if self.label_from and not self.label_from.startswith(PREFIX):
            raise ConfigError(
                f"--label_from {self.label_from!r} is not a pattern; give {PREFIX}PATTERN, or leave it out"
            )
        if bool(self.label_from) != bool(self.label):
            raise ConfigError("--label_from and --label go together: the pattern, and which of its fields is the label")
        if self.label_from:
            _ = self.name_pattern
        _ = read_window(self.depth), group_pattern(self.group)
        if self.hash_groups and not self.group:
            raise ConfigError("--hash_groups is for groups, and there are none; give --group")
        if self.split_column and not self.table:
            raise ConfigError("--split_column names a column of --table; give that too")
        if self.data_type not in (DEFAULT_KIND, self.kind):
            self._refuse(f"--dataset {self.dataset}", self.kind)

    @property
    def kind(self) -> str:
        """Name of the kind of input: of the folder, or what `--data_type` says."""
        of_folder = (kind for kind in KINDS.names() if self.dataset.startswith(KINDS.get(kind).storage.folder_prefix))
        return next(of_folder, self.data_type)

    def check_storage(self, storage: "Storage") -> None:
        """Refuse a model that takes inputs of another kind.

        Raises:
            ConfigError: it does.
        """
        if self.kind != storage.kind:
            noun = KINDS.get(self.kind).storage.noun
            raise ConfigError(
                f"--dataset {self.dataset} holds {noun}, but the model takes {storage.noun}{storage.how_to_ask}"
            )

    def check_kind(self, found: str) -> None:
        """Refuse another kind of input than the source has.

        Args:
            found: the kind that it has.

        Raises:
            ConfigError: it was asked for another one.
        """
        if self.kind != found:
            self._refuse(self.dataset, found)

    def _refuse(self, dataset: str, found: str) -> None:
        """The data is of kind `found`, and `--data_type` says otherwise."""
        wanted = KINDS.get(self.data_type).storage
        noun = KINDS.get(found).storage.noun
        raise ConfigError(f"--data_type {self.data_type}, but {dataset} holds {noun}; use {wanted.folder_prefix}PATH")

    @property
    def name_pattern(self) -> NamePattern | None:
        """How labels are read off file names, if they are."""
        return NamePattern(self.label_from.removeprefix(PREFIX), self.label) if self.label_from else None

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the folders to leave out."""
        return tuple(split_names(self.ignore)) if self.ignore else ()

    @property
    def folder(self) -> str:
        """The data set's name, or the folder, without the prefix."""
        return self.dataset.removeprefix(KINDS.get(self.kind).storage.folder_prefix)

    def placed(self) -> "DataConfig":
        """The same with whole paths, so that a command in any folder finds the data; a name stays a name."""
        prefix = self.dataset.removesuffix(self.folder)
        changes = {"dataset": prefix + os.path.abspath(self.folder)} if prefix or _is_path(self.dataset) else {}
        for name in ("data_dir", "table", "hash_groups"):
            if value := getattr(self, name):
                changes[name] = os.path.abspath(value)
        return dataclasses.replace(self, **changes)

    @property
    def may_be_of_hub(self) -> bool:
        """Whether the data set is neither a path nor a name of our own."""
        return self.place is None and _OWN_NAMES.fullmatch(self.dataset) is None

    @property
    def place(self) -> Path | None:
        """Where the data is, if that is a path."""
        return Path(self.folder) if self.dataset != self.folder or _is_path(self.dataset) else None

    @property
    def short_name(self) -> str:
        """The data set's name as it stands in file names; with --label_from, behind it the field that is the label."""
        path = self.folder
        if self.dataset == path and not _looks_like_path(path):
            name = path.replace("/", "_")
        else:
            name = Path(path).resolve().name.removesuffix(".npz")
        return f"{name}_{self.label}" if self.label else name


_OWN_NAMES = re.compile(r"digits|\w+mnist(3d)?")  # which win over a folder that is called so


def _is_path(name: str) -> bool:
    return _looks_like_path(name) and _OWN_NAMES.fullmatch(name) is None


def _looks_like_path(name: str) -> bool:
    return name.endswith(".npz") or name.startswith((".", "/", "~")) or Path(name).exists()


@dataclass(frozen=True, kw_only=True)
class ImageAugmentConfig:
    """What is varied in training images."""

    section: ClassVar = Section.AUGMENTATION
    shift: int = option(0, "Shift each training image by up to this many stored pixels each way.", minimum=0)
    hflip: bool = option(False, "Mirror half of the training images left to right.")


@dataclass(frozen=True, kw_only=True)
class TimeAugmentConfig:
    """What is varied in training clips, whatever they are stored as."""

    section: ClassVar = Section.AUGMENTATION
    time_shift: int = option(0, "Shift each training clip by up to this many frames (10 ms) each way.", minimum=0)
    time_mask: int = option(0, "SpecAugment: blot out up to this many frames of each training clip.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class SoundAugmentConfig(TimeAugmentConfig):
    """What is varied in training clips that are stored as log-mel features."""

    section: ClassVar = Section.AUGMENTATION
    mel_mask: int = option(0, "SpecAugment: blot out up to this many mel bins of each training clip.", minimum=0)


# the fields of the last base come first
@dataclass(frozen=True, kw_only=True)
class AugmentConfig(SoundAugmentConfig, ImageAugmentConfig):
    """What is varied in training inputs; only what is for the kind of input at hand may be given."""

    @property
    def is_on(self) -> bool:
        return bool(self._given(type(self)))

    def _given(self, options: type[Any]) -> list[str]:
        """Those of the options that are on."""
        return [entry.name for entry in dataclasses.fields(options) if getattr(self, entry.name)]

    def check_kind(self, storage: "Storage") -> None:
        """Refuse what is for another kind of input.

        Raises:
            ConfigError: which options.
        """
        own = {entry.name for entry in dataclasses.fields(storage.augment_config)}
        for kind in KINDS:
            flags = ", ".join(f"--{name}" for name in self._given(kind.storage.augment_config) if name not in own)
            if flags and issubclass(kind.storage.augment_config, storage.augment_config):
                raise ConfigError(f"not for the {storage.noun} that this model takes: {flags}; leave it out")
            if flags:
                raise ConfigError(f"for {kind.storage.noun} only: {flags}; this data has none")


@dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """Where inputs, and what a frozen trunk makes of them, are kept."""

    section: ClassVar = Section.SPEED
    data_on: str = option(
        "auto",
        "Where decoded inputs are kept: on the device, in host memory or in a temporary file, once for all processes "
        "of a host; or nowhere, and they are decoded again in each epoch. auto is the first of these with room.",
        choices=("auto", "device", "host", "disk", "decode"),
    )
    data_memory: str = option(
        "", "Host memory that auto may take for them, such as 4GB.  [default: half of what is free]"
    )
    data_workers: int | None = option(
        None, "Processes that decode files; 0: none but this one.  [default: the cores there are]", minimum=0
    )
    cache: str | None = option(
        None,
        "Folder that keeps decoded inputs for later commands, until the files or the options change; pfm show lists "
        "what it holds, pfm forget erases it.  [default: none]",
        is_path=True,
    )
    num_workers: int = option(
        2, "Threads that gather batches ahead where inputs are not on the device; 0: none.", minimum=0
    )
    cache_trunk: str = option(
        "off",
        "Keep the output of the frozen blocks below --prompt_layer, computed once for each image: on the device, in "
        "host memory, or in a temporary file that vanishes with the run.",
        choices=("off", "device", "host", "disk"),
    )

    def __post_init__(self) -> None:
        expand_paths(self)
        _ = self.memory_bytes

    @property
    def memory_bytes(self) -> int | None:
        """What `--data_memory` says; None where it says nothing.

        Raises:
            ConfigError: it is not a size.
        """
        return parse_size(self.data_memory, "--data_memory") if self.data_memory else None
