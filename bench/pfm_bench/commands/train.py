"""`pfm bench train`."""

from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, with_options
from pfm.storage import check_folder, make_folder, write_json
from pfm_bench.commands.out import out_option
from pfm_bench.targets.config import TrainBenchConfig


@click.command("train", context_settings=CONTEXT_SETTINGS)
@with_options(config=TrainBenchConfig)
@out_option("train.json and train.png")
def bench_train(config: TrainBenchConfig, out: Path) -> None:
    """Our training step beside a plain one in the paper's manner, interleaved in one run.

    Plain: prompts picked sample by sample, two forwards a step, float32. Weights and images are random.
    """
    from pfm_bench.reports.variants import draw_variants, variants_table
    from pfm_bench.scenarios.training import bench_training
    from pfm_bench.targets.workbench import set_up

    check_folder(out)
    bench = set_up(config)
    folder = make_folder(out)
    report = bench_training(bench, compiled=config.compile)
    click.echo(f"{variants_table(report.steps)}\n\n{report.describe()}")
    write_json(folder / "train.json", report.to_dict())
    draw_variants(report.steps, folder / "train.png", title=f"training step, {report.steps.title}")
    click.echo(f"wrote {folder / 'train.json'}\nwrote {folder / 'train.png'}")
