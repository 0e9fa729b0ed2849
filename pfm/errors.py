"""What can go wrong that the user can put right.

Each message says what was given, what was expected and what to do. The command line prints it
as one line and leaves with exit code 2; a traceback means a bug of ours.
"""


class PfmError(Exception):
    """Something the user can put right.

    Attributes:
        exit_code: what the command leaves with.
    """

    exit_code = 2


class ConfigError(PfmError):
    """An option, or two options together, that make no sense."""


class DataError(PfmError):
    """A data set that cannot be found or read, or whose labels do not fit."""


class BackboneError(PfmError):
    """A backbone that cannot be found, or of a kind that is not supported."""


class HubError(PfmError):
    """Something that the Hugging Face hub, and its cache, do not give."""


class CheckpointError(PfmError):
    """A file that is not a checkpoint, or one of another model."""


class ClassNameError(PfmError):
    """A class that does not exist, or a set of classes that may not be removed."""


class BundleError(PfmError):
    """An export bundle that is incomplete, changed or of another version."""


class CertificateError(PfmError):
    """A certificate, or something it speaks of, that was changed."""


class TraceFoundError(PfmError):
    """Something of an erased class is in the bytes that were to be written without it; they are not written."""


class NotShownError(PfmError):
    """Something that was to be shown and could not be, though nothing was found that speaks against it."""

    exit_code = 3


class AuditError(PfmError):
    """An audit whose verdict is not the one that was required."""

    exit_code = 1


class NotLookedIntoError(PfmError):
    """Something was done, and files that may hold what was erased were not looked into."""

    exit_code = 3


class DeviceError(PfmError):
    """A device or execution provider that is not there."""


class StorageError(PfmError):
    """A file that cannot be written or read; the previous version of it is whole."""


class FolderInUseError(StorageError):
    """Another training run has the folder."""


class TrainingError(PfmError):
    """A run that cannot go on, such as one whose loss is no longer a number."""


class StoppedError(PfmError):
    """A run that a signal stopped, after it saved where it stood."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def explain(error: OSError) -> str:
    """The system's reason, in words."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file stands where a folder is needed"
    return error.strerror or str(error)
