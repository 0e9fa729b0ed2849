"""What a hub of the tests holds: a small random ViT, a sound model, coloured images as a data set, a MedMNIST file."""

import hashlib
import io
import json
from typing import Any

import numpy as np
from safetensors.torch import save

from making.images import coloured_images
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneSpec

SHAPE: dict[str, Any] = {
    "model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
PROCESSOR = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_normalize": True, "resample": 3}


def vit_files(seed: int = 0, **changes: Any) -> dict[str, bytes]:
    """A ViT as its authors publish one."""
    config = {**SHAPE, **changes}
    encoder = build_backbone(BackboneSpec("scratch:vit_digits", {**config, "layer_norm_eps": 1e-12}), seed=seed).encoder
    weights = {name: tensor.contiguous().clone() for name, tensor in encoder.state_dict().items()}
    return {
        "config.json": json.dumps({**config, "architectures": ["ViTModel"]}).encode(),
        "preprocessor_config.json": json.dumps(PROCESSOR).encode(),
        "model.safetensors": save(weights, {"format": "pt"}),
        "README.md": b"# a ViT\n",
    }


def table_files(seed: int = 0, *, count: int = 32, card: bool = True) -> dict[str, bytes]:
    """Coloured images with labels, as Parquet files of two splits."""
    import datasets

    files = {"README.md": b"---\nlicense: mit\n---\n# colours\n"} if card else {}
    for split, number in (("train", seed), ("test", seed + 1)):
        images, labels = coloured_images(count, seed=number)
        rows = {"image": list(images), "label": labels[:, 0].tolist()}
        names = datasets.ClassLabel(names=["red", "green", "blue", "grey"])
        features = datasets.Features({"image": datasets.Image(), "label": names})
        buffer = io.BytesIO()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(buffer)
        files[f"data/{split}-00000-of-00001.parquet"] = buffer.getvalue()
    return files


def medmnist_file(classes: int = 8) -> tuple[bytes, str]:
    """A file in MedMNIST's layout, and its MD5."""
    arrays: dict[str, Any] = {}
    for split, count in (("train", 64), ("val", 16), ("test", 16)):
        images, labels = coloured_images(count, num_classes=classes, size=28)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue(), hashlib.md5(buffer.getvalue(), usedforsecurity=False).hexdigest()
