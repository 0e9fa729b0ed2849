"""`pfm eval`: a checkpoint's accuracy in every inference mode, and after forgetting k classes."""

import dataclasses
from pathlib import Path

import click

from pfm.backbones.config import BackboneConfig
from pfm.classes import split_names
from pfm.commands.options import CONTEXT_SETTINGS, data_of_run, was_given, with_options
from pfm.data.config import DataConfig
from pfm.device import DeviceConfig, resolve_device
from pfm.evaluation.config import EvalConfig
from pfm.storage import make_folder, write_json


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
    import torch

    from pfm.data.loading import load_data
    from pfm.evaluation.evaluator import make_evaluator
    from pfm.evaluation.results import describe_evaluation, percent, write_evaluation
    from pfm.evaluation.samples import label_positions
    from pfm.evaluation.subsets import forget_sizes
    from pfm.forgetting.suspend import active_positions
    from pfm.model.checkpoint import load_checkpoint
    from pfm.training.launch import leave, processes_of, start_accelerator

    where = resolve_device(device, gpu_was_asked_for=was_given("gpu_id"))
    checkpoint = load_checkpoint(ckpt, model_name=backbone.model_name if was_given("model_name") else None)
    for note in checkpoint.notes:
        click.echo(f"note: {note}")
    loaded = load_data(data_of_run(checkpoint, data), checkpoint.preprocess.storage, device=where)
    click.echo(loaded.describe(checkpoint.preprocess.storage))
    positions = label_positions(checkpoint.classes, loaded.classes, checkpoint.erased)
    model = checkpoint.build_model()
    if device.stores_frozen_in_bf16 and model.trunk_is_frozen:
        model.store_frozen(torch.bfloat16)
    accelerator = start_accelerator(where, device)
    model.to(accelerator.device)
    evaluator = make_evaluator(
        loaded.test, positions, checkpoint.preprocess, processes_of(accelerator), evaluation, seed=seed
    )
    stem = make_folder(Path(save_dir)) / f"{loaded.name}_seed_{seed}"
    if suspend:
        active = active_positions(model.classes, split_names(suspend))
        result = evaluator.accuracy_of_set(model, active)
        names = ", ".join(name for i, name in enumerate(model.classes.names) if i not in active)
        click.echo(
            f"suspended (reversible, nothing erased): {names}\n"
            f"  accuracy on their samples  {percent(result.forget)}\n"
            f"  accuracy on the others     {percent(result.retain)}"
        )
        if accelerator.is_main_process:
            write_json(Path(f"{stem}_suspended.json"), {"suspended": names.split(", "), **dataclasses.asdict(result)})
        leave(accelerator)
        return
    ks = forget_sizes(model.num_classes)
    measured = evaluator.evaluate(model, ks=ks, max_subsets=evaluation.max_subsets)
    if accelerator.is_main_process:
        click.echo(describe_evaluation(measured, model))
        for path in write_evaluation(stem, measured, model, title=f"{loaded.name}: {ckpt.name}"):
            click.echo(f"wrote {path}")
    leave(accelerator)
