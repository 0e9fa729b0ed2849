"""`pfm demo`: train, forget, export, serve and measure on real data, both readouts side by side."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from pfm import forgetting
from pfm.augment import AugmentConfig
from pfm.backbone import BackboneConfig
from pfm.checkpoint import load_checkpoint
from pfm.commands import describe_evaluation, write_evaluation
from pfm.data import ClassificationData, DataConfig, load_data
from pfm.device import DeviceConfig
from pfm.errors import StorageError
from pfm.evaluation import EvalConfig, Evaluation, forget_sizes, label_positions
from pfm.lora import LoraSettings
from pfm.model import ModelConfig
from pfm.options import CONTEXT_SETTINGS
from pfm.pictures import draw_forgetting, new_figure, save_figure
from pfm.storage import make_folder, write_json, write_text
from pfm.trainer import RunConfig, TrainConfig, make_evaluator, start_accelerator, train
from pfm_bench.commands import bench_bundle
from pfm_bench.report import draw as draw_latency
from pfm_bench.report import host_facts, table
from pfm_export.graph import export_bundle
from pfm_export.session import PromptSession

FORGOTTEN = "3"
READOUTS = {
    "cls": ModelConfig(readout="cls"),
    "prompt": ModelConfig(readout="prompt", wrong_target="none", final_norm=True),
}
RECIPE = TrainConfig(epochs=50, batch_size=64, lr=4e-3, optimizer="adamw", weight_decay=0.1, schedule="cosine",
                     warmup=0.1, eval_every=0, save_every=0)  # fmt: skip


@dataclass
class ReadoutResult:
    """What one readout achieved; accuracies in [0, 1]."""

    checkpoint: Path
    evaluation: Evaluation
    worst_difference: float
    answers_before: list[str] = field(default_factory=list)
    answers_after: list[str] = field(default_factory=list)
    times_erased_class_answered: int = 0
    erase_ms: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        k1 = self.evaluation.subsets[0].summary()
        return {
            "full_bank": self.evaluation.modes["full_bank"],
            "retain_k1": k1["retain_mean"],
            "forget_k1": k1["forget_mean"],
            "unknown": self.evaluation.unknown,
            "onnx_worst_difference": self.worst_difference,
            "times_erased_class_answered": self.times_erased_class_answered,
            "erase_ms": self.erase_ms,
        }


class Steps:
    """Says what is done and how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        click.secho(f"\n▸ {name}", bold=True)
        started = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - started, 1)
        click.echo(f"  ({self.seconds[name]:.1f} s)")
        return result


@click.command("demo", context_settings=CONTEXT_SETTINGS)
@click.option("--out", default="pfm-demo", type=click.Path(path_type=Path), help="Folder for everything that is made.")
@click.option("--seed", default=42, type=click.IntRange(min=0), help="Seed of the whole run.")
def demo(out: Path, seed: int) -> None:
    """The whole story on 1,797 real images of handwritten digits, about two minutes on two CPU cores.

    Trains two small models from scratch (the paper's readout and ours), forgets a class, exports to
    ONNX, serves with and without the class, erases it for good and measures latency.
    """
    started = time.monotonic()
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (out / "report.md").exists():
        raise StorageError(f"{out} exists and was not made by pfm demo; choose another folder with --out")
    folder = make_folder(out)
    data = load_data(DataConfig(dataset="digits"), image_size=8)
    click.echo(data.describe())
    steps = Steps()
    results = {name: _one_readout(name, folder, data, seed, steps) for name in READOUTS}
    latency = steps.run("measure latency: torch beside ONNX Runtime, interleaved", lambda: _latency(folder, results))
    _pictures(folder, data, results, latency)
    seconds = time.monotonic() - started
    summary = {
        "command": "pfm demo",
        "seed": seed,
        "seconds": round(seconds, 1),
        "steps_s": steps.seconds,
        "host": host_facts(),
        "recipe": dataclasses.asdict(RECIPE),
        "results": {name: result.to_dict() for name, result in results.items()},
    }
    write_json(folder / "demo.json", summary)
    write_text(folder / "report.md", _report(summary, latency))
    click.echo("\n" + _summary_table(summary))
    click.echo(
        f"\nall of it, with pictures: {folder / 'report.md'}   ({seconds:.0f} s in all)\n\n{_next_steps(folder)}"
    )


