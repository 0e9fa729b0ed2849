"""Variants by name: what an option may name, what an outside package may add to."""

from importlib.metadata import entry_points
from typing import Generic, TypeVar

from pfm.errors import ConfigError

T = TypeVar("T")
PLUGINS = "pfm.plugins"  # the group of entry points that is loaded when a name is not known


class Registry(Generic[T]):
    """Values by name, in the order in which they were registered.

    Args:
        what: what a value is, for messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        self._values[name] = value
        return value

    def get(self, name: str) -> T:
        """The value of that name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self:
            raise ConfigError(f"{name!r}: no such {self.what}; choose from {', '.join(self.names())}")
        return self._values[name]

    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def __contains__(self, name: object) -> bool:
        if name not in self._values:
            for entry in entry_points(group=PLUGINS):
                entry.load()
        return name in self._values
