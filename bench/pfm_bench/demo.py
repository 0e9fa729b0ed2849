"""`pfm demo`: train, forget, export, serve and measure on real data, both readouts side by side."""

import dataclasses
import importlib
import multiprocessing
import shlex
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfm.classes import ClassList
from pfm.commands.options import CONTEXT_SETTINGS
from pfm.errors import ConfigError, StorageError, TrainingError
from pfm.storage import make_folder, write_json, write_text

if TYPE_CHECKING:
    from pfm.data.splits import ClassificationData
    from pfm_bench.story import ReadoutResult, Task

READOUTS = ("cls", "prompt")
_HEAVY = [
    "pfm_bench.story",
    "pfm_bench.scenarios.latency_run",
    "transformers.models.vit.modeling_vit",
    "sklearn.datasets",
]
REPORT = "report.md"


@click.command("demo", context_settings=CONTEXT_SETTINGS)
@click.option("--out", default="pfm-demo", type=click.Path(path_type=Path), help="Folder for everything that is made.")
@click.option("--seed", default=42, type=click.IntRange(min=0), help="Seed of the whole run.")
@click.option("--data_type", default="image", type=click.Choice(["image", "audio"]), help="Kind of input.")
@click.option("--dataset", default="", help="For audio: audiofolder:PATH.  [default: digits, for images]")
@click.option("--label_from", default="", help="For audio: name:PATTERN, see pfm train.")
@click.option("--label", default="", help="Field of --label_from that is the label.")
@click.option("--forget", default="", help="The class that goes.  [default: 3 of the digits, else the last class]")
def demo(out: Path, seed: int, data_type: str, dataset: str, label_from: str, label: str, forget: str) -> None:
    """The whole story on 1,797 real images of handwritten digits, in two minutes on two CPU cores.

    With --data_type audio the same on a folder of sounds that you have.

    Trains two small models from scratch (the paper's readout and ours), forgets a class, exports to
    ONNX, serves with and without the class, erases it for good and measures latency.
    """
    started = time.monotonic()
    task = _choose_task(data_type, dataset, label_from, label, forget)
    folder = _clear_folder(out)
    click.echo(f"two readouts side by side, a process each; everything goes to {folder}/")
    results = _run_side_by_side(task, folder, seed)

    from pfm_bench.reports.serving import table
    from pfm_bench.reports.variants import host_facts
    from pfm_bench.scenarios.latency_run import ServeBenchConfig, bench_bundle

    click.echo("▸ latency: torch beside ONNX Runtime, interleaved")
    before = time.monotonic()
    cls = results["cls"]
    config = ServeBenchConfig(batch_sizes="1,8,32", rounds=30, seconds=5, device="cpu")
    latency = bench_bundle([cls.bundle], cls.checkpoint, config, workplace=folder)
    click.echo(table(latency))
    write_json(folder / "latency.json", latency)
    _draw_pictures(folder, task, results, latency)
    summary = {
        "command": "pfm demo" if task.data.kind == "image" else f"pfm demo --data_type audio{_typed(task, forget)}",
        "data": task.name,
        "forgotten": task.forgotten,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "latency_s": round(time.monotonic() - before, 1),
        "host": host_facts(),
        "results": {name: result.to_dict() for name, result in results.items()},
    }
    write_json(folder / "demo.json", summary)
    write_text(folder / REPORT, _report(summary, table(latency)))
    click.echo(f"\n{_summary_table(summary)}\n\n{_next_steps(task, results)}")
    click.echo(f"\nThe report, with pictures: {folder / REPORT}   ({summary['seconds']:.0f} s in all)")


def _choose_task(data_type: str, dataset: str, label_from: str, label: str, forget: str) -> "Task":
    """What is told of.

    Raises:
        ConfigError: sounds are asked for, and none are given.
        ClassNameError: no class of that name.
    """
    from pfm.data.config import DataConfig
    from pfm_bench.story import DIGITS, sound_task

    config = DataConfig(dataset=dataset or "digits", data_type=data_type, label_from=label_from, label=label)
    if config.kind == "image":
        if dataset or label_from:
            raise ConfigError("pfm demo takes its own images; --dataset and --label_from are for --data_type audio")
        classes = ClassList.from_names([str(digit) for digit in range(10)])
        return dataclasses.replace(DIGITS, forgotten=classes.names[classes.position(forget or DIGITS.forgotten)])
    if not dataset:
        raise ConfigError("no sounds come with the package; give --dataset audiofolder:PATH")
    task = sound_task(config, forget)
    classes = _load(task).classes  # looked at before anything is trained
    return dataclasses.replace(task, forgotten=classes.names[classes.position(forget) if forget else -1])


def _load(task: "Task") -> "ClassificationData":
    from pfm.backbones.spec import BackboneConfig, describe_backbone
    from pfm.data.loading import load_data

    return load_data(task.data, describe_backbone(BackboneConfig(model_name=task.model_name)).storage)


