"""A tensor of which only the rows that are asked for exist: the others are in a file, or have yet to be decoded.

For everybody else it is a tensor (N, …): it has a shape, is indexed, cut into parts and handed on. An index by rows
gives an ordinary tensor of those rows, a slice of it is another one of its kind, and whatever else is computed with it
works on all rows, which are fetched for that.

Letters: N rows, B rows of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

aten = torch.ops.aten


class RowSource(Protocol):
    """Where rows come from.

    Attributes:
        shape: (N, …).
        dtype: of an element.
    """

    shape: torch.Size
    dtype: torch.dtype

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows at `index` (B,) int64, each in 0…N-1: (B, …) on the CPU."""
        ...

    def batches(self, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
        """Rows of one index after another, the next ones made ready ahead by up to `ahead` helpers."""
        ...


class Rows(torch.Tensor):
    """Rows of a source; see above.

    Attributes:
        source: that they come from.
        places: (N,) int64, which rows of it these are.
    """

    source: RowSource
    places: torch.Tensor

    @staticmethod
    def __new__(cls, source: RowSource, index: torch.Tensor | None = None) -> "Rows":
        if index is None:
            index = torch.arange(source.shape[0])
        shape = (len(index), *source.shape[1:])
        with torch.inference_mode(False):  # where a view of it is made, torch wants to count versions
            made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=source.dtype, device=torch.device("cpu"))
        made.source, made.places = source, index
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Rows({tuple(self.shape)}, {self.dtype}, of {type(self.source).__name__})"

    def whole(self) -> torch.Tensor:
        """All rows, as an ordinary tensor."""
        return self.source.rows(self.places)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For another process an ordinary tensor, since a source is open in this one only."""
        return self.whole().__reduce_ex__(protocol)

    def numpy(self, **options: Any) -> np.ndarray:
        return self.whole().numpy(**options)

    def tolist(self) -> list[Any]:
        return self.whole().tolist()

    def batches(self, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
        """These rows by index; see `RowSource.batches`."""
        return self.source.batches([self.places[index] for index in indices], ahead)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            return cls._computed(func, args, kwargs or {})
        with torch.inference_mode(False), torch.no_grad():  # views of ordinary tensors are ordinary in any mode
            return cls._computed(func, args, kwargs or {})

    @classmethod
    def _computed(cls, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        known = _VIEWS.get(func)
        if known is not None and isinstance(args[0], cls):
            found = known(*args, **kwargs)
            if found is not None:
                return found
        return func(*_all_rows(args), **_all_rows(kwargs))


def _all_rows(value: Any) -> Any:
    """The same with ordinary tensors."""
    if isinstance(value, Rows):
        return value.whole()
    if isinstance(value, tuple | list):
        return type(value)(_all_rows(item) for item in value)
    if isinstance(value, dict):
        return {key: _all_rows(item) for key, item in value.items()}
    return value


def _indexed(rows: Rows, indices: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    first = indices[0]
    if len(indices) != 1 or first is None or first.dim() != 1:
        return None
    return rows.source.rows(rows.places[first.cpu()])


def _sliced(rows: Rows, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Rows | None:
    return Rows(rows.source, rows.places[start:end:step]) if dim == 0 else None


def _selected(rows: Rows, dim: int, place: int) -> torch.Tensor | None:
    return rows.source.rows(rows.places[place].view(1))[0] if dim == 0 else None


def _split(rows: Rows, size: int, dim: int = 0) -> list[Rows] | None:
    return [Rows(rows.source, part) for part in rows.places.split(size)] if dim == 0 else None


def _index_selected(rows: Rows, dim: int, index: torch.Tensor) -> torch.Tensor | None:
    return rows.source.rows(rows.places[index.cpu()]) if dim == 0 else None


def _itself(rows: Rows) -> Rows:
    return Rows(rows.source, rows.places)


_VIEWS: dict[Any, Callable[..., Any]] = {
    aten.index.Tensor: _indexed,
    aten.slice.Tensor: _sliced,
    aten.select.int: _selected,
    aten.split.Tensor: _split,
    aten.index_select.default: _index_selected,
    aten.detach.default: _itself,
    aten.alias.default: _itself,
}


def subset_rows(inputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The rows at `index` (B,), numbers or bools: a copy, but for rows that do not exist yet."""
    return Rows(inputs.source, inputs.places[index]) if isinstance(inputs, Rows) else inputs[index]


def join_rows(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inputs one after another; of one source, they stay where they are."""
    first = parts[0]
    if isinstance(first, Rows) and all(isinstance(part, Rows) and part.source is first.source for part in parts):
        return Rows(first.source, torch.cat([part.places for part in parts if isinstance(part, Rows)]))
    return torch.cat([part[:] for part in parts])
