"""float32: the graph as it was traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pfm_export.graph.precisions.base import Precision

if TYPE_CHECKING:
    import onnx


class Fp32(Precision):
    """Plain operators of the ONNX standard."""

    name = "fp32"
    tolerance = 1e-5

    def convert(self, proto: onnx.ModelProto, *, portable: bool = False) -> onnx.ModelProto:
        del portable  # it always is
        return proto