def _typed(task: "Task", forget: str) -> str:
    """The options behind the command, the place of the data left out."""
    parts = {"dataset": "audiofolder:PATH", "label_from": task.data.label_from, "label": task.data.label}
    parts["forget"] = forget
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in parts.items() if value)


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


def _run_side_by_side(task: "Task", folder: Path, seed: int) -> "dict[str, ReadoutResult]":
    """Both stories, each in a process of its own.

    The libraries take longer to import than a small model to export. So one server process imports
    them and the two are forked from it, while this process imports what it needs for the latencies.
    """
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(_HEAVY)
    with ProcessPoolExecutor(len(READOUTS), mp_context=context) as pool:
        futures = {name: pool.submit(_tell, task, name, folder / f"readout_{name}", seed) for name in READOUTS}
        for module in _HEAVY:
            importlib.import_module(module)
        try:
            return {name: future.result() for name, future in futures.items()}
        except BrokenProcessPool as error:
            raise TrainingError("a process of the demo was killed, for lack of memory perhaps; run it again") from error


def _tell(task: "Task", readout: str, folder: Path, seed: int) -> "ReadoutResult":
    from pfm_bench.story import tell_story

    return tell_story(task, readout, folder, seed)


def _draw_pictures(folder: Path, task: "Task", results: "dict[str, ReadoutResult]", latency: dict[str, Any]) -> None:
    from pfm.evaluation.pictures import draw_forgetting
    from pfm_bench.reports.serving import draw

    data = _load(task)
    draw_forgetting(
        {f"readout {name}": result.evaluation.subsets for name, result in results.items()},
        folder / "forgetting.png",
        num_classes=len(data.classes),
        title=f"{task.name}: what is forgotten and what is kept",
    )
    draw(latency, folder / "latency.png")
    _draw_answers(folder / "answers.png", task, data, results)


def _draw_answers(path: Path, task: "Task", data: "ClassificationData", results: "dict[str, ReadoutResult]") -> None:
    """Test inputs of the erased class and of others, with the served answers before and after."""
    from pfm.evaluation.pictures import new_figure, save_figure

    is_forgotten = data.test.labels == data.classes.position(task.forgotten)
    others = (~is_forgotten).nonzero()[:, 0]
    spread = others[:: max(1, len(others) // 4)][:4]  # of several classes, also where they stand one after another
    shown = [*is_forgotten.nonzero()[:4, 0].tolist(), *spread.tolist()]
    figure = new_figure(13, 2.6)
    figure.suptitle(f"served answers before → after class {task.forgotten} was erased from the bundle")
    for axis, index in zip(figure.subplots(1, len(shown)), shown, strict=True):
        shown_input = data.test.inputs[index]
        if task.data.kind == "audio":
            spoken = shown_input[: int((shown_input != 0).any(dim=1).sum())]
            axis.imshow(spoken.T.numpy(), origin="lower", aspect="auto", cmap="magma")
        else:
            axis.imshow(shown_input[0].numpy(), cmap="gray_r")
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
    lines = [
        f"| {summary['data']}, trained from scratch | readout cls (the paper's) | readout prompt |",
        "|---|---:|---:|",
    ]
    for title, key, scale, form in _ROWS:
        cells = [form.format(scale * result[key]) for result in summary["results"].values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    unknown = summary["results"]["prompt"]["unknown"]
    there, gone = 100 * unknown["class_present"], 100 * unknown["class_removed"]
    lines.append(f"| answered `unknown`: class there / class removed | – | {there:.1f} % / {gone:.1f} % |")
    return "\n".join(lines)


def _next_steps(task: "Task", results: "dict[str, ReadoutResult]") -> str:
    made = results["prompt"]
    return f"""Next, with your own data:
  pfm train --dataset imagefolder:PATH     (or a MedMNIST name, an .npz, a Hugging Face data set)
  pfm eval --ckpt CHECKPOINT
  pfm forget --ckpt CHECKPOINT --classes NAME
  pfm export onnx --ckpt CHECKPOINT --out bundle
Or with what was made here:
  pfm eval --ckpt {made.checkpoint} --suspend {task.forgotten}
  pfm forget --classes {task.forgotten} --in_place {made.bundle}
  pfm bench --bundle {made.bundle}"""


def _report(summary: dict[str, Any], latency: str) -> str:
    host = summary["host"]
    versions = ", ".join(f"{name} {number}" for name, number in host["versions"].items())
    steps = summary["results"]["cls"]["steps_s"]
    rows = [f"| {name} | {s:.1f} | {summary['results']['prompt']['steps_s'][name]:.1f} |" for name, s in steps.items()]
    return f"""# pfm demo: {summary["data"]}

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
