"""Options in, one call, text out: `pfm bench` and what is below it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from pfm.classes import split_names
from pfm.commands.options import CONTEXT_SETTINGS, data_of_run, with_options
from pfm.data.config import DataConfig
from pfm.data.loading import load_data
from pfm.errors import ConfigError
from pfm.model.checkpoint import load_checkpoint
from pfm.model.classifier import READOUTS
from pfm.storage import make_folder, write_json, write_text
from pfm_bench.reports.compare import compare, describe_comparison, read_document
from pfm_bench.reports.serving import draw, draw_prompts, scenario_table, table, target_lines
from pfm_bench.reports.variants import draw_variants, variants_table
from pfm_bench.scenarios.evaluating import EvalBenchConfig, bench_evaluation
from pfm_bench.scenarios.forgetting import bench_forgetting, forgetting_table
from pfm_bench.scenarios.latency_run import ServeBenchConfig, bench_bundle
from pfm_bench.scenarios.training import TrainBenchConfig, bench_training, describe_training
from pfm_bench.targets.plans import choose_kinds
from pfm_bench.targets.random_bundle import random_checkpoint, write_random_bundle
from pfm_bench.targets.workbench import set_up
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.bundle import Bundle

DEFAULT = "serve"


class _DefaultGroup(click.Group):
    """`pfm bench --bundle …` is `pfm bench serve --bundle …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=_DefaultGroup, context_settings=CONTEXT_SETTINGS)
def bench() -> None:
    """Measure: a bundle's latency (serve, the default), the training step, evaluation, erasure; compare two."""


def _out(default: str, names: str) -> Callable[[Any], Any]:
    return click.option("--out", default=default, type=click.Path(path_type=Path), help=f"Folder for {names}.")


@bench.command("train", context_settings=CONTEXT_SETTINGS)
@with_options(config=TrainBenchConfig)
@_out("pfm-bench", "train.json and train.png")
def bench_train(config: TrainBenchConfig, out: Path) -> None:
    """Our training step beside a plain one in the paper's manner, interleaved in one run.

    Plain: prompts picked sample by sample, two forwards a step, float32. Weights and images are random.
    """
    bench = set_up(config)
    folder = make_folder(out)
    document = bench_training(bench, compiled=config.compile)
    click.echo(f"{variants_table(document)}\n\n{describe_training(document)}")
    _write(document, folder / "train", f"training step, {_what(document)}")


@bench.command("eval", context_settings=CONTEXT_SETTINGS)
@with_options(config=EvalBenchConfig)
@_out("pfm-bench", "eval.json and eval.png")
def bench_eval(config: EvalBenchConfig, out: Path) -> None:
    """Our evaluation beside a plain one in the paper's manner, interleaved in one run.

    What is evaluated: infer_best, and forgetting k = 1, C/2 and C-1 classes. Plain: one active set at a
    time, each a pass through the whole model, float32. Weights and images are random.
    """
    bench = set_up(config, config.num_images)
    folder = make_folder(out)
    document = bench_evaluation(bench, max_subsets=config.max_subsets)
    click.echo(variants_table(document))
    answers = document["answers"]
    click.echo(
        f"\nours against plain, the same weights: {answers['differing']} of {answers['compared']:,} answers differ"
    )
    _write(document, folder / "eval", f"evaluation, {_what(document)}")


@bench.command("forget", context_settings=CONTEXT_SETTINGS)
@click.option("--ckpt", required=True, type=click.Path(path_type=Path), help="Checkpoint of pfm train; left as it is.")
@click.option("--classes", required=True, help="Names or numbers, separated by commas; a name wins over a number.")
@click.option("--rounds", default=100, type=click.IntRange(min=5), help="Erasures, each from a fresh copy.")
@click.option("--threads", default=1, type=click.IntRange(min=1), help="CPU threads of everything.")
@with_options(data=DataConfig)
@_out("pfm-bench", "forget.json")
def bench_forget(ckpt: Path, classes: str, rounds: int, threads: int, data: DataConfig, out: Path) -> None:
    """Time from erase to the first answer without the class, beside fine-tuning and retraining.

    On the CPU. Retraining repeats the run that the checkpoint came from, without the classes.
    """
    checkpoint = load_checkpoint(ckpt)
    torch.set_num_threads(threads)
    loaded = load_data(data_of_run(checkpoint, data), checkpoint.preprocess.storage)
    folder = make_folder(out)
    document = bench_forgetting(ckpt, loaded, split_names(classes), rounds=rounds, say=click.echo)
    write_json(folder / "forget.json", document)
    click.echo(f"{forgetting_table(document)}\nwrote {folder / 'forget.json'}")


def _what(document: dict[str, Any]) -> str:
    settings = document["settings"]
    return f"{settings['model_name']}, batch {settings['batch_size']}, {settings['device']}"


def _write(document: dict[str, Any], stem: Path, title: str) -> None:
    write_json(stem.with_suffix(".json"), document)
    draw_variants(document, stem.with_suffix(".png"), title=title)
    click.echo(f"wrote {stem}.json\nwrote {stem}.png")


@bench.command(DEFAULT, context_settings=CONTEXT_SETTINGS)
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What pfm export onnx wrote; give it again for another precision of the same model.",
)
@click.option(
    "--ckpt",
    type=click.Path(path_type=Path),
    help="Its checkpoint, for torch.  [default: random weights of that shape]",
)
@click.option(
    "--random_weights",
    default="",
    show_default=False,
    help="Instead of --bundle: export a backbone of this shape (scratch:NAME, a hub id, a folder) with random weights.",
)
@click.option("--num_classes", default=10, type=click.IntRange(min=1), help="Its classes.")
@click.option("--readout", default="cls", type=click.Choice(READOUTS), help="Its readout.")
@click.option("--precisions", default="fp32", help="The precisions that it is exported in, separated by commas.")
@with_options(config=ServeBenchConfig)
@_out("pfm-bench", "latency.json, latency.md, latency.png and prompts.png")
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
    if bool(bundles) == bool(random_weights):
        raise ConfigError("give either --bundle, or --random_weights for a model of some shape")
    if random_weights and ckpt is not None:
        raise ConfigError("--ckpt belongs to --bundle; --random_weights has no checkpoint")
    wanted = list(dict.fromkeys(part.strip() for part in precisions.split(",")))
    wrong = next((name for name in wanted if name not in PRECISIONS), None)
    if wrong is not None:
        raise ConfigError(f"--precisions {wrong!r}: no such precision; choose from {', '.join(PRECISIONS.names())}")
    if bundles and precisions != "fp32":
        raise ConfigError("--precisions belongs to --random_weights; a bundle has its own")
    choose_kinds(config.target_list, config.device)
    if bundles:
        for bundle in bundles:
            Bundle.open(bundle)
        folder = make_folder(out)
        document = bench_bundle(bundles, ckpt, config, workplace=folder)
    else:
        checkpoint = random_checkpoint(random_weights, num_classes=num_classes, readout=readout)
        folder = make_folder(out)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".random.") as temporary:
            made = {name: write_random_bundle(checkpoint, Path(temporary) / name, precision=name) for name in wanted}
            exported = [Path(temporary) / name for name in wanted]
            document = bench_bundle(exported, None, config, workplace=folder)
        document["export"] = made
    parts = [table(document), scenario_table(document), target_lines(document)]
    text = "\n\n".join(part for part in parts if part)
    click.echo(text)
    write_json(folder / "latency.json", document)
    write_text(folder / "latency.md", text + "\n")
    draw(document, folder / "latency.png")
    draw_prompts(document, folder / "prompts.png")
    for name in ("latency.json", "latency.md", "latency.png", "prompts.png"):
        click.echo(f"wrote {folder / name}")


@bench.command("compare", context_settings=CONTEXT_SETTINGS)
@click.argument("before", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("after", metavar="B.json", type=click.Path(path_type=Path))
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Write the comparison there too, as JSON.")
def bench_compare(before: Path, after: Path, out: Path | None) -> None:
    """Times of B over those of A, with 95 % intervals, for every case that both measured."""
    comparison = compare(read_document(before), read_document(after))
    click.echo(describe_comparison(comparison))
    if out is not None:
        write_json(out, comparison)
        click.echo(f"wrote {out}")
