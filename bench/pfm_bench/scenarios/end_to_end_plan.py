"""What is measured from a file to its label, as options; imports nothing heavy."""

import re
from dataclasses import dataclass

from pfm.errors import ConfigError
from pfm.options import LARGEST_SEED, option

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class EndToEndPlan:
    """Files in, labels out."""

    random_weights: str = option(
        "scratch:vit_small_patch16_224", "Shape of the model, which nobody trained: scratch:NAME, a hub id, a folder."
    )
    num_classes: int = option(10, "Its classes.", minimum=1)
    precision: str = option("fp32", "Precision it is exported in.", choices=("fp32", "int8", "bf16"))
    photo: str = option("2592x1944", "Width and height of the JPEGs; five megapixels by default.")
    stream: int = option(4, "Files of a stream, read ahead by threads or one by one.", minimum=2)
    rounds: int = option(10, "Rounds; in each, every case runs once.", minimum=5)
    seconds: float = option(45.0, "Stop early after this time, not before 5 rounds.", minimum=1.0)
    threads: int = option(0, "CPU threads of one pass.  [0: all cores]", minimum=0)
    http: bool = option(True, "Ask a server on this machine too, which is started for it.")
    seed: int = option(0, "Of weights, pictures and the order in a round.", minimum=0, maximum=LARGEST_SEED)

    def __post_init__(self) -> None:
        _ = self.size

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a photo.

        Raises:
            ConfigError: not written so.
        """
        found = _SIZE.fullmatch(self.photo)
        if found is None or 0 in (width_height := (int(found[1]), int(found[2]))):
            raise ConfigError(f"--photo {self.photo!r} is not like 640x480")
        return width_height
