"""`config.json` and `preprocessor_config.json` in Hugging Face layout: what tools of the field look for in a folder.

They describe the backbone and its input. No class is named in them, so an erasure has nothing to
rewrite there.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pfm.backbones.spec import BackboneSpec
from pfm.data.decoding import ImageDecoding, stored_decoding
from pfm.data.inputs import Preprocess
from pfm.registry import Registry
from pfm.storage import Json

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
_OF_CLASSES = ("id2label", "label2id", "num_labels", "problem_type")
# by the kind of preprocessing: what the field's processor of that kind reads, from the preprocessing as it is stored
PROCESSORS: Registry[Callable[[Mapping[str, Any]], Json]] = Registry("processor for the preprocessing")


def without_classes(config: Mapping[str, Any]) -> dict[str, Any]:
    """A Hugging Face configuration without labels, nor the folder it was read from."""
    return {key: value for key, value in config.items() if key not in _OF_CLASSES and not key.startswith("_")}


def hub_files(spec: BackboneSpec, preprocess: Preprocess) -> dict[str, bytes]:
    """Both files' content, by name."""
    model = {
        **without_classes(spec.config),
        "architectures": [spec.family.architecture(spec.config)],
        "model_type": spec.family.name,
    }
    processor = PROCESSORS.get(preprocess.kind)(preprocess.to_dict())
    return {name: _as_json(values) for name, values in ((CONFIG, model), (PREPROCESSOR, processor))}


def _of_sounds(settings: Mapping[str, Any]) -> Json:
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": settings["sampling_rate"],
        "num_mel_bins": settings["num_mel_bins"],
        "max_length": settings["max_length"],
        "padding_value": 0.0,
        "do_normalize": True,
        "mean": settings["mean"],
        "std": settings["std"],
        "return_attention_mask": False,
    }


def _of_samples(settings: Mapping[str, Any]) -> Json:
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": settings["sampling_rate"],
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": settings["do_normalize"],
        "return_attention_mask": False,
    }


def _of_images(settings: Mapping[str, Any]) -> Json:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        **_fitted(settings),
        "resample": _RESAMPLE[settings["resample"]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(settings["mean"]),
        "image_std": list(settings["std"]),
        "decoding": settings["decoding"],  # what comes before; no processor of the field knows of it
    }


def _fitted(settings: Mapping[str, Any]) -> Json:
    """How an image becomes square, in the words of the field's processors."""
    side: int = settings["size"]
    decoding = stored_decoding(settings) or ImageDecoding()
    resized = round(side / decoding.keep)
    is_cropped = decoding.fit == "crop"
    size = {"shortest_edge": resized} if is_cropped else {"height": resized, "width": resized}
    if not is_cropped and resized == side:
        return {"size": size}
    return {"size": size, "do_center_crop": True, "crop_size": {"height": side, "width": side}}


PROCESSORS.register("image", _of_images)
PROCESSORS.register("audio", _of_sounds)
PROCESSORS.register("waves", _of_samples)


def _as_json(values: Json) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
