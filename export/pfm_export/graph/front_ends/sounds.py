"""Kaldi's log-mel features as nodes in front of a graph, so that production sends samples.

Taking the mean off, pre-emphasis, the Hann window and the Fourier transform are one linear map of a
frame's samples, so they are one convolution: portable, and exact up to float32. A frame that is
behind the end of a row's samples becomes zeros, as in training. The nodes stay float32 whatever the
precision of the graph behind them.

Letters: B batch, L frames of the model's window, M mel bins, n samples.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper

from pfm.data.frames import PREEMPHASIS, SMALLEST_ENERGY
from pfm.data.mel import MelSettings, log_mel, mel_banks
from pfm_export.graph.front_ends.base import FrontEnd, ParityInput, clips, put_nodes_in_front, take_waveform
from pfm_export.serving.kinds.waveform import WaveformInput


class SoundFrontEnd(FrontEnd[WaveformInput]):
    """Nodes from `waveform` (B, n) and `num_samples` (B,) int32 to model input (B, L, M)."""

    # a convolution and a fast Fourier transform differ by rounding, which the logarithm of a quiet bin makes large
    tolerance = 1e-3
    measures_accuracy = False  # the data stores features

    def put_in_front(self, proto: onnx.ModelProto, model_input: str) -> None:
        samples, count = take_waveform(proto, model_input, self.kind)
        features = self.kind.settings
        length, bins = features.max_length, features.fft_size // 2
        constants: dict[str, npt.NDArray[Any]] = {
            "sound_pads": np.array([0, 0, 0, features.window]),
            "sound_start": np.array([0]),
            "sound_stop": np.array([features.window]),
            "sound_axis": np.array([1]),
            "sound_kernel": spectrum_kernel(features.frame, features.fft_size)[:, None].astype(np.float32),
            "sound_halves": np.array([bins, bins]),
            "sound_mel": mel_banks(MelSettings(features.rate, features.num_mel_bins)).numpy(),
            "sound_floor": np.array(SMALLEST_ENERGY, dtype=np.float32),
            "sound_frame": np.array([features.frame], dtype=np.int32),
            "sound_hop": np.array([features.hop], dtype=np.int32),
            "sound_frames": np.arange(length, dtype=np.int32)[None],
            "sound_nothing": np.array(0, dtype=np.float32),
            "sound_mean": np.array(features.mean, dtype=np.float32),
            "sound_std": np.array(2 * features.std, dtype=np.float32),
        }
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            # exactly the samples of one window, whatever was given
            ("Pad", [samples, "sound_pads"], "sound_long", {}),
            ("Slice", ["sound_long", "sound_start", "sound_stop", "sound_axis"], "sound_window", {}),
            ("Unsqueeze", ["sound_window", "sound_axis"], "sound_channel", {}),
            ("Conv", ["sound_channel", "sound_kernel"], "sound_spectrum", {"strides": [features.hop]}),
            ("Mul", ["sound_spectrum", "sound_spectrum"], "sound_squares", {}),
            ("MatMul", ["sound_mel", "sound_power"], "sound_energies", {}),  # (M, bins) x (B, bins, L)
            ("Max", ["sound_energies", "sound_floor"], "sound_floored", {}),
            ("Log", ["sound_floored"], "sound_log", {}),
            ("Transpose", ["sound_log"], "sound_features", {"perm": [0, 2, 1]}),
            # frame t is there if its last sample is: t * hop + frame <= num_samples
            ("Mul", ["sound_frames", "sound_hop"], "sound_begins", {}),
            ("Add", ["sound_begins", "sound_frame"], "sound_ends", {}),
            ("Unsqueeze", [count, "sound_axis"], "sound_counts", {}),
            ("LessOrEqual", ["sound_ends", "sound_counts"], "sound_is_there", {}),  # (B, L)
            ("Unsqueeze", ["sound_is_there", "sound_last"], "sound_mask", {}),
            ("Where", ["sound_mask", "sound_features", "sound_nothing"], "sound_filled", {}),
            ("Sub", ["sound_filled", "sound_mean"], "sound_centred", {}),
            ("Div", ["sound_centred", "sound_std"], model_input, {}),
        ]
        proto.graph.initializer.append(numpy_helper.from_array(np.array([2]), "sound_last"))
        nodes = [
            helper.make_node(op, names, [out], name=f"{out}_node", **settings) for op, names, out, settings in steps
        ]
        halves = [
            helper.make_node(
                "Split", ["sound_squares", "sound_halves"], ["sound_real", "sound_imag"], name="sound_split", axis=1
            ),
            helper.make_node("Add", ["sound_real", "sound_imag"], ["sound_power"], name="sound_add"),
        ]
        put_nodes_in_front(proto, [*nodes[:5], *halves, *nodes[5:]])

    def parity_inputs(self, batch_size: int, generator: torch.Generator) -> list[ParityInput]:
        """Noise, and tones that stop and begin, in clips of uneven length; features by torchaudio's filterbank."""
        features = self.kind.settings
        storage, window = MelSettings(features.rate, features.num_mel_bins), features.window
        found: list[ParityInput] = []
        for what, longest in (
            ("noise", window),
            ("tones", 2 * window),
            ("short clips", features.frame + 5 * features.hop),
        ):
            lengths = torch.randint(features.frame, longest + 1, (batch_size,), generator=generator)
            lengths[0] = longest
            waves, is_there = clips(what, lengths, features.rate, generator)
            taken = torch.where(is_there, waves, torch.nan)
            wanted = self.preprocess(log_mel(torch.where(is_there, waves, 0.0), lengths, storage))
            found.append(ParityInput(what, taken.numpy(), wanted))
        return found

    def windows(self, stored: torch.Tensor) -> list[tuple[npt.NDArray[Any], torch.Tensor | None]]:
        raise TypeError("the data stores features, of which no samples can be made")


def spectrum_kernel(frame: int, size: int) -> npt.NDArray[np.float64]:
    """(size, frame) float64: real and then imaginary parts of bins 0 … size/2 - 1 of a prepared frame."""
    centring = np.eye(frame) - 1 / frame
    emphasis = np.eye(frame) - PREEMPHASIS * np.eye(frame, k=-1)
    emphasis[0, 0] -= PREEMPHASIS  # the first sample stands in for the one before it
    hann = np.hanning(frame)[:, None]
    angles = 2 * np.pi * np.arange(size // 2)[:, None] * np.arange(frame) / size
    return np.concatenate([np.cos(angles), -np.sin(angles)]) @ (hann * (emphasis @ centring))
