"""Images or sounds: what every kind of input can do.

Nobody asks which kind it is: a model's `Storage` and `Preprocess` do what differs.

Letters: N stored inputs, B batch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from pfm.data.kinds import PREPROCESSES
from pfm.data.reading import FilesToRead, Stacked
from pfm.storage import Json

if TYPE_CHECKING:
    from pfm.data.augmentation import Augmentation
    from pfm.data.config import AugmentConfig, DataConfig


class Storage(Protocol):
    """How the inputs of a data set are stored, and how they come there.

    Attributes:
        kind: name of the kind of data in the registry.
        noun, item: what several inputs are called, and one of them.
        folder_prefix: in front of a folder of them, in `--dataset`.
        endings: of the names of its files, in small letters.
        column_type: of a column of them in Hugging Face `datasets`.
        how_to_ask: what to tell a user who gave other data to a model of this kind.
        augment_config: the options of what is varied in training, a dataclass.
        data_options: those of the data set that are for this kind alone.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    item: ClassVar[str]
    folder_prefix: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    column_type: ClassVar[str]
    how_to_ask: ClassVar[str]
    augment_config: ClassVar[type[Any]]
    data_options: ClassVar[tuple[str, ...]]

    def decided(self, files: Mapping[str, FilesToRead], config: "DataConfig") -> "Storage":
        """The same with nothing left open that options or the files of each split decide, once for a model."""
        ...

    def taken(self, inputs: torch.Tensor, /) -> torch.Tensor:
        """Inputs (N, …) that a source has as arrays, as they are to be stored."""
        ...

    def read(self, files: FilesToRead) -> Stacked:
        """Decode files into one tensor.

        Raises:
            DataError: a file that cannot be read, or none that can.
        """
        ...

    def read_splits(self, files: Mapping[str, FilesToRead]) -> dict[str, Stacked]:
        """Decode the files of each split, the inputs of all splits alike in shape.

        Raises:
            DataError: as above.
        """
        ...

    def file_shape(self, stored_shape: tuple[int, ...], /) -> tuple[int, ...]:
        """What one input was before it was brought to what is stored, where that is known to differ."""
        ...

    def brought_to(self, inputs: torch.Tensor, stored_shape: tuple[int, ...]) -> torch.Tensor:
        """Inputs (N, …) of one file, as a data set with inputs of `stored_shape` would have stored it."""
        ...

    def describe(self, stored_shape: tuple[int, ...]) -> str:
        """Inputs of that shape, in words."""
        ...

    def measured_preprocess(self, stored: torch.Tensor, input_shape: tuple[int, ...]) -> "Preprocess":
        """For a model that was trained on none, with mean and deviation of its training data.

        Args:
            stored: (N, …) training inputs.
            input_shape: of one model input.
        """
        ...

    def default_preprocess(self, input_shape: tuple[int, ...]) -> "Preprocess":
        """For a model of whose data nothing is known, with mean and deviation that are usual."""
        ...


class Preprocess(Protocol):
    """From stored inputs to what a model takes.

    Attributes:
        kind: its name in the registry of preprocessings.
    """

    kind: ClassVar[str]

    def __call__(self, stored: torch.Tensor, /) -> torch.Tensor:
        """Stored inputs (B, …) -> model inputs (B, *input_shape) float32."""
        ...

    def windows(self, stored: torch.Tensor, /) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """All that the model is to see of each input: model inputs, each with its weight (B,); None is 1."""
        ...

    def is_cropped(self, stored: torch.Tensor, /) -> bool:
        """Whether the model sees only a part of an input in training, another one each time."""
        ...

    def draw_augmentation(self, count: int, config: "AugmentConfig", generator: torch.Generator) -> "Augmentation":
        """What is varied in each of `count` training inputs; `generator` is on the CPU."""
        ...

    @property
    def storage(self) -> Storage:
        """How the inputs it takes are stored."""
        ...

    def stored_as(self, storage: Storage, /) -> "Preprocess":
        """The same for inputs that are stored so; of a storage that leaves nothing open."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one model input."""
        ...

    def to_dict(self) -> Json:
        """As JSON; `preprocess_from_dict` reads it."""
        ...

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """What `to_dict` wrote.

        Raises:
            KeyError: a value is missing.
        """
        ...


def preprocess_from_dict(values: Mapping[str, Any]) -> Preprocess:
    """What `to_dict` of any kind wrote.

    Raises:
        KeyError: a value is missing.
        ConfigError: another kind.
    """
    return PREPROCESSES.get(values["kind"]).from_dict(values)
