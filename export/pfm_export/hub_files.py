"""`config.json` and `preprocessor_config.json` in Hugging Face layout: what tools of the field look for in a folder.

They describe the backbone and its input. No class is named in them, so an erasure has nothing to
rewrite there.
"""

import json
from typing import Any

from pfm.images import ImagePreprocess

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
_OF_CLASSES = ("id2label", "label2id", "num_labels", "problem_type")


def without_classes(config: dict[str, Any]) -> dict[str, Any]:
    """A Hugging Face configuration without labels, nor the folder it was read from."""
    return {key: value for key, value in config.items() if key not in _OF_CLASSES and not key.startswith("_")}


def hub_files(config: dict[str, Any], preprocess: ImagePreprocess) -> dict[str, bytes]:
    """Both files' content, by name."""
    model = {**without_classes(config), "architectures": ["ViTModel"], "model_type": "vit"}
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": preprocess.size, "width": preprocess.size},
        "resample": _RESAMPLE[preprocess.resample],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    return {name: _as_json(values) for name, values in ((CONFIG, model), (PREPROCESSOR, processor))}


def _as_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
