"""The processes of one host that load the same data: one of them does the work, the others are told what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pfm.errors import DataError, PfmError

T = TypeVar("T")


def _alone(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class Host:
    """The processes of this host, seen from one of them; by default there is one.

    Attributes:
        rank: its number on this host, from 0; the leader is 0.
        size: how many there are.
        exchange: gives every process what the leader gives, which can be pickled; every process has to call it.
    """

    rank: int = 0
    size: int = 1
    exchange: Callable[[Any], Any] = _alone

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def lead(self, make: Callable[[], T]) -> T:
        """What the leader makes, on every process; an error of the leader's is one of all.

        Raises:
            PfmError: what `make` raised.
        """
        if self.size == 1:
            return make()
        value: Any = None
        failure: BaseException | None = None
        if self.is_leader:
            try:
                value = make()
            except BaseException as error:
                failure = error
        known = failure if isinstance(failure, PfmError) else DataError(f"the process that decodes failed: {failure!r}")
        told, message = self.exchange((value, None if failure is None else known))
        if failure is not None:
            raise failure
        if message is not None:
            raise message
        return told

    def first(self, make: Callable[[], T]) -> T:
        """What each process makes, the leader before the others, who then find what it downloaded."""
        if self.size == 1:
            return make()
        found: list[T] = []
        self.lead(lambda: found.append(make()))
        return found[0] if found else make()
