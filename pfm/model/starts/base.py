"""What a start has to say of itself.

Letters: C classes, D hidden size, m tokens per prompt.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pfm.model.starts.numbers import Floats

if TYPE_CHECKING:
    from pfm.model.classifier import PromptedClassifier


@dataclass(frozen=True, kw_only=True)
class KeySource:
    """What the keys of a model's classes may be made of.

    Attributes:
        names: of the classes, in the order of the bank.
        seed: of the run.
        contents: position of a class, and how many -> SHA-256 of each of its first training samples; looks when asked.
        file: that keeps keys; None where none is to be kept.
    """

    names: Sequence[str]
    seed: int
    contents: Callable[[int, int], Sequence[bytes]]
    file: Path | None = None


class Start(ABC):
    """Where the rows of a class start.

    Attributes:
        prompt_lr: learning rate that prompts of this start need, as a multiple of the run's.
        takes_keys: whether each class starts from a key of its own.
        keeps_keys: whether a file may keep those keys.
        samples: how many of a class's training samples its key is made from, with the seed; 0 where it is not.
        follows: what somebody who holds the file can draw again of an erased class, as a sentence.
    """

    prompt_lr: ClassVar[float] = 1.0
    takes_keys: ClassVar[bool] = False
    keeps_keys: ClassVar[bool] = False
    samples: ClassVar[int] = 0
    follows: ClassVar[str]

    @abstractmethod
    def row(self, name: str, shape: tuple[int, ...], seed: int, key: bytes) -> Floats | None:
        """Where a class's row of one parameter starts; None for as torch made it.

        Args:
            name: of the parameter, `bank.prompts` or one of the readout's.
            shape: of the row, (m, D), (D,) or ().
            seed: of the run.
            key: of the class; empty for a start that takes none.
        """

    def keys(self, source: KeySource) -> list[bytes]:
        """A key a class, in the order of the bank; none for a start that takes none.

        Raises:
            ConfigError, DataError, StorageError: what they are made of cannot be used.
        """
        assert not self.takes_keys, "a start that takes keys says where they come from"
        return []

    def apply(self, model: "PromptedClassifier", seed: int, keys: Sequence[bytes] = ()) -> None:
        """Put every row of every class at its start, in place.

        Args:
            model: as it was built, on the CPU.
            keys: one a class, in the order of the bank; none for a start that takes none.
        """
        import torch

        assert len(keys) == model.num_classes * self.takes_keys, "a key a class where the start takes keys"
        for name in model.class_row_names:
            rows = model.get_parameter(name).data  # (C, …)
            for position, key in enumerate(keys or [b""] * model.num_classes):
                row = self.row(name, tuple(rows.shape[1:]), seed, key)
                if row is not None:
                    rows[position] = torch.from_numpy(row)
