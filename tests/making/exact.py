"""Fits of the exact readout on tiny data."""

from pathlib import Path

import numpy as np
import torch

from making.images import coloured_images
from making.models import NAMES
from pfm.backbones.config import BackboneConfig
from pfm.classes import ClassList
from pfm.data.config import AugmentConfig, DataConfig
from pfm.data.splits import ClassificationData, Split
from pfm.device import DeviceConfig
from pfm.evaluation.config import EvalConfig
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.config import LoraSettings, ModelConfig
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.run import train

RAW = "scratch:raw_pixels"


def image_data(count: int = 48) -> ClassificationData:
    """Images of four colours, from six cameras, each with a name; the last is a copy of the first."""
    images, labels = coloured_images(count)
    images[-1], labels[-1] = images[0], labels[0]
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    train_split = Split(
        inputs, torch.from_numpy(labels[:, 0].astype(np.int64)), tuple(f"camera{i % 6}" for i in range(count)),
        tuple(f"image{i}.png" for i in range(count)),
    )  # fmt: skip
    return ClassificationData(
        "colours", ClassList.from_names(list(NAMES)), train_split, train_split.subset(torch.arange(8))
    )


def only(data: ClassificationData, keep: torch.Tensor) -> ClassificationData:
    """The data with no more training samples than those at a mask, and without the classes that lose all theirs."""
    split = data.train.subset(keep.nonzero()[:, 0])
    left = sorted(set(split.labels.tolist()))
    new = torch.tensor([left.index(c) if c in left else -1 for c in range(len(data.classes))])
    classes = data.classes.keep(left)
    return ClassificationData(data.name, classes, split.relabelled(new), data.test.relabelled(new))


def fit(
    data: ClassificationData,
    folder: Path,
    *,
    model_name: str = RAW,
    memory: str = "features",
    width: int = 48,
    seed: int = 3,
    abstain: float = 0.0,
    where: str = "cpu",
) -> Checkpoint:
    """What `pfm train --readout ridge` saves."""
    features = "raw" if "raw" in model_name else "backbone"
    config = RunConfig(
        data=DataConfig(dataset="digits"),
        backbone=BackboneConfig(model_name=model_name),
        model=ModelConfig(readout="ridge", features=features, width=width, memory=memory, abstain=abstain),
        lora=LoraSettings(),
        train=TrainConfig(seed=seed, save_dir=str(folder), eval_every=0),
        augment=AugmentConfig(),
        evaluation=EvalConfig(),
        device=DeviceConfig(cpu=where == "cpu"),
    )
    return load_checkpoint(train(config, torch.device(where), lambda _: None, data=data).checkpoint)
