"""What can be timed, behind one call: `prepare(batch_size, num_prompts)` gives a function to time.

A target is planned first and built where it is needed: here for its latency, in a process of its own
for its memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pfm.registry import Registry

Call = Callable[[], object]


class Target(Protocol):
    """A model in some runtime.

    Attributes:
        where: the device or execution provider that really runs it.
    """

    where: str

    def prepare(self, batch_size: int, num_prompts: int) -> Call: ...


class TargetKind(Protocol):
    """A runtime with its settings: what `--targets` names. A kind travels to other processes, so it can be pickled."""

    @property
    def reads_bundle(self) -> bool:
        """Whether it runs a bundle's own graph, so that each bundle is a target; or one model of its shape, once."""
        ...

    def check(self, device: str) -> None:
        """Refuse what this machine cannot run, under `--device`.

        Raises:
            DeviceError: why.
        """
        ...

    def is_default(self, device: str) -> bool:
        """Whether it is measured where no targets are named."""
        ...

    def precision(self, of_bundle: str) -> str:
        """Of the weights: fp32, bf16, fp16 or int8."""
        ...

    def arithmetic(self, precision: str) -> str:
        """The precision it computes in."""
        ...

    def build(self, plan: "Plan") -> Target: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A target that is to be built; it can travel to another process.

    Attributes:
        name: as it stands in tables.
        bundle: gives the graph, or the shape of torch's model.
        checkpoint: torch's weights; None takes random ones.
        precision: of the weights: fp32, bf16, fp16 or int8.
        device: where torch runs.
        threads: of the CPU.
    """

    name: str
    kind: TargetKind
    bundle: Path
    checkpoint: Path | None
    precision: str
    device: str
    threads: int

    @property
    def arithmetic(self) -> str:
        """The precision it computes in."""
        return self.kind.arithmetic(self.precision)

    @property
    def size_bytes(self) -> int | None:
        """Of the bundle; None where the target does not read it."""
        if not self.kind.reads_bundle:
            return None
        return sum(file.stat().st_size for file in self.bundle.iterdir())

    def build(self) -> Target:
        """Load it."""
        return self.kind.build(self)

    def build_call(self, batch_size: int, num_prompts: int) -> Call:
        """Load it and prepare one call, for `peak_in_child`."""
        return self.build().prepare(batch_size, num_prompts)


TARGETS: Registry[TargetKind] = Registry("target")
