"""What a backbone's configuration may ask for: it may be anybody's, and is believed only within bounds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pfm.errors import BackboneError, explain
from pfm.storage import LARGEST_JSON, parse_json

# the largest that can be meant, far above any model's
_SIZES = {
    "hidden_size": 1 << 15, "num_hidden_layers": 1 << 10, "num_attention_heads": 1 << 10,
    "intermediate_size": 1 << 18, "image_size": 1 << 14, "patch_size": 1 << 10, "num_channels": 1 << 8,
    "conv_dim": 1 << 14, "conv_kernel": 1 << 12, "conv_stride": 1 << 12, "num_conv_pos_embeddings": 1 << 12,
    "num_conv_pos_embedding_groups": 1 << 12, "num_buckets": 1 << 16, "max_bucket_distance": 1 << 16,
    "max_length": 1 << 20, "num_mel_bins": 1 << 12, "frequency_stride": 1 << 12, "time_stride": 1 << 12,
}  # fmt: skip
MOST_WEIGHTS = 1 << 34
SLACK_BYTES = 64 << 20  # of weights that a file need not have


def check_sizes(config: Mapping[str, Any], name: str) -> None:
    """Refuse a configuration whose sizes are not sizes, or are absurd.

    Raises:
        BackboneError: which one.
    """
    for key, largest in _SIZES.items():
        least = 0 if key == "num_hidden_layers" else 1  # raw features have no blocks
        for value in _each(config.get(key)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
                raise BackboneError(
                    f"{name} says that its {key} is {str(value)[:40]}; {least} to {largest} is possible"
                )
    if num_weights(config) > MOST_WEIGHTS:
        raise BackboneError(f"{name} describes a model of {num_weights(config):.1e} weights; {MOST_WEIGHTS} at most")


def num_weights(config: Mapping[str, Any]) -> int:
    """About how many weights a transformer of these sizes has, a little too few rather than too many."""
    width, layers = _one(config, "hidden_size"), _one(config, "num_hidden_layers")
    return layers * width * (4 * width + 2 * _one(config, "intermediate_size"))


def check_stored(config: Mapping[str, Any], stored_bytes: int, name: str) -> None:
    """Refuse a configuration that describes far more weights than are stored: memory would be taken for nothing.

    Raises:
        BackboneError: it does.
    """
    if num_weights(config) > stored_bytes + SLACK_BYTES:  # of a byte each at the least
        raise BackboneError(
            f"{name} describes a model of at least {num_weights(config):,} weights, but all its files have "
            f"{stored_bytes:,} bytes; put its model.safetensors there, or the config.json of the weights that are"
        )


def check_json_files(folder: Path) -> None:
    """Refuse a folder whose JSON files are not ones that a reader can be handed.

    Raises:
        BackboneError: which file, and why.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            if not path.is_file():
                raise BackboneError(f"{path} is not an ordinary file")
            if path.stat().st_size > LARGEST_JSON:
                raise BackboneError(f"{path} has {path.stat().st_size} bytes; {LARGEST_JSON} are read")
            found = parse_json(path.read_bytes())
        except OSError as error:
            raise BackboneError(f"cannot read {path}: {explain(error)}") from error
        except ValueError as error:
            raise BackboneError(f"{path} is damaged ({error})") from error
        if not isinstance(found, dict):
            raise BackboneError(f"{path} is damaged (it is not an object)")


def stored_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _each(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]


def _one(config: Mapping[str, Any], key: str) -> int:
    return next((value for value in _each(config.get(key)) if isinstance(value, int)), 0)
