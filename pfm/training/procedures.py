"""How a model is trained: a procedure is a file registered here, and a readout names its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pfm.registry import Registry

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint
    from pfm.training.config import RunConfig
    from pfm.training.plan import Plan
    from pfm.training.setup import Setup


@dataclass(frozen=True)
class TrainResult:
    """Where a run left its last checkpoint, and its last figures.

    Attributes:
        modes: accuracies of the last epoch by inference mode, None where it was not evaluated.
    """

    checkpoint: Path
    modes: dict[str, float] | None
    seconds: float
    samples_per_s: float


class Procedure(Protocol):
    """One way of training."""

    def check(self, config: "RunConfig") -> None:
        """Refuse options that it would not heed.

        Raises:
            ConfigError: which.
        """
        ...

    def unused(self) -> tuple[str, ...]:
        """Names of the options of `pfm train` that have no meaning for it."""
        ...

    def plan(self, setup: "Setup") -> "Plan | None":
        """Say what a run is going to do, without doing it."""
        ...

    def run(self, setup: "Setup", found: "tuple[Path, Checkpoint] | None") -> TrainResult:
        """Train what was set up.

        Args:
            found: the state to go on from, and its file.
        """
        ...


PROCEDURES: Registry[Procedure] = Registry("training procedure")
PROCEDURES.declare("steps", "pfm.training.run:STEPS")
PROCEDURES.declare("fit", "pfm.training.fit:FIT")
