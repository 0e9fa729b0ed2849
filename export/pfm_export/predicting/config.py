"""How files are classified and what is written of it, as options; imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from pfm.options import Section, option
from pfm_export.serving.devices import DEVICES

DEFAULT_FORMAT = "csv"
FORMATS = ("csv", "jsonl")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which classes may be answered, how the files are read, and how the answers are written."""

    section: ClassVar = Section.DATA
    active: str = option("", "Classes that may be answered (names or numbers, separated by commas).  [default: all]")
    without: str = option("", "Classes that may not.  [default: none]")
    profile: str = option("", "Leave out the classes suspended in this profile of a bundle.  [default: `default`]")
    format: str | None = option(
        None, "How answers are written.  [default: what --out ends in, else csv]", choices=FORMATS
    )
    skip_bad: bool = option(
        False, "Name files that cannot be read and go on, with exit code 3 at the end, instead of stopping."
    )
    batch_size: int = option(32, "Images, or windows of sounds, in one pass.", minimum=1, section=Section.SPEED)
    num_workers: int | None = option(
        None, "Threads that read files ahead.  [default: one a core]", minimum=1, section=Section.SPEED
    )
    device: str = option(
        "auto",
        "Where it is computed; auto is the GPU where there is one. tensorrt and openvino are for bundles.",
        choices=DEVICES,
        section=Section.DEVICE,
    )
