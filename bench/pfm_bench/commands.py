"""Options in, one call, text out: `pfm bench` and what is below it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from pfm.checkpoint import load_checkpoint
from pfm.classes import split_names
from pfm.commands import data_of_run
from pfm.data import DataConfig, load_data
from pfm.errors import ConfigError
from pfm.options import CONTEXT_SETTINGS, with_options
from pfm.runlog import progress
from pfm.storage import make_folder, write_json
from pfm_bench.evaluating import EvalBenchConfig, bench_evaluation
from pfm_bench.forgetting import bench_forgetting, forgetting_table
from pfm_bench.latency import Samples, measure
from pfm_bench.report import Case, draw, draw_variants, table, to_json, variants_table
from pfm_bench.targets import OrtTarget, Target, TorchTarget, torch_model
from pfm_bench.training import TrainBenchConfig, bench_training, describe_training, set_up
from pfm_export.bundle import Bundle

DEFAULT = "serve"


class _DefaultGroup(click.Group):
    """`pfm bench --bundle …` is `pfm bench serve --bundle …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=_DefaultGroup, context_settings=CONTEXT_SETTINGS)
def bench() -> None:
    """Measure: a bundle's latency (serve, the default), the training step, the evaluation, an erasure."""


def _out(default: str, names: str) -> Callable[[Any], Any]:
    return click.option("--out", default=default, type=click.Path(path_type=Path), help=f"Folder for {names}.")


@bench.command("train", context_settings=CONTEXT_SETTINGS)
@with_options(config=TrainBenchConfig)
@_out("bench", "train.json and train.png")
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
@_out("bench", "eval.json and eval.png")
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
@_out("bench", "forget.json")
def bench_forget(ckpt: Path, classes: str, rounds: int, threads: int, data: DataConfig, out: Path) -> None:
    """Time from erase to the first answer without the class, beside fine-tuning and retraining.

    On the CPU. Retraining repeats the run that the checkpoint came from, without the classes.
    """
    checkpoint = load_checkpoint(ckpt)
    torch.set_num_threads(threads)
    loaded = load_data(data_of_run(checkpoint, data), image_size=checkpoint.preprocess.size)
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
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="What pfm export onnx wrote.")
@click.option(
    "--ckpt",
    type=click.Path(path_type=Path),
    help="Its checkpoint, for torch.  [default: random weights of that shape]",
)
@click.option("--batch_sizes", default="1,8,32", help="Images per call.")
@click.option("--active_sizes", default="", help="Numbers of active prompts.  [default: 1, half, all]")
@click.option("--rounds", default=50, type=click.IntRange(min=5), help="Rounds; in each, every case runs once.")
@click.option(
    "--seconds", default=30.0, type=click.FloatRange(min=1), help="Stop early after this time (not before 5 rounds)."
)
@click.option("--threads", default=0, type=click.IntRange(min=0), help="CPU threads of each runtime.  [0: all cores]")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]), help="Where both runtimes run.")
@_out("bench", "latency.json and latency.png")
def bench_serve(
    bundle: Path,
    ckpt: Path | None,
    batch_sizes: str,
    active_sizes: str,
    rounds: int,
    seconds: float,
    threads: int,
    device: str,
    out: Path,
) -> None:
    """Latency and throughput, eager torch beside ONNX Runtime, interleaved in one run."""
    document = bench_bundle(
        bundle, ckpt, _numbers(batch_sizes, "--batch_sizes"), _numbers(active_sizes, "--active_sizes"),
        rounds=rounds, seconds=seconds, threads=threads, device=device,
    )  # fmt: skip
    click.echo(table(document))
    folder = make_folder(out)
    write_json(folder / "latency.json", document)
    draw(document, folder / "latency.png")
    click.echo(f"wrote {folder / 'latency.json'}\nwrote {folder / 'latency.png'}")


def _numbers(text: str, name: str) -> list[int]:
    try:
        values = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError as error:
        raise ConfigError(f"{name} {text!r}: whole numbers separated by commas are expected") from error
    if (values and values[0] < 0) or (name == "--batch_sizes" and (not values or values[0] < 1)):
        raise ConfigError(f"{name} {text!r}: numbers above zero are expected")
    return values


def bench_bundle(
    folder: Path,
    ckpt: Path | None,
    batch_sizes: list[int],
    active_sizes: list[int],
    *,
    rounds: int = 50,
    seconds: float = 30.0,
    threads: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure a bundle; see `pfm_bench.report.to_json` for what comes back."""
    bundle = Bundle.open(folder)
    num_classes = len(bundle.classes)
    active_sizes = active_sizes or sorted({1, (num_classes + 1) // 2, num_classes})
    if active_sizes[-1] > num_classes:
        raise ConfigError(f"--active_sizes {active_sizes[-1]}: the bundle has {num_classes} classes")
    threads = threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    runtime = OrtTarget(bundle, device=device, threads=threads)
    where = torch.device("cuda" if runtime.where.startswith("CUDA") else "cpu")
    model, weights = torch_model(bundle, None if ckpt is None else load_checkpoint(ckpt))
    targets: list[Target] = [TorchTarget(model, bundle, device=where), runtime]
    calls = {
        Case(batch_size, count, target.name): target.prepare(batch_size, count)
        for batch_size in batch_sizes
        for count in active_sizes
        for target in targets
    }
    with progress(rounds, "rounds", unit="round") as bar:
        samples: Samples[Case] = measure(calls, rounds=rounds, budget_s=seconds, on_round=bar.update)
    settings = {
        "threads": threads,
        "precision": "fp32",
        "ort_threads_spin": False,
        "torch_weights": weights,
        "where": {target.name: target.where for target in targets},
        "backbone": bundle.manifest["backbone"]["model_name"],
        "readout": bundle.readout,
    }
    return to_json(samples, settings=settings)
