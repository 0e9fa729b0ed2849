"""What a frozen trunk makes of a split, computed once and kept.

Letters: N inputs, B batch, T tokens of the backbone, D hidden size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from pfm.data.feed import Feed, FeedConfig
from pfm.data.inputs import Preprocess
from pfm.data.mapped import mapped_tensor
from pfm.errors import ConfigError
from pfm.model.classifier import PromptedClassifier
from pfm.runlog import progress


class TrunkCache:
    """The tokens (N, T, D) that a frozen trunk makes of a split, computed once."""

    def __init__(self, tokens: torch.Tensor, device: torch.device) -> None:
        self.tokens = tokens
        self.device = device

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, T, D) on the device."""
        return self.tokens[index.to(self.tokens.device)].to(self.device, non_blocking=True)


def check_cache(config: FeedConfig, model: PromptedClassifier, *, is_augmented: bool) -> None:
    """Refuse a cache of what would change.

    Raises:
        ConfigError: the trunk trains, or the images are not the same in each epoch.
    """
    if config.cache_trunk == "off":
        return
    if not model.trunk_is_frozen:
        raise ConfigError("--cache_trunk keeps what frozen blocks compute; --tune full trains them. Use --tune lora")
    if is_augmented:
        raise ConfigError(
            "--cache_trunk keeps what is the same each epoch; augmented inputs, and clips longer than the model's "
            "window, which are cropped at random, are not"
        )


@torch.no_grad()
def cache_trunk(
    model: PromptedClassifier,
    feed: Feed,
    count: int,
    preprocess: Preprocess,
    where: str,
    *,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    say: Callable[[str], None],
    name: str,
    show_progress: bool = True,
) -> TrunkCache:
    """Run the trunk over all `count` images of a split and keep the tokens.

    Args:
        where: "device", "host" or "disk".
        name: of the split, in messages.
    """
    device = feed.device
    was_training = model.training
    model.eval()
    kept: torch.Tensor | None = None
    with progress(count, f"cache of {name}", unit="img", is_main=show_progress) as bar:
        for index in torch.arange(count).split(batch_size):
            with autocast():
                tokens = model.trunk(preprocess(feed(index)))  # (B, T, D)
            if kept is None:
                kept = _reserve((count, *tokens.shape[1:]), tokens.dtype, where, device, say, name)
            kept[index[0] : index[-1] + 1] = tokens.to(kept.device)
            bar.update(len(index))
    model.train(was_training)
    assert kept is not None
    return TrunkCache(kept, device)


def _reserve(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    where: str,
    device: torch.device,
    say: Callable[[str], None],
    name: str,
) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    say(f"trunk of {name}: {shape[0]:,} images x {shape[1]} tokens, {size / 2**20:,.0f} MiB in each process ({where})")
    if where == "device":
        return torch.empty(shape, dtype=dtype, device=device)
    if where == "host":
        return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    return mapped_tensor(shape, dtype, "--cache_trunk disk")
