"""How a running server is loaded, as options; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from pfm.errors import ConfigError
from pfm.options import expand_paths, option


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What is asked of a server, and how often."""

    address: str = option("http://localhost:8000", "Of the server, as `pfm serve` prints it.")
    sets: int = option(8, "Different active sets of each tenant; the first is of all its classes.", minimum=1)
    clients: int = option(32, "Requests at a time that always wait: the most that is answered.", minimum=1)
    loads: str = option("0.5,0.8,0.95", "Shares of the capacity that is carried, at which requests arrive at random.")
    seconds: float = option(20.0, "Of each load.", minimum=0.1)
    erase: str = option("", "Classes to be erased, for good, during the last load.  [default: none]")
    suspensions: int = option(
        0, "Times that a class is suspended for one of the tenants, and restored, during the last load.", minimum=0
    )
    bundle: Path | None = option(
        None,
        "A copy of the bundle as it is at the start, whose session says what is right.  [default: the server's own "
        "answers to one request after another]",
        is_path=True,
    )
    seed: int = option(0, "Of inputs, sets and arrivals.", minimum=0)

    def __post_init__(self) -> None:
        expand_paths(self)
        try:
            is_fit = all(0 < share <= 10 for share in self.shares)
        except ValueError:
            is_fit = False
        if not is_fit:
            raise ConfigError(f"--loads {self.loads!r} is not like 0.5,0.8")

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the capacity, one for each phase."""
        return tuple(float(part) for part in self.loads.split(",") if part.strip())

    @property
    def erased(self) -> tuple[str, ...]:
        """Classes to be erased."""
        return tuple(part.strip() for part in self.erase.split(",") if part.strip())
