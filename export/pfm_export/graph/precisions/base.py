"""What a precision has to say of itself."""

from __future__ import annotations

import abc
import contextlib
import logging
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import onnx


class Precision(abc.ABC):
    """A conversion of a float32 graph.

    Attributes:
        name: in the registry and in manifests.
        tolerance: of parity, relative to the largest logit, or to 1 where that is smaller. In float32 it is for
            rounding only. The others are bounds on random inputs that a wrong graph does not meet; what a precision
            costs on real data is measured as accuracy.
        is_for_cpus: whether a server runs it on CPUs also where there are GPUs.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float]
    is_for_cpus: ClassVar[bool] = False

    @abc.abstractmethod
    def convert(self, proto: onnx.ModelProto, *, portable: bool = False) -> onnx.ModelProto:
        """The graph in this precision; `proto` may be changed.

        Args:
            portable: operators of the ONNX standard only, none of ONNX Runtime's own.
        """


def drop_info_of_initializers(proto: onnx.ModelProto) -> None:
    """Drop notes on values that name an initializer, which a converter takes for values that are computed."""
    names = {initializer.name for initializer in proto.graph.initializer}
    kept = [info for info in proto.graph.value_info if info.name not in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """The converters' remarks are for their developers."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
