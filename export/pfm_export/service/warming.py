"""Passes that are made before a server says that it is ready, so that no request waits for what a device does once."""

from typing import TYPE_CHECKING, Any, Protocol

from pfm.errors import ClassNameError, DeviceError, PfmError
from pfm_export.serving.runtime import CUDA

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pfm_export.serving.kinds import InputKind


class Warmable(Protocol):
    """What warming up needs of a session."""

    @property
    def provider(self) -> str:
        """The execution provider that runs its graphs."""
        ...

    @property
    def input(self) -> "InputKind":
        """What its graphs take."""
        ...

    def scores(self, inputs: "npt.NDArray[Any]") -> "npt.NDArray[np.float32]":
        """A pass."""
        ...


def warm_up(session: Warmable, *, max_batch: int) -> None:
    """Make a pass of every number of rows that a batch may have, for the thread that calls.

    On CUDA each thread has cuBLAS and cuDNN handles of its own, the first pass of a shape chooses kernels, and the
    largest takes the memory that all others use. A CPU has nothing to choose, and one pass says that the graph runs.
    TensorRT builds for each shape for so long that only the first is built. Nothing is warmed up where every class is
    suspended: other profiles, and whoever restores a class, are to be served all the same.

    Raises:
        DeviceError: as many rows do not fit there, or the graph fails.
    """
    for rows in range(max_batch if session.provider == CUDA else 1, 0, -1):
        try:
            session.scores(session.input.zeros(rows))
        except ClassNameError:
            return
        except PfmError:
            raise
        except Exception as error:  # onnxruntime has a class of its own for each of its status codes
            advice = "give a smaller --max_batch" if rows > 1 else "use --device cpu"
            said = " ".join(str(error).split())[:200]
            raise DeviceError(f"a pass of {rows} rows fails in {session.provider}: {said}; {advice}") from error
