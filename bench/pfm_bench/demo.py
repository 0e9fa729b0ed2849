"""`pfm demo`: train, forget, export, serve and measure on real data, both readouts side by side."""

import importlib
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfm.command_options import CONTEXT_SETTINGS
from pfm.errors import StorageError, TrainingError
from pfm.storage import make_folder, write_json, write_text

if TYPE_CHECKING:
    from pfm_bench.story import ReadoutResult

READOUTS = ("cls", "prompt")
_HEAVY = ["pfm_bench.story", "pfm_bench.serving", "transformers.models.vit.modeling_vit", "sklearn.datasets"]
REPORT = "report.md"


@click.command("demo", context_settings=CONTEXT_SETTINGS)
@click.option("--out", default="pfm-demo", type=click.Path(path_type=Path), help="Folder for everything that is made.")
@click.option("--seed", default=42, type=click.IntRange(min=0), help="Seed of the whole run.")
def demo(out: Path, seed: int) -> None:
    """The whole story on 1,797 real images of handwritten digits, in two minutes on two CPU cores.

    Trains two small models from scratch (the paper's readout and ours), forgets a class, exports to
    ONNX, serves with and without the class, erases it for good and measures latency.
    """
    started = time.monotonic()
    folder = _clear_folder(out)
    click.echo(f"two readouts side by side, a process each; everything goes to {folder}/")
    results = _run_side_by_side(folder, seed)

    from pfm_bench.report import host_facts
    from pfm_bench.serving import ServeBenchConfig, bench_bundle
    from pfm_bench.serving_report import table

    click.echo("▸ latency: torch beside ONNX Runtime, interleaved")
    before = time.monotonic()
    cls = results["cls"]
    config = ServeBenchConfig(batch_sizes="1,8,32", rounds=30, seconds=5, device="cpu")
    latency = bench_bundle([cls.bundle], cls.checkpoint, config, workplace=folder)
    click.echo(table(latency))
    write_json(folder / "latency.json", latency)
    _draw_pictures(folder, results, latency)
    summary = {
        "command": "pfm demo",
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "latency_s": round(time.monotonic() - before, 1),
        "host": host_facts(),
        "results": {name: result.to_dict() for name, result in results.items()},
    }
    write_json(folder / "demo.json", summary)
    write_text(folder / REPORT, _report(summary, table(latency)))
    click.echo(f"\n{_summary_table(summary)}\n\n{_next_steps(results)}")
    click.echo(f"\nThe report, with pictures: {folder / REPORT}   ({summary['seconds']:.0f} s in all)")


def _clear_folder(out: Path) -> Path:
    """An empty folder; what an earlier demo left in it goes.

    Raises:
        StorageError: it holds something else.
    """
    parts = [out / f"readout_{name}" for name in READOUTS]
    if out.exists():
        known = {*(part.name for part in parts), REPORT, "demo.json", "latency.json", "latency.png"}
        known |= {"forgetting.png", "answers.png"}
        strange = sorted(path.name for path in out.iterdir() if path.name not in known) if out.is_dir() else [out.name]
        if strange:
            raise StorageError(f"{out} holds {strange[0]!r}, which no demo made; choose another folder with --out")
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    return make_folder(out)


def _run_side_by_side(folder: Path, seed: int) -> "dict[str, ReadoutResult]":
    """Both stories, each in a process of its own.

    The libraries take longer to import than a small model to export. So one server process imports
    them and the two are forked from it, while this process imports what it needs for the latencies.
    """
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(_HEAVY)
    with ProcessPoolExecutor(len(READOUTS), mp_context=context) as pool:
        futures = {name: pool.submit(_tell, name, folder / f"readout_{name}", seed) for name in READOUTS}
        for module in _HEAVY:
            importlib.import_module(module)
        try:
            return {name: future.result() for name, future in futures.items()}
        except BrokenProcessPool as error:
            raise TrainingError("a process of the demo was killed, for lack of memory perhaps; run it again") from error


def _tell(readout: str, folder: Path, seed: int) -> "ReadoutResult":
    from pfm_bench.story import tell_story

    return tell_story(readout, folder, seed)


def _draw_pictures(folder: Path, results: "dict[str, ReadoutResult]", latency: dict[str, Any]) -> None:
    from pfm.data import DataConfig
    from pfm.images import ImageForm
    from pfm.loading import load_data
    from pfm.pictures import draw_forgetting
    from pfm_bench.serving_report import draw

    data = load_data(DataConfig(dataset="digits"), ImageForm(8))
    draw_forgetting(
        {f"readout {name}": result.evaluation.subsets for name, result in results.items()},
        folder / "forgetting.png",
        num_classes=len(data.classes),
        title="digits: what is forgotten and what is kept",
    )
    draw(latency, folder / "latency.png")
    _draw_answers(folder / "answers.png", data, results)


