"""What stands in front of a graph for an input kind; here nothing, for those that are what the model takes.

Letters: B batch.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy.typing as npt
import onnx
import torch

from pfm.data.inputs import Preprocess
from pfm_export.serving.kinds import InputKind

Kind = TypeVar("Kind", bound=InputKind)


@dataclass(frozen=True)
class ParityInput:
    """One batch to compare graph and model on.

    Attributes:
        name: what it is, for people.
        taken: (B, …) as the graph takes it.
        wanted: (B, …) as the model takes the same.
    """

    name: str
    taken: npt.NDArray[Any]
    wanted: torch.Tensor


class FrontEnd(Generic[Kind]):
    """The graph takes model input as it is.

    Attributes:
        tolerance: of parity, relative to the largest logit, that the nodes in front ask for.
        measures_accuracy: samples as the data stores them can be made into what the graph takes.
    """

    tolerance: ClassVar[float] = 0.0
    measures_accuracy: ClassVar[bool] = True

    def __init__(self, kind: Kind, preprocess: Preprocess) -> None:
        self.kind = kind
        self.preprocess = preprocess

    def put_in_front(self, proto: onnx.ModelProto, model_input: str) -> None:
        """Replace the graph's input called `model_input` by those of the kind, in place."""

    def parity_inputs(self, batch_size: int, generator: torch.Generator) -> list[ParityInput]:
        """Batches that show a wrong graph."""
        inputs = torch.randn(batch_size, *self.kind.shape, generator=generator)
        return [ParityInput("random", inputs.numpy(), inputs)]

    def windows(self, stored: torch.Tensor) -> list[tuple[npt.NDArray[Any], torch.Tensor | None]]:
        """Samples as stored (B, …), as the graph takes them, window by window.

        Returns:
            Graph inputs (B, …), each with its weight (B,) in the sample's average; None is 1.
        """
        return [(inputs.numpy(), weight) for inputs, weight in self.preprocess.windows(stored)]


def clips(what: str, lengths: torch.Tensor, rate: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of clips for parity (B, n), noise or "tones" that stop and begin, and which of them are there (B, n)."""
    longest = int(lengths.max())
    waves = 0.1 * torch.randn(len(lengths), longest, generator=generator)
    if what == "tones":
        seconds = torch.arange(longest) / rate
        waves = 0.3 * (2 * torch.pi * 440 * seconds).sin() * (seconds * 8).sin().clamp_min(0) + 1e-3 * waves
    return waves, torch.arange(longest) < lengths.unsqueeze(1)


def replace_input(proto: onnx.ModelProto, name: str, new: list[onnx.ValueInfoProto]) -> None:
    """From now on the graph takes `new` in place of the input `name`, which nodes in front have to compute."""
    inputs = list(proto.graph.input)
    place = next(index for index, entry in enumerate(inputs) if entry.name == name)
    proto.graph.value_info.append(inputs[place])
    inputs[place : place + 1] = new
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)


def batch_axis(proto: onnx.ModelProto, name: str) -> str:
    """What the graph calls the batch of an input."""
    old = next(entry for entry in proto.graph.input if entry.name == name)
    return old.type.tensor_type.shape.dim[0].dim_param


def put_nodes_in_front(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Run `nodes` before those that are there."""
    behind = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *behind])


def take_waveform(proto: onnx.ModelProto, model_input: str, kind: InputKind) -> tuple[str, str]:
    """From now on the graph takes samples (B, n) and their number (B,) int32 in place of an input; their names."""
    samples, count = kind.inputs
    batch = batch_axis(proto, model_input)
    new = [
        onnx.helper.make_tensor_value_info(samples, onnx.TensorProto.FLOAT, [batch, *kind.axes]),
        onnx.helper.make_tensor_value_info(count, onnx.TensorProto.INT32, [batch]),
    ]
    replace_input(proto, model_input, new)
    return samples, count
