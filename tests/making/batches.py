"""A loader over six random images."""

import torch

from pfm.data.config import AugmentConfig, FeedConfig
from pfm.data.feed import Feed
from pfm.data.images import ImagePreprocess
from pfm.data.splits import Split
from pfm.device import Processes
from pfm.model.trunk_cache import TrunkCache
from pfm.model.views import StoredInputs
from pfm.training.batches import Examples, Loader

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 3, 1, 2])
IMAGES = torch.randint(0, 256, (6, 3, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))


def make_loader(
    augment: AugmentConfig,
    *,
    global_batch: int = 6,
    part_size: int = 6,
    tokens: TrunkCache | None = None,
    processes: Processes | None = None,
) -> Loader:
    stored = StoredInputs(Feed(Split(IMAGES, LABELS), CPU, FeedConfig()), PREPROCESS)
    examples = Examples(labels=LABELS, num_classes=4, stored=stored, augment=augment, tokens=tokens)
    return Loader(examples, processes or Processes(device=CPU), seed=1, global_batch=global_batch, part_size=part_size)
