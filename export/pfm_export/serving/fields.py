"""Fields of a manifest, each of the type that it has to be: a manifest may be anybody's, its own hash included."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from pfm.forgetting.ledger import digest, number, pairs, text

T = TypeVar("T")
LARGEST_SIZE = 1 << 20  # of one axis of an input or of the model's width; far above any model's
LARGEST_REAL = 1e30
# of a file, and of a model where it is part of a path or an address
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}", re.ASCII)

__all__ = ["digest", "number", "pairs", "text"]


def size(value: Any, largest: int = LARGEST_SIZE, *, least: int = 1) -> int:
    """A number of things, at least one where nothing else is said.

    Raises:
        ValueError: it is not one, or is absurd.
    """
    if not least <= number(value) <= largest:
        raise ValueError(f"a size from {least} to {largest} is expected, got {value}")
    return value


def real(value: Any) -> float:
    """A finite number.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST_REAL < value < LARGEST_REAL:
        raise ValueError(f"a finite number is expected, got {str(value)[:40]!r}")
    return float(value)


def positive(value: Any) -> float:
    """A finite number above zero.

    Raises:
        ValueError: it is not.
    """
    if real(value) <= 0:
        raise ValueError(f"a number above zero is expected, got {value}")
    return float(value)


def mapping(value: Any) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"an object is expected, got {_told(value)}")
    return cast("dict[str, Any]", value)


def many(value: Any, each: Callable[[Any], T], *, count: int | None = None) -> tuple[T, ...]:
    """A list, each entry checked.

    Raises:
        ValueError: it is not one, or has another number of entries than `count`.
    """
    entries = cast("list[Any]", value) if isinstance(value, list | tuple) else None
    if entries is None or (count is not None and len(entries) != count):
        raise ValueError(f"a list{f' of {count}' if count else ''} is expected, got {_told(value)}")
    return tuple(each(entry) for entry in entries)


def one_of(value: Any, known: Mapping[str, T]) -> T:
    """What a name stands for.

    Raises:
        ValueError: it stands for nothing.
    """
    if text(value) not in known:
        raise ValueError(f"one of {', '.join(known)} is expected, got {value[:40]!r}")
    return known[value]


def file_name(value: Any) -> str:
    """The name of a file in the bundle's own folder.

    Raises:
        ValueError: it leads elsewhere, or is not a plain name.
    """
    if not PLAIN_NAME.fullmatch(text(value)):
        raise ValueError(f"the name of a file in the bundle is expected, got {value[:40]!r}")
    return value


def _told(value: Any) -> str:
    """A value in an error; a large one is not written out for that."""
    if isinstance(value, dict | list | tuple):
        return f"{type(cast('object', value)).__name__} of {len(cast('list[Any]', value))}"
    return repr(str(value)[:40])