def _run_config(readout: str, folder: Path, seed: int) -> RunConfig:
    return RunConfig(
        data=DataConfig(dataset="digits"),
        backbone=BackboneConfig(model_name="scratch:vit_digits"),
        model=READOUTS[readout],
        lora=LoraSettings(),
        train=dataclasses.replace(RECIPE, seed=seed, save_dir=str(folder)),
        augment=AugmentConfig(),
        evaluation=EvalConfig(eval_batch_size=360),
        device=DeviceConfig(cpu=True),
    )


def _one_readout(name: str, folder: Path, data: ClassificationData, seed: int, steps: Steps) -> ReadoutResult:
    place = make_folder(folder / f"readout_{name}")
    config = _run_config(name, place / "checkpoints", seed)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    said: list[str] = []

    def training() -> Path:
        result = train(config, torch.device("cpu"), say=said.append)
        click.echo("\n".join(f"  {line}" for line in (said[1], said[2], said[-1])))
        return result.checkpoint

    path = steps.run(f"readout {name}: train from scratch, {config.train.epochs} epochs", training)
    checkpoint = load_checkpoint(path)
    model = checkpoint.build_model()

    def evaluation() -> Evaluation:
        accelerator = start_accelerator(torch.device("cpu"), config.device)
        positions = label_positions(model.classes, data.classes)
        evaluator = make_evaluator(data, positions, checkpoint.preprocess, accelerator, config.evaluation, seed=seed)
        measured = evaluator.evaluate(model, ks=forget_sizes(model.num_classes), max_subsets=25)
        click.echo(describe_evaluation(measured, model))
        write_evaluation(place / "digits", measured, model, title=f"digits, readout {name}")
        return measured

    measured = steps.run(f"readout {name}: evaluate every mode, forget k classes", evaluation)

    def forgetting_step() -> None:
        target = place / f"digits_without_{FORGOTTEN}.pt"
        target.unlink(missing_ok=True)
        forgetting.erase_file(path, checkpoint, [FORGOTTEN], target, reason="demo")
        click.echo(f"  wrote {target}: no prompt, row or moment of class {FORGOTTEN}")

    steps.run(f"readout {name}: erase class {FORGOTTEN} from the checkpoint", forgetting_step)
    bundle = place / "bundle"
    parity = steps.run(f"readout {name}: export to ONNX", lambda: export_bundle(checkpoint, bundle, overwrite=True))
    click.echo(f"  {bundle}: worst difference to torch {parity.worst_difference:.1e} over {len(parity.cases)} cases")
    result = ReadoutResult(path, measured, parity.worst_difference)
    steps.run(f"readout {name}: serve without torch, suspend, erase", lambda: _serve(place, bundle, data, result))
    return result


def _serve(place: Path, bundle: Path, data: ClassificationData, result: ReadoutResult) -> None:
    """Suspend, then erase class 3 in a copy of the bundle; count how often it is still answered."""
    erased = place / f"bundle_without_{FORGOTTEN}"
    shutil.rmtree(erased, ignore_errors=True)
    shutil.copytree(bundle, erased)
    session = PromptSession(erased, device="cpu")
    images = list(data.test.images[:, 0].numpy())
    truth = np.array([data.classes.names[i] for i in data.test.labels.tolist()])
    before = session.predict_images(images)
    suspended = session.predict_images(images, without=[FORGOTTEN])
    started = time.perf_counter()
    session.erase([FORGOTTEN], reason="demo")
    after = session.predict_images(images[:1])
    result.erase_ms = (time.perf_counter() - started) * 1000
    after = session.predict_images(images)
    result.answers_before, result.answers_after = before.labels, after.labels
    result.times_erased_class_answered = sum(
        label == FORGOTTEN for answers in (suspended.labels, after.labels) for label in answers
    )
    right = 100 * (np.array(before.labels) == truth).mean()
    kept = truth != FORGOTTEN
    still = 100 * (np.array(after.labels) == truth)[kept].mean()
    click.echo(
        f"  served by {session.provider}: {right:.1f} % right with all classes\n"
        f"  class {FORGOTTEN} suspended (one request), then erased (for good, {result.erase_ms:.0f} ms until the next "
        f"answer): answered {result.times_erased_class_answered} times; {still:.1f} % right on the other classes"
    )


def _latency(folder: Path, results: dict[str, ReadoutResult]) -> dict[str, Any]:
    bundle = folder / "readout_cls" / "bundle"
    document = bench_bundle(bundle, results["cls"].checkpoint, [1, 8, 32], [], rounds=30, seconds=8, device="cpu")
    write_json(folder / "latency.json", document)
    click.echo(table(document))
    return document


