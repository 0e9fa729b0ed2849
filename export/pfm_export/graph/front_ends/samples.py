"""Samples in front of a graph: the mean and deviation of each clip as nodes, and clips of uneven length for parity.

The nodes stay float32 whatever the precision of the graph behind them.

Letters: B batch, n samples.
"""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pfm.data.wave_augmentation import SILENCE
from pfm.data.wave_windows import VARIANCE_FLOOR
from pfm_export.graph.front_ends.base import FrontEnd, ParityInput, clips, put_nodes_in_front, take_waveform
from pfm_export.serving.kinds.samples import RawSampleInput, SampleInput

LONGEST = 2  # seconds of a clip that parity is measured on
Kind = TypeVar("Kind", bound=SampleInput)


class SampleEnd(FrontEnd[Kind]):
    """Nothing in front: the graph takes samples as the model does."""

    def parity_inputs(self, batch_size: int, generator: torch.Generator) -> list[ParityInput]:
        """Noise, and a tone that stops and begins, in clips of uneven length."""
        settings = self.kind.settings
        longest = min(settings.max_samples, LONGEST * settings.rate)
        found: list[ParityInput] = []
        for what in ("noise", "tones"):
            length = max(longest // (1 if what == "noise" else 2), settings.min_samples)
            lengths = torch.randint(settings.min_samples, length + 1, (batch_size,), generator=generator)
            lengths[0] = length
            waves, is_there = clips(what, lengths, settings.rate, generator)
            stored = torch.where(is_there, torch.where(waves == 0, SILENCE, waves), 0.0)
            wanted = self.preprocess(stored)[:, :length]
            found.append(ParityInput(what, self.taken(stored, is_there, wanted), wanted))
        return found

    def taken(self, stored: torch.Tensor, is_there: torch.Tensor, wanted: torch.Tensor) -> npt.NDArray[Any]:
        """Clips (B, n) as the graph takes them.

        Args:
            stored: as the data stores them.
            is_there: (B, n) bool.
            wanted: as the model takes them.
        """
        return wanted.numpy()


class RawSampleEnd(SampleEnd[RawSampleInput]):
    """Nodes from `waveform` (B, n) and `num_samples` (B,) int32 to normalised samples with NaN behind the end."""

    measures_accuracy = False  # the data's windows come normalised

    def put_in_front(self, proto: onnx.ModelProto, model_input: str) -> None:
        samples, count = take_waveform(proto, model_input, self.kind)
        settings = self.kind.settings
        constants: dict[str, npt.NDArray[Any]] = {
            "wave_axis": np.array([1]), "wave_zero": np.array(0), "wave_one": np.array(1),
            "wave_nothing": np.array(0, np.float32), "wave_nan": np.array(np.nan, np.float32),
            "wave_floor": np.array(VARIANCE_FLOOR, np.float32),
        }  # fmt: skip
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Cast", [count], "wave_counts", {"to": TensorProto.INT64}),
            ("Unsqueeze", ["wave_counts", "wave_axis"], "wave_ends", {}),  # (B, 1)
            ("Shape", [samples], "wave_length", {"start": 1, "end": 2}),
            ("Squeeze", ["wave_length"], "wave_longest", {}),
            ("Range", ["wave_zero", "wave_longest", "wave_one"], "wave_places", {}),
            ("Less", ["wave_places", "wave_ends"], "wave_is_there", {}),  # (B, n)
            ("Where", ["wave_is_there", samples, "wave_nothing"], "wave_there", {}),
        ]
        last = "wave_there"
        if settings.do_normalize:
            steps += [
                ("Cast", ["wave_ends"], "wave_count", {"to": TensorProto.FLOAT}),
                ("ReduceSum", ["wave_there", "wave_axis"], "wave_sum", {"keepdims": 1}),
                ("Div", ["wave_sum", "wave_count"], "wave_mean", {}),
                ("Sub", ["wave_there", "wave_mean"], "wave_moved", {}),
                ("Where", ["wave_is_there", "wave_moved", "wave_nothing"], "wave_centred", {}),
                ("Mul", ["wave_centred", "wave_centred"], "wave_squares", {}),
                ("ReduceSum", ["wave_squares", "wave_axis"], "wave_energy", {"keepdims": 1}),
                ("Div", ["wave_energy", "wave_count"], "wave_variance", {}),
                ("Add", ["wave_variance", "wave_floor"], "wave_above", {}),
                ("Sqrt", ["wave_above"], "wave_deviation", {}),
                ("Div", ["wave_centred", "wave_deviation"], "wave_normal", {}),
            ]
            last = "wave_normal"
        steps.append(("Where", ["wave_is_there", last, "wave_nan"], model_input, {}))
        put_nodes_in_front(
            proto,
            [helper.make_node(op, names, [out], name=f"{out}_node", **more) for op, names, out, more in steps],
        )

    def taken(self, stored: torch.Tensor, is_there: torch.Tensor, wanted: torch.Tensor) -> npt.NDArray[Any]:
        return torch.where(is_there, stored, torch.nan).numpy()

    def windows(self, stored: torch.Tensor) -> list[tuple[npt.NDArray[Any], torch.Tensor | None]]:
        raise TypeError("the data's windows come normalised")
