"""`pfm train`, and what `accelerate launch pfm/train.py` runs."""

import dataclasses
from typing import Any

import click

from pfm.backbones.config import BackboneConfig
from pfm.commands.config_file import config_option
from pfm.commands.options import CONTEXT_SETTINGS, all_but, only, was_given, with_options
from pfm.commands.recipe import with_recipe
from pfm.commands.sections import SectionedCommand, SectionedOption
from pfm.commands.unheeded import refuse_adapters, refuse_unused
from pfm.data.config import AugmentConfig, DataConfig, FeedConfig
from pfm.device import DeviceConfig, launched_precision, resolve_device
from pfm.errors import ConfigError
from pfm.evaluation.config import EvalConfig
from pfm.model.config import LoraSettings, ModelConfig, StartConfig
from pfm.options import Section
from pfm.training.config import ObjectiveConfig, RecipeConfig, RunConfig, TrainConfig

FIRST = (
    "dataset",
    "model_name",
    "readout",
    "epochs",
    "batch_size",
    "lr",
    "seed",
    "save_dir",
    "resume",
    "recipe",
    "config",
)


@click.command("train", cls=SectionedCommand, first=FIRST, context_settings=CONTEXT_SETTINGS)
@config_option()
@with_options(
    data=DataConfig,
    backbone=BackboneConfig,
    recipe=only(RecipeConfig, "recipe"),
    train=TrainConfig,
    objective=ObjectiveConfig,
    augment=AugmentConfig,
    model=ModelConfig,
    start=StartConfig,
    lora=LoraSettings,
    feed=FeedConfig,
    evaluation=all_but(EvalConfig, "max_subsets", "resamples", "exact_subsets"),  # of pfm eval
    device=DeviceConfig,
)
@click.option(
    "--plan", is_flag=True, help="Say what the run would do, and stop.", cls=SectionedOption, section=Section.SPEED
)
def train(plan: bool, **configs: Any) -> None:
    """Train a classifier whose classes can be removed.

    The defaults are the paper's. Several GPUs: accelerate launch pfm/train.py with the same options.
    """
    from pfm.backbones.raw import raw_model
    from pfm.backbones.spec import default_model
    from pfm.training.run import plan_only
    from pfm.training.run import train as run_training

    launched = launched_precision()
    if launched is not None and not was_given("mixed_precision"):
        configs["device"] = dataclasses.replace(configs["device"], mixed_precision=launched)
    features, kind = configs["model"].features, configs["data"].kind
    if not was_given("model_name"):
        name = raw_model(kind) if features == "raw" else default_model(kind)
        configs["backbone"] = dataclasses.replace(configs["backbone"], model_name=name)
    elif features == "raw":
        raise ConfigError("--features raw needs no backbone; leave --model_name out")
    config = RunConfig(**with_recipe(configs))
    refuse_unused(config.model.readout)
    refuse_adapters(config)
    device = resolve_device(config.device, gpu_was_asked_for=was_given("gpu_id"))
    if plan:
        plan_only(config, device, say=click.echo)
    else:
        run_training(config, device, say=click.echo)
