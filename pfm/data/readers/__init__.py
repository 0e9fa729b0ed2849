"""Where data comes from: one reader a source.

A reader from outside the package registers itself with one line, `READERS.register("csv", CsvReader())`.
"""

from typing import ClassVar, Protocol, runtime_checkable

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.readers.digits import DigitsReader
from pfm.data.readers.folders import FolderReader
from pfm.data.readers.hugging_face import HuggingFaceReader
from pfm.data.readers.medmnist import MedMnistReader
from pfm.data.readers.npz import NpzReader
from pfm.data.reading import Intake
from pfm.data.splits import ClassificationData
from pfm.registry import Registry


class Reader(Protocol):
    """A source of data."""

    def takes(self, config: DataConfig) -> bool:
        """Whether `--dataset` names something of this source; nothing is read, and it may not be there."""
        ...

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        """Read it.

        Args:
            storage: how the inputs are to be stored.
            intake: how files are taken in.

        Raises:
            DataError: it is not there, cannot be read, or does not fit together.
            ConfigError: another kind of input was asked for than this source has.
        """
        ...


@runtime_checkable
class EarlyReader(Protocol):
    """A source of which can be said at next to no cost, before anything is loaded, that something cannot be read."""

    def check_there(self, config: DataConfig) -> None:
        """Refuse what is not there, and what this source can never be read as; no data is read.

        Raises:
            DataError: it is not there, or does not go with the options.
            ConfigError: another kind of input was asked for than this source has.
        """
        ...


@runtime_checkable
class StatingReader(Protocol):
    """A source that says what it heeds; one from outside that does not may be given any option.

    Attributes:
        source_options: of the options that are about some sources only, those that are about this one.
    """

    source_options: ClassVar[tuple[str, ...]]


# the one registered last is asked first: Hugging Face, which takes any name, is asked last
READERS: Registry[Reader] = Registry("source of data")
READERS.register("hugging_face", HuggingFaceReader())
READERS.register("medmnist", MedMnistReader())
READERS.register("npz", NpzReader())
READERS.register("digits", DigitsReader())
READERS.register("folder", FolderReader())
