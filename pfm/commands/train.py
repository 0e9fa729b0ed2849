"""Options in, one call, text out: `pfm train`, `pfm eval`."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from pfm.backbones.spec import AUDIO_DEFAULT, BackboneConfig
from pfm.classes import split_names
from pfm.commands.options import CONTEXT_SETTINGS, with_options
from pfm.data.feed import FeedConfig
from pfm.data.image_augmentation import AugmentConfig
from pfm.data.loading import load_data
from pfm.data.splits import DataConfig
from pfm.device import DeviceConfig, launched_precision, resolve_device
from pfm.errors import ConfigError
from pfm.evaluation.evaluator import EvalConfig, Evaluation, forget_sizes, label_positions
from pfm.evaluation.pictures import draw_forgetting
from pfm.forgetting import erase as forgetting
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import ModelConfig, PromptedClassifier
from pfm.model.lora import LoraSettings
from pfm.storage import make_folder, write_json
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.launch import leave, start_accelerator
from pfm.training.objective import ObjectiveConfig
from pfm.training.run import make_evaluator
from pfm.training.run import train as run_training


def was_given(name: str) -> bool:
    """Whether the user typed this option of the running command."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP, None)


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
    evaluation=EvalConfig,
    device=DeviceConfig,
)
def train(**configs: Any) -> None:
    """Train a classifier whose classes can be removed.

    The defaults are the paper's. Several GPUs: accelerate launch pfm/train.py with the same options.
    """
    launched = launched_precision()
    if launched is not None and not was_given("mixed_precision"):
        configs["device"] = dataclasses.replace(configs["device"], mixed_precision=launched)
    if configs["data"].is_audio and not was_given("model_name"):
        configs["backbone"] = dataclasses.replace(configs["backbone"], model_name=AUDIO_DEFAULT)
    config = RunConfig(**configs)
    if config.evaluation.max_subsets is not None:
        raise ConfigError("--max_subsets is an option of pfm eval; pfm train evaluates no subsets")
    device = resolve_device(config.device, gpu_was_asked_for=was_given("gpu_id"))
    run_training(config, device, say=click.echo)


@click.command("eval", context_settings=CONTEXT_SETTINGS)
@click.option(
    "--ckpt", required=True, type=click.Path(path_type=Path), help="Checkpoint of pfm or of the paper's tool."
)
@with_options(data=DataConfig, backbone=BackboneConfig, evaluation=EvalConfig, device=DeviceConfig)
@click.option("--suspend", default="", help="Evaluate with these classes' prompts left out (names or numbers).")
@click.option("--seed", default=42, type=click.IntRange(min=0), help="Seed of the random modes and of sampled subsets.")
@click.option("--save_dir", default="checkpoints", help="Folder for the JSON files and the picture.")
def evaluate(
    ckpt: Path,
    data: DataConfig,
    backbone: BackboneConfig,
    evaluation: EvalConfig,
    device: DeviceConfig,
    suspend: str,
    seed: int,
    save_dir: str,
) -> None:
    """Accuracy in every inference mode, and forget and retain accuracy for k = 1, C/2 and C-1.

    The data set is the one the checkpoint was trained on, unless --dataset says otherwise.
    """
    where = resolve_device(device, gpu_was_asked_for=was_given("gpu_id"))
    checkpoint = load_checkpoint(ckpt, model_name=backbone.model_name if was_given("model_name") else None)
    for note in checkpoint.notes:
        click.echo(f"note: {note}")
    loaded = load_data(data_of_run(checkpoint, data), checkpoint.preprocess.storage, device=where)
    click.echo(loaded.describe())
    positions = label_positions(checkpoint.classes, loaded.classes, checkpoint.erased)
    model = checkpoint.build_model()
    if device.stores_frozen_in_bf16 and model.trunk_is_frozen:
        model.store_frozen(torch.bfloat16)
    accelerator = start_accelerator(where, device)
    model.to(accelerator.device)
    evaluator = make_evaluator(loaded.test, positions, checkpoint.preprocess, accelerator, evaluation, seed=seed)
    stem = make_folder(Path(save_dir)) / f"{loaded.name}_seed_{seed}"
    if suspend:
        active = forgetting.active_positions(model.classes, split_names(suspend))
        result = evaluator.accuracy_of_set(model, active)
        names = ", ".join(name for i, name in enumerate(model.classes.names) if i not in active)
        click.echo(
            f"suspended (reversible, nothing erased): {names}\n"
            f"  accuracy on their samples  {_percent(result['forget'])}\n"
            f"  accuracy on the others     {_percent(result['retain'])}"
        )
        if accelerator.is_main_process:
            write_json(Path(f"{stem}_suspended.json"), {"suspended": names.split(", "), **result})
        leave(accelerator)
        return
    ks = forget_sizes(model.num_classes)
    measured = evaluator.evaluate(model, ks=ks, max_subsets=evaluation.max_subsets)
    if accelerator.is_main_process:
        click.echo(describe_evaluation(measured, model))
        for path in write_evaluation(Path(str(stem)), measured, model, title=f"{loaded.name}: {ckpt.name}"):
            click.echo(f"wrote {path}")
    leave(accelerator)


