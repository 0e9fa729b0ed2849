"""Backbones in Hugging Face layout, of the hub or a folder: their configuration, and their weights.

Nothing of a folder or repository is executed.
"""

import json
import os
import warnings
from pathlib import Path

import torch

from pfm.backbones.family import FAMILIES, Family, HfConfig, Tensors, family_of
from pfm.backbones.limits import check_json_files, check_sizes
from pfm.errors import BackboneError, HubError
from pfm.hub import Repository, check_hash, find_commit, find_file, quiet_hub, reason

CONFIG = "config.json"
_INSTEAD = "give a hub id, a local folder in Hugging Face layout, or scratch:NAME (see --help)"
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


def place(name: str) -> str:
    """What the library is to be asked for: the path of a folder that is there, else the hub id."""
    path = Path(name).expanduser()
    return str(path) if path.exists() else name


def read_config(name: str, revision: str = "") -> tuple[Family, HfConfig, HfConfig, str]:
    """Family, configuration, what the processor's file says, and the commit that they are of.

    The library's defaults are taken where there is no processor's file; the commit of a folder is "".

    Args:
        revision: of the hub's repository: a branch, tag or commit; "" is what its main branch is now.

    Raises:
        BackboneError: there is no such backbone, or its family is not supported.
    """
    from transformers import AutoConfig

    folder, commit, repository = Path(name).expanduser(), "", Repository(name, revision)
    is_local = folder.exists()
    if is_local and revision:
        raise BackboneError(f"--revision is for models of the hub; {name} is a folder")
    try:
        if not is_local:
            commit = find_commit(repository, CONFIG)
            found = find_file(Repository(name, commit), CONFIG)
            if found is not None:
                folder = found.parent
                for file in folder.glob("*.json"):  # of earlier runs
                    if file.exists():
                        check_hash(file)
                    else:
                        file.unlink()  # a link whose content somebody deleted, as we ask where it is damaged
    except HubError as error:
        raise BackboneError(f"cannot load backbone {name!r}: {error}; {_INSTEAD}") from error
    if not (folder / CONFIG).is_file():
        raise BackboneError(f"{name} has no {CONFIG}; a folder in Hugging Face layout is expected")
    check_json_files(folder)
    raw = read_raw_config(name, commit)
    own = next((family for family in FAMILIES if family.owns(raw)), None)
    if own is not None:
        values, processor = own.read_layout(name, raw, commit)
        check_sizes(values, name)
        return own, values, processor, commit
    try:
        with quiet_hub():
            config = AutoConfig.from_pretrained(place(name), revision=commit or None, trust_remote_code=False)
    except Exception as error:  # the library checks fields in ways of its own
        raise BackboneError(f"cannot load backbone {name!r}: {reason(error, repository)}; {_INSTEAD}") from error
    values = config.to_dict()
    values = values.get("vision_config", values)  # of a model for images and texts, the half that sees
    family = family_of(values, name)
    check_sizes(values, name)
    return family, family.completed(values), _read_processor(family, name, commit), commit


def _read_processor(family: Family, name: str, commit: str) -> HfConfig:
    """What the processor's file says; nothing where there is none.

    Raises:
        BackboneError: whether there is one cannot be found out, or it is damaged.
    """
    found = [path for path in (hub_file(name, file, commit) for file in _PROCESSORS) if path is not None]
    if not found:
        return {}
    check_json_files(found[0].parent)
    try:
        return family.read_processor(str(found[0].parent))
    except OSError:  # a file of another processor, such as a tokenizer's
        return {}


def read_raw_config(name: str, commit: str = "") -> HfConfig:
    """`config.json` as it is; empty where there is none that can be read, of which the library says more."""
    path = hub_file(name, CONFIG, commit)
    try:
        raw = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raw = {}
    return raw if isinstance(raw, dict) else {}


def hub_file(name: str, file: str, commit: str = "") -> Path | None:
    """A file of a folder, or of a hub id out of the client's cache; None where there is none.

    Args:
        commit: of the hub's repository; "" is what its main branch is now.

    Raises:
        BackboneError: it cannot be had.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        return folder / file if (folder / file).is_file() else None
    try:
        return find_file(Repository(name, commit), file)
    except HubError as error:
        raise BackboneError(f"cannot load {file} of {name!r}: {error}") from error


def read_tensors(path: Path) -> Tensors:
    """Tensors of a safetensors file, or of a PyTorch one, of which nothing is executed."""
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def read_weights(family: Family, name: str, commit: str = "") -> tuple[HfConfig, Tensors]:
    """The configuration that weights were stored with, and the weights, in float32.

    Args:
        commit: of the hub's repository; "" is what its main branch is now.

    Raises:
        BackboneError: weights that are missing, damaged or cannot be read.
    """
    from transformers.utils import logging

    path = Path(name).expanduser()
    if path.is_dir():
        check_json_files(path)
    own = family.read_weights(name, commit)
    if own is not None:
        return own
    _, model_class = family.hf_classes()
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else transformers asks the hub to convert others' files
    try:
        with quiet_hub(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch finds odd in a file; it is read or refused
            model, report = model_class.from_pretrained(
                place(name),
                **family.model_settings,
                revision=commit or "main",
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
        _check_weights(name, commit)
    except Exception as error:  # transformers, safetensors and the hub client each raise their own
        raise BackboneError(f"cannot load the weights of {name!r}: {_why(error, name, commit)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(set(report["missing_keys"]) - set(family.unneeded))
    if missing:
        raise BackboneError(
            f"{name} lacks {len(missing)} of the backbone's weights ({missing[0]}, …); "
            f"it is not a {model_class.__name__} checkpoint"
        )
    return family.completed(model.config.to_dict()), model.state_dict()


def _why(error: Exception, name: str, commit: str) -> str:
    """What went wrong; a damaged file rather than what came of it."""
    try:
        _check_weights(name, commit)
    except HubError as damage:
        return str(damage)
    return reason(error, Repository(name, commit))


def _check_weights(name: str, commit: str) -> None:
    """The weights in the hub's cache are what the hub stated.

    Raises:
        HubError: they are not.
    """
    if not commit or Path(name).expanduser().exists():
        return
    config = find_file(Repository(name, commit), CONFIG)  # which is there by now
    if config is not None:
        for file in sorted(file for pattern in _WEIGHTS for file in config.parent.glob(pattern)):
            check_hash(file)


def first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")
