"""`pfm train`, and what `accelerate launch pfm/train.py` runs."""

import dataclasses
from typing import Any

import click

from pfm.backbones.config import BackboneConfig
from pfm.commands.config_file import config_option
from pfm.commands.options import CONTEXT_SETTINGS, all_but, was_given, with_options
from pfm.commands.sections import SectionedCommand, SectionedOption
from pfm.data.config import AugmentConfig, DataConfig, FeedConfig
from pfm.device import DeviceConfig, launched_precision, resolve_device
from pfm.evaluation.config import EvalConfig
from pfm.model.config import LoraSettings, ModelConfig, StartConfig
from pfm.options import Section
from pfm.training.config import ObjectiveConfig, RunConfig, TrainConfig

FIRST = ("dataset", "model_name", "readout", "epochs", "batch_size", "lr", "seed", "save_dir", "resume", "config")


@click.command("train", cls=SectionedCommand, first=FIRST, context_settings=CONTEXT_SETTINGS)
@config_option()
@with_options(
    data=DataConfig,
    backbone=BackboneConfig,
    train=TrainConfig,
    objective=ObjectiveConfig,
    augment=AugmentConfig,
    model=ModelConfig,
    start=StartConfig,
    lora=LoraSettings,
    feed=FeedConfig,
    evaluation=all_but(EvalConfig, "max_subsets", "resamples"),  # of pfm eval
    device=DeviceConfig,
)
@click.option(
    "--plan", is_flag=True, help="Say what the run would do, and stop.", cls=SectionedOption, section=Section.SPEED
)
def train(plan: bool, **configs: Any) -> None:
    """Train a classifier whose classes can be removed.

    The defaults are the paper's. Several GPUs: accelerate launch pfm/train.py with the same options.
    """
    from pfm.backbones.spec import default_model
    from pfm.training.run import plan_only
    from pfm.training.run import train as run_training

    launched = launched_precision()
    if launched is not None and not was_given("mixed_precision"):
        configs["device"] = dataclasses.replace(configs["device"], mixed_precision=launched)
    if not was_given("model_name"):
        configs["backbone"] = dataclasses.replace(configs["backbone"], model_name=default_model(configs["data"].kind))
    config = RunConfig(**configs)
    device = resolve_device(config.device, gpu_was_asked_for=was_given("gpu_id"))
    if plan:
        plan_only(config, device, say=click.echo)
    else:
        run_training(config, device, say=click.echo)
