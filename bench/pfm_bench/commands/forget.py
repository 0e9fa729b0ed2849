"""`pfm bench forget`."""

from pathlib import Path

import click

from pfm.classes import check_removal
from pfm.commands.class_choice import ClassChoice
from pfm.commands.options import CONTEXT_SETTINGS, PATH, data_of_run, of_run, with_options
from pfm.data.config import DataConfig
from pfm.storage import check_folder, make_folder, write_json
from pfm_bench.commands.out import out_option


@click.command("forget", context_settings=CONTEXT_SETTINGS)
@click.option("--ckpt", required=True, type=PATH, help="Checkpoint of pfm train; left as it is.")
@click.option("--rounds", default=100, type=click.IntRange(min=5), help="Erasures, each from a fresh copy.")
@click.option("--threads", default=1, type=click.IntRange(min=1), help="CPU threads of everything.")
@with_options(chosen=ClassChoice, data=of_run(DataConfig))
@out_option("forget.json")
def bench_forget(ckpt: Path, chosen: ClassChoice, rounds: int, threads: int, data: DataConfig, out: Path) -> None:
    """Time from erase to the first answer without the class, beside fine-tuning and retraining.

    On the CPU. Retraining repeats the run that the checkpoint came from, without the classes.
    """
    import torch

    from pfm.data.loading import load_data
    from pfm.model.checkpoint import load_checkpoint
    from pfm_bench.scenarios.forgetting import bench_forgetting

    checkpoint = load_checkpoint(ckpt)
    torch.set_num_threads(threads)
    keys = chosen.names_in(checkpoint)
    check_removal(checkpoint.classes, checkpoint.classes.positions(keys))
    check_folder(out)
    loaded = load_data(data_of_run(checkpoint, data), checkpoint.preprocess.storage)
    folder = make_folder(out)
    report = bench_forgetting(ckpt, loaded, keys, rounds=rounds, say=click.echo)
    write_json(folder / "forget.json", report.to_dict())
    click.echo(f"{report.describe()}\nwrote {folder / 'forget.json'}")
