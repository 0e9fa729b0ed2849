"""Backbones in Hugging Face layout, of the hub or a folder: their configuration, and their weights.

Nothing of a folder or repository is executed.
"""

import json
from pathlib import Path

import torch

from pfm.backbones.family import FAMILIES, Family, HfConfig, Tensors, family_of
from pfm.backbones.limits import check_folder, check_sizes
from pfm.errors import BackboneError
from pfm.hub import quiet_hub


def place(name: str) -> str:
    """What the library is to be asked for: the path of a folder that is there, else the hub id."""
    path = Path(name).expanduser()
    return str(path) if path.exists() else name


def read_config(name: str) -> tuple[Family, HfConfig, HfConfig]:
    """Family, configuration and what the processor's file says; the library's defaults where there is no such file.

    Raises:
        BackboneError: there is no such backbone, or its family is not supported.
    """
    from transformers import AutoConfig

    path = Path(name).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        raise BackboneError(f"{name} has no config.json; a folder in Hugging Face layout is expected")
    if path.exists():
        check_folder(path)
    raw = read_raw_config(name)
    own = next((family for family in FAMILIES if family.owns(raw)), None)
    if own is not None:
        values, processor = own.read_layout(name, raw)
        check_sizes(values, name)
        return own, values, processor
    try:
        with quiet_hub():
            config = AutoConfig.from_pretrained(place(name), trust_remote_code=False)
    except Exception as error:  # the library checks fields in ways of its own
        raise BackboneError(
            f"cannot load backbone {name!r}: {first_sentence(error)}; "
            "give a hub id, a local folder in Hugging Face layout, or scratch:NAME (see --help)"
        ) from error
    values = config.to_dict()
    values = values.get("vision_config", values)  # of a model for images and texts, the half that sees
    family = family_of(values, name)
    check_sizes(values, name)
    values = family.completed(values)
    try:
        with quiet_hub():
            processor = family.read_processor(place(name))
    except OSError:
        processor = {}
    return family, values, processor


def read_raw_config(name: str) -> HfConfig:
    """`config.json` as it is; empty where there is none that can be read, of which the library says more."""
    path = hub_file(name, "config.json")
    try:
        raw = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raw = {}
    return raw if isinstance(raw, dict) else {}


def hub_file(name: str, file: str) -> Path | None:
    """A file of a folder, or of a hub id out of the client's cache; None where there is none."""
    folder = Path(name).expanduser()
    if folder.exists():
        return folder / file if (folder / file).is_file() else None
    from transformers.utils.hub import cached_file

    try:
        with quiet_hub():
            found = cached_file(name, file)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def read_tensors(path: Path) -> Tensors:
    """Tensors of a safetensors file, or of a PyTorch one, of which nothing is executed."""
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def read_weights(family: Family, name: str) -> tuple[HfConfig, Tensors]:
    """The configuration that weights were stored with, and the weights, in float32.

    Raises:
        BackboneError: weights that are missing or cannot be read.
    """
    from transformers.utils import logging

    path = Path(name).expanduser()
    if path.is_dir():
        check_folder(path)
    own = family.read_weights(name)
    if own is not None:
        return own
    _, model_class = family.hf_classes()
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with quiet_hub():
            model, report = model_class.from_pretrained(
                place(name),
                **family.model_settings,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except Exception as error:  # transformers, safetensors and the hub client each raise their own
        raise BackboneError(f"cannot load the weights of {name!r}: {first_sentence(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(report["missing_keys"])
    if missing:
        raise BackboneError(
            f"{name} lacks {len(missing)} of the backbone's weights ({missing[0]}, …); "
            f"it is not a {model_class.__name__} checkpoint"
        )
    return family.completed(model.config.to_dict()), model.state_dict()


def first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")
