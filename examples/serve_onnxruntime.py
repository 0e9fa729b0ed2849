"""Serve a bundle with plain onnxruntime: python serve_onnxruntime.py BUNDLE IMAGE… [--without CLASS…]"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

parser = argparse.ArgumentParser()
parser.add_argument("bundle", type=Path)
parser.add_argument("images", nargs="+")
parser.add_argument("--without", nargs="*", default=[])
options = parser.parse_args()
manifest = json.loads((options.bundle / "manifest.json").read_text())
bank = load_file(options.bundle / "bank.safetensors")  # a server reads it again when the file has changed
active = [entry for entry in manifest["classes"] if entry["name"] not in options.without]
settings = manifest["preprocess"]
side, mean, std = (settings["size"],) * 2, np.float32(settings["mean"]), np.float32(settings["std"])
method = Image.Resampling[settings["resample"].upper()]
pixels = [np.float32(Image.open(name).convert("RGB").resize(side, method)) / 255 for name in options.images]
feed = {
    "pixel_values": np.stack([((image - mean) / std).transpose(2, 0, 1) for image in pixels]),
    "prompts": np.concatenate([bank[f"prompt.{entry['id']}"] for entry in active]),
}
if manifest["readout"] == "cls":
    feed["class_weight"] = np.stack([bank[f"weight.{entry['id']}"] for entry in active])
    feed["class_bias"] = np.stack([bank[f"bias.{entry['id']}"] for entry in active])
names = [entry["name"] for entry in active]
scores = onnxruntime.InferenceSession(options.bundle / "model.onnx").run(None, feed)[0]
if manifest["wrong_target"] == "none":  # a fixed score of 0 that stands for none of these
    scores = np.pad(scores, ((0, 0), (0, 1)))
largest = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)  # probability
best = np.where(largest < manifest.get("unknown_below", 0), len(names), scores.argmax(axis=1))  # with --abstain
for name, winner in zip(options.images, best, strict=True):
    print(name, [*names, "unknown"][winner])
