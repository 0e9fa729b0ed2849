"""Serve a bundle of sounds with plain onnxruntime: python serve_onnxruntime_audio.py BUNDLE WAV… [--without CLASS…]

For a bundle exported --with_frontend and 16-bit WAV files at its sampling rate, no longer than its window."""

import argparse
import json
import wave
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

parser = argparse.ArgumentParser()
parser.add_argument("bundle", type=Path)
parser.add_argument("sounds", nargs="+")
parser.add_argument("--without", nargs="*", default=[])
options = parser.parse_args()
manifest = json.loads((options.bundle / "manifest.json").read_text())
bank = load_file(options.bundle / "bank.safetensors")  # a server reads it again when the file has changed
active = [entry for entry in manifest["classes"] if entry["name"] not in options.without]
names = [*(entry["name"] for entry in active), "unknown"]
shared = {"prompts": np.concatenate([bank[f"prompt.{entry['id']}"] for entry in active])}
if manifest["readout"] == "cls":
    shared["class_weight"] = np.stack([bank[f"weight.{entry['id']}"] for entry in active])
    shared["class_bias"] = np.stack([bank[f"bias.{entry['id']}"] for entry in active])
session = onnxruntime.InferenceSession(options.bundle / "model.onnx")
for sound in options.sounds:
    with wave.open(sound) as file:
        wanted = (manifest["preprocess"]["sampling_rate"], 2)
        assert (file.getframerate(), file.getsampwidth()) == wanted, f"{sound}: make it {wanted[0]} Hz, 16 bits"
        channels = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    samples = channels.mean(axis=1, dtype=np.float32)[None] / 2**15
    feed = {"waveform": samples, "num_samples": np.array([samples.shape[1]], np.int32), **shared}
    scores = session.run(None, feed)[0]
    if manifest["wrong_target"] == "none":  # a fixed score of 0 that stands for none of these
        scores = np.pad(scores, ((0, 0), (0, 1)))
    is_unsure = 1 / np.exp(scores - scores.max()).sum() < manifest.get("unknown_below", 0)  # with --abstain
    print(sound, names[-1 if is_unsure else scores[0].argmax()])
