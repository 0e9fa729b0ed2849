"""Options in, one call, text out: `pfm bench`."""

import os
from pathlib import Path
from typing import Any

import click
import torch

from pfm.checkpoint import load_checkpoint
from pfm.errors import ConfigError
from pfm.options import CONTEXT_SETTINGS
from pfm.runlog import progress
from pfm.storage import make_folder, write_json
from pfm_bench.latency import Samples, measure
from pfm_bench.report import Case, draw, table, to_json
from pfm_bench.targets import OrtTarget, Target, TorchTarget, torch_model
from pfm_export.bundle import Bundle


@click.command("bench", context_settings=CONTEXT_SETTINGS)
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
@click.option(
    "--out", default="bench", type=click.Path(path_type=Path), help="Folder for latency.json and latency.png."
)
def bench(
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
