"""The questions that every input kind answers: names, shape, dtype, examples, and how items become batches.

Letters: B batch, n items.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pfm.errors import DataError
from pfm.storage import Json
from pfm_export.serving.intake import as_list, check_finite


@dataclass(frozen=True)
class Batch:
    """Graph inputs, and whose they are. An item's scores are the average over its rows, by their weights.

    Attributes:
        inputs: (B, …) as the graph takes them.
        owners: (B,) place of each one's item.
        weights: (B,) of each in its item's average.
        is_plain: every item has one row, in order; with such batches there is nothing to average.
    """

    inputs: npt.NDArray[Any]
    owners: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    is_plain: bool = False

    @classmethod
    def of_items(cls, places: Sequence[int], inputs: npt.NDArray[Any]) -> "Batch":
        """One row for each item."""
        return cls(inputs, np.array(places, np.int64), np.ones(len(places)), places == range(len(places)))

    def of_some(self, are_meant: Sequence[bool]) -> "Batch":
        """The rows of some of the items; itself where that is all of them.

        Args:
            are_meant: one for each item.
        """
        if all(are_meant):
            return self
        rows = np.flatnonzero(np.asarray(are_meant)[self.owners])
        return Batch(self.inputs[rows], self.owners[rows], self.weights[rows])


class InputKind(abc.ABC):
    """One description of what a graph takes for what is classified; made with a manifest's `preprocess`.

    Attributes:
        name: in the registry, in manifests, and for `--input`.
        modality: the `kind` of preprocessing that it is for, such as "image".
        items: what callers hand in, as in `predict_images`.
        endings: of the names of files that hold one.
        inputs: names of the graph's inputs, in order.
        dtype: of the first of them.
        is_model_input: the graph takes what the model takes, with nothing in front.
        option: of `pfm export onnx`, that is short for `--input` with this kind; "" where there is none.
        gist: the same in a few words.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    items: ClassVar[str]
    endings: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]]
    dtype: ClassVar[type[np.generic]] = np.float32
    is_model_input: ClassVar[bool] = False
    option: ClassVar[str] = ""
    gist: ClassVar[str] = ""

    @abc.abstractmethod
    def __init__(self, preprocess: Mapping[str, Any]) -> None: ...

    @property
    @abc.abstractmethod
    def axes(self) -> tuple[int | str, ...]:
        """The shape of one input; a size that is left open has a name."""

    @property
    @abc.abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """What the sizes that are left open are in an example."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input in an example."""
        return tuple(self.sizes[size] if isinstance(size, str) else size for size in self.axes)

    @property
    def model_shape(self) -> tuple[int, ...]:
        """The shape of one model input."""
        return self.shape

    @abc.abstractmethod
    def batches(self, items: Sequence[Any]) -> Iterator[Batch]:
        """Read a caller's items and hand them out as graph inputs.

        Raises:
            DataError: an item that cannot be read, or none at all.
        """

    def as_items(self, given: Any) -> Sequence[Any]:
        """What a caller handed in as a list of items; one alone is a list of one.

        Raises:
            DataError: nothing that has items.
        """
        return as_list(given, self.items.removesuffix("s"))

    def model_input(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Graph inputs (B, …) as the model takes them."""
        return inputs

    def zeros(self, batch_size: int) -> npt.NDArray[Any]:
        """(B, …) to warm a graph up with."""
        return np.zeros((batch_size, *self.shape), self.dtype)

    def random(self, batch_size: int, generator: np.random.Generator) -> npt.NDArray[Any]:
        """(B, …) to time a graph with."""
        return generator.standard_normal((batch_size, *self.shape), dtype=np.float32)

    def checked(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inputs (B, …) in the graph's dtype.

        Raises:
            DataError: a dtype that the graph cannot be given, or numbers that are NaN or infinite.
        """
        check_finite(inputs)
        return np.ascontiguousarray(inputs, dtype=self.dtype)

    def feed(self, inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """The inputs (B, …) by the names of the graph's inputs."""
        return {self.inputs[0]: inputs}

    def notes(self) -> Json:
        """What the manifest says beside `input` and `preprocess`, for those who make the inputs elsewhere."""
        return {}

    def describe(self) -> Json:
        """The manifest's `input`."""
        return {
            "name": self.inputs[0],
            "shape": ["batch", *self.axes],
            "dtype": np.dtype(self.dtype).name,
            "kind": self.name,
        }

    def require_items(self, items: str) -> None:
        """
        Raises:
            DataError: this bundle's items are others.
        """
        if items != self.items:
            raise DataError(f"this bundle classifies {self.items}; use predict_{self.items}")
