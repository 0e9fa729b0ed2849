"""Variants by name: a backbone family, a readout, an attack or a data source is a file, and registering it is one line.

What is registered from outside the package is found as well: a distribution names the module that registers
its variants under the entry point group `pfm.plugins`, and that is loaded when a name is asked for that nobody knows.

What comes with the package is only declared, by the place where it stands: `--help` lists the names, and what computes
with torch is imported when a variant is asked for.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pfm.errors import ConfigError

PLUGINS = "pfm.plugins"

T = TypeVar("T")


@dataclass(frozen=True)
class _Place:
    """Where a variant stands: "module:attribute"."""

    text: str

    def load(self) -> Any:
        module, _, attribute = self.text.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Registry(Generic[T]):
    """Named variants of one kind, in the order in which they were registered.

    Args:
        what: one of them is called in an error, such as "readout".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._known: dict[str, T | _Place] = {}

    def register(self, name: str, variant: T) -> T:
        """Add a variant.

        Raises:
            ValueError: another one has this name.
        """
        if self._known.setdefault(name, variant) is not variant:
            raise ValueError(f"there is a {self.what} {name!r} already")
        return variant

    def declare(self, name: str, place: str) -> None:
        """Add a variant that is imported when it is asked for.

        Args:
            place: "module:attribute".

        Raises:
            ValueError: another one has this name.
        """
        if name in self._known:
            raise ValueError(f"there is a {self.what} {name!r} already")
        self._known[name] = _Place(place)

    def remove(self, name: str) -> None:
        """Forget a variant, such as one that a test added."""
        del self._known[name]

    def get(self, name: str) -> T:
        """The variant of that name.

        Raises:
            ConfigError: there is none, also among the plugins.
        """
        if name not in self._known:
            load_plugins()
        if name not in self._known:
            raise ConfigError(f"there is no {self.what} {name!r}; choose one of {', '.join(self._known)}")
        found = self._known[name]
        if isinstance(found, _Place):
            loaded: T = found.load()
            self._known[name] = loaded
            return loaded
        return found

    def names(self) -> tuple[str, ...]:
        """All names, in order of registration."""
        return tuple(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[T]:
        return iter([self.get(name) for name in self._known])


_loaded: set[str] = set()


def load_plugins() -> None:
    """Import every module that an installed distribution names under `pfm.plugins`, once."""
    for entry in entry_points(group=PLUGINS):
        if entry.value not in _loaded:
            _loaded.add(entry.value)
            entry.load()