def _pictures(
    folder: Path, data: ClassificationData, results: dict[str, ReadoutResult], latency: dict[str, Any]
) -> None:
    draw_forgetting(
        {f"readout {name}": result.evaluation.subsets for name, result in results.items()},
        folder / "forgetting.png",
        num_classes=len(data.classes),
        title="digits: what is forgotten and what is kept",
    )
    draw_latency(latency, folder / "latency.png")
    _draw_answers(folder / "answers.png", data, results)


def _draw_answers(path: Path, data: ClassificationData, results: dict[str, ReadoutResult]) -> None:
    """Test images of the erased class and of others, with the served answers before and after."""
    forgotten = data.classes.position(FORGOTTEN)
    is_forgotten = data.test.labels == forgotten
    shown = [*torch.nonzero(is_forgotten)[:6, 0].tolist(), *torch.nonzero(~is_forgotten)[:6, 0].tolist()]
    figure = new_figure(12, 2.9)
    figure.suptitle(f"served answers before → after class {FORGOTTEN} was erased from the bundle")
    axes = figure.subplots(1, len(shown))
    for axis, index in zip(axes, shown, strict=True):
        axis.imshow(data.test.images[index, 0].numpy(), cmap="gray_r")
        axis.set(xticks=[], yticks=[])
        lines = [f"{n}: {r.answers_before[index]} → {r.answers_after[index]}" for n, r in results.items()]
        axis.set_xlabel("\n".join(lines), fontsize=8)
        axis.set_title("true " + data.classes.names[int(data.test.labels[index])], fontsize=9)
    save_figure(figure, path)


_ROWS = (
    ("full-bank accuracy", "full_bank", 100, "{:.1f} %"),
    ("retain accuracy, k = 1 (mean over classes)", "retain_k1", 100, "{:.1f} %"),
    ("forget accuracy, k = 1 (mean over classes)", "forget_k1", 100, "{:.1f} %"),
    (f"class {FORGOTTEN} answered after suspending and erasing it", "times_erased_class_answered", 1, "{:d} times"),
    ("erase in the bundle, until the next answer", "erase_ms", 1, "{:.0f} ms"),
    ("ONNX against torch, worst logit difference", "onnx_worst_difference", 1, "{:.1e}"),
)


def _summary_table(summary: dict[str, Any]) -> str:
    lines = ["| digits, trained from scratch | readout cls (the paper) | readout prompt |", "|---|---:|---:|"]
    for title, key, scale, form in _ROWS:
        cells = [form.format(scale * result[key]) for result in summary["results"].values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    unknown = summary["results"]["prompt"]["unknown"]
    lines.append(f"| answered `unknown` with the class there / removed | – | {100 * unknown['class_present']:.1f} % / "
                 f"{100 * unknown['class_removed']:.1f} % |")  # fmt: skip
    return "\n".join(lines)


def _next_steps(folder: Path) -> str:
    checkpoint = folder / "readout_cls" / "checkpoints"
    return f"""With your own data:
  pfm train --dataset imagefolder:PATH --model_name google/vit-base-patch16-224    # or a MedMNIST name, an .npz
  pfm eval --ckpt CHECKPOINT.pt
  pfm forget --ckpt CHECKPOINT.pt --classes NAME
  pfm export onnx --ckpt CHECKPOINT.pt --out bundle
With what was made here (checkpoints in {checkpoint}):
  pfm export erase {folder / "readout_prompt" / "bundle"} --classes 7
  pfm bench --bundle {folder / "readout_prompt" / "bundle"}"""


def _report(summary: dict[str, Any], latency: dict[str, Any]) -> str:
    host = summary["host"]
    steps = "\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in summary["steps_s"].items())
    versions = ", ".join(f"{name} {number}" for name, number in host["versions"].items())
    return f"""# pfm demo

Seed {summary["seed"]}, {summary["seconds"]:.0f} s on {host["cores"]} cores ({host["processor"]}; {versions}).
Figures: `demo.json`, `latency.json`.

{_summary_table(summary)}

Forget accuracy is measured on test samples of the removed class, retain accuracy on all others. With the
`prompt` readout a removed class has no output, so its forget accuracy is 0 by structure. None of this says
that the shared weights have forgotten what they learned from the class; removal of a prompt hides a class.

![forget and retain accuracy against the number of removed classes](forgetting.png)

![served answers before and after the erasure](answers.png)

## Latency

{table(latency)}

![latency](latency.png)

## Steps

| step | seconds |
|---|---:|
{steps}
"""
