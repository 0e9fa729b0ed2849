"""Kaldi's log-mel features as nodes in front of a graph, so that production sends samples.

Taking the mean off, pre-emphasis, the Hann window and the Fourier transform are one linear map of a
frame's samples, so they are one convolution: portable, and exact up to float32. A frame that lies
behind the end of a row's samples becomes zeros, as in training. The nodes stay float32 whatever the
precision of the graph behind them.

Letters: B batch, L frames of the model's window, M mel bins, n samples.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pfm.data.mel import PREEMPHASIS, fft_size, mel_banks
from pfm.data.sounds import SoundPreprocess
from pfm_export.serving.form import INPUT_COUNT, INPUT_SAMPLES, INPUT_VALUES


def take_samples(proto: onnx.ModelProto, preprocess: SoundPreprocess) -> None:
    """Replace the input `input_values` (B, L, M) by `waveform` (B, n) and `num_samples` (B,) int32, in place."""
    graph, form = proto.graph, preprocess.storage
    old = next(entry for entry in graph.input if entry.name == INPUT_VALUES)
    batch = old.type.tensor_type.shape.dim[0].dim_param
    graph.value_info.append(old)  # from now on it is computed
    new = [
        helper.make_tensor_value_info(INPUT_SAMPLES, TensorProto.FLOAT, [batch, "samples"]),
        helper.make_tensor_value_info(INPUT_COUNT, TensorProto.INT32, [batch]),
    ]
    kept = [entry for entry in graph.input if entry.name != INPUT_VALUES]
    del graph.input[:]
    graph.input.extend([*new, *kept])

    length, bins = preprocess.max_length, fft_size(form) // 2
    window = (length - 1) * form.hop + form.frame_size
    constants: dict[str, np.ndarray] = {
        "sound_pads": np.array([0, 0, 0, window]),
        "sound_start": np.array([0]),
        "sound_stop": np.array([window]),
        "sound_axis": np.array([1]),
        "sound_kernel": spectrum_kernel(form.frame_size, fft_size(form))[:, None].astype(np.float32),
        "sound_halves": np.array([bins, bins]),
        "sound_mel": mel_banks(form).numpy(),
        "sound_floor": np.array(np.finfo(np.float32).eps),
        "sound_frame": np.array([form.frame_size], dtype=np.int32),
        "sound_hop": np.array([form.hop], dtype=np.int32),
        "sound_frames": np.arange(length, dtype=np.int32)[None],
        "sound_nothing": np.array(0, dtype=np.float32),
        "sound_mean": np.array(preprocess.mean, dtype=np.float32),
        "sound_std": np.array(2 * preprocess.std, dtype=np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        # exactly the samples of one window, whatever was given
        ("Pad", [INPUT_SAMPLES, "sound_pads"], "sound_long", {}),
        ("Slice", ["sound_long", "sound_start", "sound_stop", "sound_axis"], "sound_window", {}),
        ("Unsqueeze", ["sound_window", "sound_axis"], "sound_channel", {}),
        ("Conv", ["sound_channel", "sound_kernel"], "sound_spectrum", {"strides": [form.hop]}),
        ("Mul", ["sound_spectrum", "sound_spectrum"], "sound_squares", {}),
        ("MatMul", ["sound_mel", "sound_power"], "sound_energies", {}),  # (M, bins) x (B, bins, L)
        ("Max", ["sound_energies", "sound_floor"], "sound_floored", {}),
        ("Log", ["sound_floored"], "sound_log", {}),
        ("Transpose", ["sound_log"], "sound_features", {"perm": [0, 2, 1]}),
        # frame t is there if its last sample is: t * hop + frame <= num_samples
        ("Mul", ["sound_frames", "sound_hop"], "sound_begins", {}),
        ("Add", ["sound_begins", "sound_frame"], "sound_ends", {}),
        ("Unsqueeze", [INPUT_COUNT, "sound_axis"], "sound_counts", {}),
        ("LessOrEqual", ["sound_ends", "sound_counts"], "sound_is_there", {}),  # (B, L)
        ("Unsqueeze", ["sound_is_there", "sound_last"], "sound_mask", {}),
        ("Where", ["sound_mask", "sound_features", "sound_nothing"], "sound_filled", {}),
        ("Sub", ["sound_filled", "sound_mean"], "sound_centred", {}),
        ("Div", ["sound_centred", "sound_std"], INPUT_VALUES, {}),
    ]
    graph.initializer.append(numpy_helper.from_array(np.array([2]), "sound_last"))
    nodes = [helper.make_node(op, names, [out], name=f"{out}_node", **settings) for op, names, out, settings in steps]
    halves = [
        helper.make_node("Split", ["sound_squares", "sound_halves"], ["sound_real", "sound_imag"], name="sound_split",
                         axis=1),
        helper.make_node("Add", ["sound_real", "sound_imag"], ["sound_power"], name="sound_add"),
    ]  # fmt: skip
    behind = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes[:5], *halves, *nodes[5:], *behind])


def spectrum_kernel(frame: int, size: int) -> np.ndarray:
    """(size, frame) float64: real and then imaginary parts of bins 0 … size/2 - 1 of a prepared frame."""
    centring = np.eye(frame) - 1 / frame
    emphasis = np.eye(frame) - PREEMPHASIS * np.eye(frame, k=-1)
    emphasis[0, 0] -= PREEMPHASIS  # the first sample stands in for the one before it
    hann = np.hanning(frame)[:, None]
    angles = 2 * np.pi * np.arange(size // 2)[:, None] * np.arange(frame) / size
    return np.concatenate([np.cos(angles), -np.sin(angles)]) @ (hann * (emphasis @ centring))
