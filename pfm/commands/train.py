"""`pfm train`, and what `accelerate launch pfm/train.py` runs."""

import dataclasses
from typing import Any

import click

from pfm.backbones.spec import BackboneConfig, default_model
from pfm.commands.options import CONTEXT_SETTINGS, all_but, was_given, with_options
from pfm.data.augmentation import AugmentConfig
from pfm.data.config import DataConfig
from pfm.data.feed import FeedConfig
from pfm.device import DeviceConfig, launched_precision, resolve_device
from pfm.evaluation.evaluator import EvalConfig
from pfm.model.classifier import ModelConfig
from pfm.model.lora import LoraSettings
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.objective import ObjectiveConfig
from pfm.training.run import train as run_training


@click.command("train", context_settings=CONTEXT_SETTINGS)
@with_options(
    data=DataConfig,
    backbone=BackboneConfig,
    train=TrainConfig,
    objective=ObjectiveConfig,
    augment=AugmentConfig,
    model=ModelConfig,
    lora=LoraSettings,
    feed=FeedConfig,
    evaluation=all_but(EvalConfig, "max_subsets"),  # of pfm eval
    device=DeviceConfig,
)
def train(**configs: Any) -> None:
    """Train a classifier whose classes can be removed.

    The defaults are the paper's. Several GPUs: accelerate launch pfm/train.py with the same options.
    """
    launched = launched_precision()
    if launched is not None and not was_given("mixed_precision"):
        configs["device"] = dataclasses.replace(configs["device"], mixed_precision=launched)
    if not was_given("model_name"):
        configs["backbone"] = dataclasses.replace(configs["backbone"], model_name=default_model(configs["data"].kind))
    config = RunConfig(**configs)
    device = resolve_device(config.device, gpu_was_asked_for=was_given("gpu_id"))
    run_training(config, device, say=click.echo)
