"""`config.json` and `preprocessor_config.json` in Hugging Face layout: what tools of the field look for in a folder.

They describe the backbone and its input. No class is named in them, so an erasure has nothing to
rewrite there.
"""

import json
from typing import Any

from pfm.data.images import ImagePreprocess
from pfm.data.inputs import Preprocess
from pfm.data.sounds import SoundPreprocess

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
_OF_CLASSES = ("id2label", "label2id", "num_labels", "problem_type")


def without_classes(config: dict[str, Any]) -> dict[str, Any]:
    """A Hugging Face configuration without labels, nor the folder it was read from."""
    return {key: value for key, value in config.items() if key not in _OF_CLASSES and not key.startswith("_")}


def hub_files(config: dict[str, Any], preprocess: Preprocess) -> dict[str, bytes]:
    """Both files' content, by name."""
    if isinstance(preprocess, SoundPreprocess):
        model, processor = _of_sounds(config, preprocess)
    else:
        model, processor = _of_images(config, preprocess)
    return {name: _as_json(values) for name, values in ((CONFIG, model), (PREPROCESSOR, processor))}


def _of_sounds(config: dict[str, Any], preprocess: SoundPreprocess) -> tuple[dict[str, Any], dict[str, Any]]:
    model = {**without_classes(config), "architectures": ["ASTModel"], "model_type": "audio-spectrogram-transformer"}
    processor = {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": preprocess.sampling_rate,
        "num_mel_bins": preprocess.num_mel_bins,
        "max_length": preprocess.max_length,
        "padding_value": 0.0,
        "do_normalize": True,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "return_attention_mask": False,
    }
    return model, processor


def _of_images(config: dict[str, Any], preprocess: ImagePreprocess) -> tuple[dict[str, Any], dict[str, Any]]:
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
    return model, processor


def _as_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