def _draw_answers(path: Path, data: Any, results: "dict[str, ReadoutResult]") -> None:
    """Test images of the erased class and of others, with the served answers before and after."""
    from pfm.pictures import new_figure, save_figure
    from pfm_bench.story import FORGOTTEN

    is_forgotten = data.test.labels == data.classes.position(FORGOTTEN)
    shown = [*is_forgotten.nonzero()[:5, 0].tolist(), *(~is_forgotten).nonzero()[:5, 0].tolist()]
    figure = new_figure(13, 2.6)
    figure.suptitle(f"served answers before → after class {FORGOTTEN} was erased from the bundle")
    for axis, index in zip(figure.subplots(1, len(shown)), shown, strict=True):
        axis.imshow(data.test.inputs[index, 0].numpy(), cmap="gray_r")
        axis.set(xticks=[], yticks=[])
        lines = [f"{n}: {r.answers_before[index]} → {r.answers_after[index]}" for n, r in results.items()]
        axis.set_xlabel("\n".join(lines), fontsize=8)
        axis.set_title("true " + data.classes.names[int(data.test.labels[index])], fontsize=9)
    save_figure(figure, path)


_ROWS = (
    ("full-bank accuracy", "full_bank", 100, "{:.1f} %"),
    ("retain accuracy, k = 1 (mean over classes)", "retain_k1", 100, "{:.1f} %"),
    ("forget accuracy, k = 1 (mean over classes)", "forget_k1", 100, "{:.1f} %"),
    ("times the erased class was answered by the bundle", "times_erased_class_answered", 1, "{:d}"),
    ("erase in the bundle, until the next answer", "erase_ms", 1, "{:.0f} ms"),
    ("ONNX against torch, worst logit difference", "onnx_worst_difference", 1, "{:.1e}"),
)


def _summary_table(summary: dict[str, Any]) -> str:
    lines = ["| digits, trained from scratch | readout cls (the paper's) | readout prompt |", "|---|---:|---:|"]
    for title, key, scale, form in _ROWS:
        cells = [form.format(scale * result[key]) for result in summary["results"].values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    unknown = summary["results"]["prompt"]["unknown"]
    there, gone = 100 * unknown["class_present"], 100 * unknown["class_removed"]
    lines.append(f"| answered `unknown`: class there / class removed | – | {there:.1f} % / {gone:.1f} % |")
    return "\n".join(lines)


def _next_steps(results: "dict[str, ReadoutResult]") -> str:
    made = results["prompt"]
    return f"""Next, with your own data:
  pfm train --dataset imagefolder:PATH     (or a MedMNIST name, an .npz, a Hugging Face data set)
  pfm eval --ckpt CHECKPOINT
  pfm forget --ckpt CHECKPOINT --classes NAME
  pfm export onnx --ckpt CHECKPOINT --out bundle
Or with what was made here:
  pfm eval --ckpt {made.checkpoint} --suspend 7
  pfm export erase {made.bundle} --classes 7
  pfm bench --bundle {made.bundle}"""


def _report(summary: dict[str, Any], latency: str) -> str:
    host = summary["host"]
    versions = ", ".join(f"{name} {number}" for name, number in host["versions"].items())
    steps = summary["results"]["cls"]["steps_s"]
    rows = [f"| {name} | {s:.1f} | {summary['results']['prompt']['steps_s'][name]:.1f} |" for name, s in steps.items()]
    return f"""# pfm demo

Seed {summary["seed"]}, {summary["seconds"]:.0f} s on {host["cores"]} cores ({host["processor"]}; {versions}).
The figures are in `demo.json` and `latency.json`.

{_summary_table(summary)}

Forget accuracy is measured on test samples of the removed class, retain accuracy on all others. With the
`prompt` readout a removed class has no output, so its forget accuracy is 0 by structure. None of this says
that the shared weights have forgotten what they learned from the class: removing a prompt hides a class.

![forget and retain accuracy against the number of removed classes](forgetting.png)

![served answers before and after the erasure](answers.png)

## Latency

{latency}

![latency of one batch](latency.png)

## Steps

| step | cls, seconds | prompt, seconds |
|---|---:|---:|
{chr(10).join(rows)}
| latency, seconds | {summary["latency_s"]:.1f} | |
"""
