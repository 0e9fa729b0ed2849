"""Serve a bundle with plain onnxruntime: python serve_onnxruntime.py BUNDLE IMAGE… [--without CLASS…]"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from safetensors.numpy import load_file


def decoded(name, how):
    """A file as RGB, turned, laid on a ground and fitted as in training: `how` is what the manifest says of that."""
    with Image.open(name) as file:
        if how["decode"] == "fast" and how["size"]:
            file.draft(None, inner(file.size, how))  # a JPEG at the nearest smaller scale
        image = ImageOps.exif_transpose(file)
    if image.mode[0] in "IF":  # more than 8 bits
        levels, is_shallow = np.asarray(image, np.float64), image.mode == "I" and np.max(image) < 256
        low, high = how["window"] or (0, 255 if is_shallow else 65535)
        image = Image.fromarray(np.round((levels.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8))
    if image.has_transparency_data and how["background"] is not None:
        ground = Image.new("RGBA", image.size, (how["background"],) * 3 + (255,))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    image = image.convert("RGB")
    (width, height), edge = image.size, min(image.size)
    if how["size"]:
        box = (0, 0, width, height)
        if how["fit"] == "crop":
            box = ((width - edge) / 2, (height - edge) / 2, (width + edge) / 2, (height + edge) / 2)
        image = image.resize(inner(image.size, how), Image.Resampling[how["resample"].upper()], box)
    elif how["fit"] == "crop":
        left, top = (width - edge) // 2, (height - edge) // 2
        image = image.crop((left, top, left + edge, top + edge))
    if how["fit"] == "pad":
        square = Image.new("RGB", (max(image.size),) * 2)
        square.paste(image, tuple((max(image.size) - side) // 2 for side in image.size))
        return square
    return image


def inner(sides, how):
    """What an image fills of the square."""
    share = how["size"] / max(sides)
    return tuple(max(1, round(side * share)) if how["fit"] == "pad" else how["size"] for side in sides)


def pixel_values(name, settings):
    """(3, S, S) float32, as the model takes it."""
    side, method = (settings["size"],) * 2, Image.Resampling[settings["resample"].upper()]
    planes = [plane.convert("F").resize(side, method) for plane in decoded(name, settings["decoding"]).split()]
    mean, std = (255 * np.float32(settings[what]).reshape(3, 1, 1) for what in ("mean", "std"))
    return (np.stack(planes) - mean) / std


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--without", nargs="*", default=[])
    options = parser.parse_args()
    manifest = json.loads((options.bundle / "manifest.json").read_text())
    bank = load_file(options.bundle / "bank.safetensors")  # a server reads it again when the file has changed
    active = [entry for entry in manifest["classes"] if entry["name"] not in options.without]
    manifest["preprocess"]["decoding"] = {  # what a bundle of before leaves out
        "size": None,
        "fit": "stretch",
        "decode": "full",
        "resample": "bilinear",
        "window": None,
        "background": None if "decoding" not in manifest["preprocess"] else 255,
        **(manifest["preprocess"].get("decoding") or {}),
    }
    feed = {
        "pixel_values": np.stack([pixel_values(name, manifest["preprocess"]) for name in options.images]),
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


if __name__ == "__main__":
    main()
