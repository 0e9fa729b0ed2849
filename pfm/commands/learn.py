"""`pfm learn`: samples and classes are added to a checkpoint whose readout is solved."""

from pathlib import Path

import click

from pfm.classes import listed
from pfm.commands.options import CONTEXT_SETTINGS, PATH, was_given, with_options
from pfm.commands.sections import SectionedCommand
from pfm.data.config import DataConfig
from pfm.device import DeviceConfig, resolve_device
from pfm.errors import ConfigError, StorageError
from pfm.storage import check_file


@click.command("learn", cls=SectionedCommand, context_settings=CONTEXT_SETTINGS)
@click.option("--ckpt", required=True, type=PATH, help="Checkpoint of pfm train --readout ridge.")
@click.option("--out", type=PATH, help="File to write.  [default: beside it, <…>_learned.pt]")
@click.option("--model_name", default=None, help="Where the frozen backbone is.  [default: where it was in training]")
@with_options(data=DataConfig, device=DeviceConfig)
def learn(ckpt: Path, out: Path | None, model_name: str | None, data: DataConfig, device: DeviceConfig) -> None:
    """Add the training split of --dataset to an exact readout, as if it had been fitted on all samples.

    Classes are matched by name; names that it does not know become new classes, and samples of a single
    one are enough. The checkpoint stays as it is, and a new one is written.
    """
    if not was_given("dataset"):
        raise ConfigError("name what is to be learned with --dataset")
    if device.mixed_precision != "no" or was_given("frozen_dtype"):
        raise ConfigError("exact features are computed in float32; leave --mixed_precision and --frozen_dtype out")
    target = out or ckpt.with_name(f"{ckpt.stem}_learned{ckpt.suffix}")
    if target.exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    check_file(target)

    from pfm.data.loading import load_data
    from pfm.data.reading import Intake
    from pfm.model.checkpoint import load_checkpoint, save_checkpoint
    from pfm.training.launch import leave, processes_of, start_accelerator
    from pfm.training.learning import check_can_learn, learn_on

    where = resolve_device(device, gpu_was_asked_for=was_given("gpu_id"), say=click.echo)
    checkpoint = load_checkpoint(ckpt, model_name=model_name)
    check_can_learn(checkpoint)
    loaded = load_data(data, checkpoint.preprocess.storage, intake=Intake(device=where, is_part=True))
    for note in loaded.notes:
        click.echo(f"note: {note}")
    accelerator = start_accelerator(where, device)
    learned = learn_on(checkpoint, loaded, processes_of(accelerator), click.echo)
    if accelerator.is_main_process:
        save_checkpoint(target, learned.checkpoint)
        new = f"; new classes: {listed(learned.new_classes)}" if learned.new_classes else ""
        click.echo(
            f"added {learned.num_samples:,} samples{new}\ndigest {learned.checkpoint.exact['digest']}\nsaved {target}"
        )
    leave(accelerator)