def data_of_run(checkpoint: Checkpoint, given: DataConfig) -> DataConfig:
    """The data set of the training run, each option overridden where the user typed it."""
    stored = checkpoint.run.get("data", {})
    typed = {
        field.name: getattr(given, field.name) for field in dataclasses.fields(DataConfig) if was_given(field.name)
    }
    if "dataset" in typed:
        return given
    known = {field.name: stored[field.name] for field in dataclasses.fields(DataConfig) if field.name in stored}
    return dataclasses.replace(given, **{**known, **typed})


def _percent(value: float) -> str:
    return "  n/a" if value != value else f"{100 * value:5.1f}"


def describe_evaluation(measured: Evaluation, model: PromptedClassifier) -> str:
    """Both halves of an evaluation as tables for people; accuracies in percent."""
    lines = [f"accuracy by inference mode, % of {measured.num_samples} test samples"]
    names = dict(zip((f"class_{i}" for i in model.classes.ids), model.classes.names, strict=True))
    for mode, accuracy in measured.modes.items():
        lines.append(f"  {mode:<20}{_percent(accuracy)}" + (f"   ({names[mode]})" if mode in names else ""))
    if measured.unknown is not None:
        there, gone = measured.unknown["class_present"], measured.unknown["class_removed"]
        lines.append(
            f"answered `unknown`: {_percent(there)} % with the class there, {_percent(gone)} % with it removed"
        )
    if measured.subsets:
        lines.append(f"forgetting k of {model.num_classes} classes, % (chance {100 / model.num_classes:.1f})")
        lines.append("   k   subsets          forget         retain")
    for entry in measured.subsets:
        row = entry.summary()
        count = f"{len(entry.subsets)}" + (
            f" of {entry.num_possible} sampled" if len(entry.subsets) < entry.num_possible else ""
        )
        lines.append(
            f"  {entry.k:>2}   {count:<15}"
            f"{_percent(row['forget_mean'])} ±{_percent(row['forget_std'])}  "
            f"{_percent(row['retain_mean'])} ±{_percent(row['retain_std'])}"
        )
    return "\n".join(lines)


def write_evaluation(stem: Path, measured: Evaluation, model: PromptedClassifier, *, title: str) -> list[Path]:
    """The paper tool's JSON, everything measured as JSON, and the picture."""
    accuracies = Path(f"{stem}_inference_accuracies.json")
    write_json(accuracies, measured.inference_accuracies())
    whole = Path(f"{stem}_evaluation.json")
    write_json(whole, {"classes": dataclasses.asdict(model.classes), **measured.to_dict()})
    written = [accuracies, whole]
    if measured.subsets:
        picture = Path(f"{stem}_forgetting.png")
        draw_forgetting(
            {f"readout {model.config.readout}": measured.subsets}, picture, num_classes=model.num_classes, title=title
        )
        written.append(picture)
    return written
