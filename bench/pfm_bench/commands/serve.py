"""`pfm bench serve`, which is `pfm bench` too."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH, was_given, with_options
from pfm.errors import ConfigError
from pfm.model.readouts import READOUTS
from pfm.storage import check_folder, make_folder, write_json, write_text
from pfm_bench.commands.out import out_option
from pfm_bench.scenarios.serving_config import ServeBenchConfig
from pfm_export.graph.precisions import PRECISIONS

if TYPE_CHECKING:
    from pfm_bench.reports.serving_report import ServingReport


@click.command("serve", context_settings=CONTEXT_SETTINGS)
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=PATH,
    help="What pfm export onnx wrote; give it again for another precision of the same model.",
)
@click.option(
    "--ckpt",
    type=PATH,
    help="Its checkpoint, for torch.  [default: random weights of that shape]",
)
@click.option(
    "--random_weights",
    default="",
    show_default=False,
    help="Instead of --bundle: export a backbone of this shape (scratch:NAME, a hub id, a folder) with random weights.",
)
@click.option("--num_classes", default=10, type=click.IntRange(min=1), help="With --random_weights: its classes.")
@click.option(
    "--readout", default="cls", type=click.Choice(READOUTS.names()), help="With --random_weights: its readout."
)
@click.option(
    "--precisions", default="fp32", help="With --random_weights: the precisions it is exported in, separated by commas."
)
@with_options(config=ServeBenchConfig)
@out_option("latency.json, latency.md, latency.png and prompts.png")
def bench_serve(
    bundles: tuple[Path, ...],
    ckpt: Path | None,
    random_weights: str,
    num_classes: int,
    readout: str,
    precisions: str,
    config: ServeBenchConfig,
    out: Path,
) -> None:
    """Latency and throughput of torch and ONNX Runtime, interleaved in one run; scenarios after it."""
    from pfm.model.checkpoint import checkpoint_file
    from pfm_bench.scenarios.serving import bench_bundle
    from pfm_bench.targets.choosing import choose_targets
    from pfm_bench.targets.random_bundle import random_checkpoint, write_random_bundle
    from pfm_export.serving.bundle import Bundle

    if bool(bundles) == bool(random_weights):
        raise ConfigError("give either --bundle, or --random_weights for a model of some shape")
    if random_weights and ckpt is not None:
        raise ConfigError("--ckpt belongs to --bundle; --random_weights has no checkpoint")
    wanted = list(dict.fromkeys(part.strip() for part in precisions.split(",")))
    wrong = next((name for name in wanted if name not in PRECISIONS), None)
    if wrong is not None:
        raise ConfigError(f"--precisions {wrong!r}: no such precision; choose from {', '.join(PRECISIONS.names())}")
    for name in ("num_classes", "readout", "precisions"):
        if bundles and was_given(name):
            raise ConfigError(f"--{name} belongs to --random_weights; a bundle has its own")
    choose_targets(config.target_list, config.device)
    check_folder(out)
    if bundles:
        for bundle in bundles:
            Bundle.open(bundle)
        if ckpt is not None:
            checkpoint_file(ckpt)
        folder = make_folder(out)
        report = bench_bundle(bundles, ckpt, config, workplace=folder)
    else:
        checkpoint = random_checkpoint(random_weights, num_classes=num_classes, readout=readout)
        folder = make_folder(out)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".random.") as temporary:
            exported = {name: Path(temporary) / name for name in wanted}
            costs = {name: write_random_bundle(checkpoint, path, precision=name) for name, path in exported.items()}
            report = bench_bundle(list(exported.values()), None, config, workplace=folder)
        report = replace(report, exports=costs)
    _write(report, folder)


def _write(report: "ServingReport", folder: Path) -> None:
    from pfm_bench.reports.serving_pictures import draw, draw_prompts
    from pfm_bench.reports.serving_tables import show_report

    click.echo(show_report(report, is_brief=True))
    write_json(folder / "latency.json", report.to_dict())
    write_text(folder / "latency.md", show_report(report) + "\n")
    draw(report, folder / "latency.png")
    draw_prompts(report, folder / "prompts.png")
    for name in ("latency.json", "latency.md", "latency.png", "prompts.png"):
        click.echo(f"wrote {folder / name}")
