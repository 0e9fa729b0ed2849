"""Precisions of a graph, by name: one file each. Inputs and outputs stay float32 in all of them.

onnx is imported when a graph is converted, and not before: what the precisions are called is asked by `--help`.
"""

from pfm.registry import Registry
from pfm_export.graph.precisions.base import Precision
from pfm_export.graph.precisions.bf16 import Bf16
from pfm_export.graph.precisions.fp16 import Fp16
from pfm_export.graph.precisions.fp32 import Fp32
from pfm_export.graph.precisions.int8 import Int8

__all__ = ["PRECISIONS", "Precision"]

PRECISIONS: Registry[Precision] = Registry("precision")
for _precision in (Fp32(), Fp16(), Bf16(), Int8()):
    PRECISIONS.register(_precision.name, _precision)
