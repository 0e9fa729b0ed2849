"""What the demo found: the summary, the pictures, a report for people."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pfm.evaluation.pictures import draw_forgetting
from pfm.storage import Json
from pfm_bench.demo.answers import collect_answers
from pfm_bench.demo.answers_picture import draw_answers
from pfm_bench.demo.story import ReadoutResult
from pfm_bench.demo.task import Task

# what stands in the table, of each readout
_ROWS: tuple[tuple[str, Callable[[ReadoutResult], str]], ...] = (
    ("full-bank accuracy", lambda result: f"{100 * result.full_bank:.1f} %"),
    ("retain accuracy, k = 1 (mean over classes)", lambda result: f"{100 * result.retain_k1:.1f} %"),
    ("forget accuracy, k = 1 (mean over classes)", lambda result: f"{100 * result.forget_k1:.1f} %"),
    ("times the erased class was answered by the bundle", lambda result: f"{result.answers.times_answered}"),
    ("erase in the bundle, until the next answer", lambda result: f"{result.answers.erase_ms:.0f} ms"),
    ("ONNX against torch, worst logit difference", lambda result: f"{result.worst_difference:.1e}"),
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a demo.

    Attributes:
        seconds: of all of it; `latency_s` of the latencies at its end.
        host: see `pfm_bench.reports.header.host_facts`.
        results: by readout.
    """

    task: Task
    seed: int
    seconds: float
    latency_s: float
    host: Json
    results: Mapping[str, ReadoutResult]

    def to_dict(self) -> Json:
        return {
            "command": self.task.command,
            "data": self.task.name,
            "forgotten": self.task.forgotten,
            "seed": self.seed,
            "seconds": self.seconds,
            "latency_s": self.latency_s,
            "host": self.host,
            "results": {name: result.to_dict() for name, result in self.results.items()},
        }

    def table(self) -> str:
        """The readouts side by side, in Markdown."""
        lines = [
            f"| {self.task.name}, trained from scratch | readout cls (the paper's) | readout prompt "
            "| readout ridge (exact) |",
            "|---|---:|---:|---:|",
        ]
        for title, cell in _ROWS:
            lines.append(f"| {title} | {' | '.join(cell(result) for result in self.results.values())} |")
        unknown = self.results["prompt"].evaluation.unknown
        assert unknown is not None
        there, gone = 100 * unknown.class_present, 100 * unknown.class_removed
        lines.append(f"| answered `unknown`: class there / class removed | – | {there:.1f} % / {gone:.1f} % | – |")
        lines.append("| what an erasure leaves of the class | shared weights that learned it | the same | nothing |")
        return "\n".join([*lines, "", self.price()])

    def price(self) -> str:
        """What exactness costs here."""
        exact = self.results["ridge"]
        best = max(result.full_bank for name, result in self.results.items() if name != "ridge")
        points = 100 * (best - exact.full_bank)
        cost = f"costs {points:.1f} points" if points > 0.05 else "costs nothing"
        return (
            f"Exact forgetting {cost} of accuracy here, on pooled raw input; where features must adapt to the data it "
            "costs more (docs/results.md). What it keeps to forget with is personal data."
        )

    def next_steps(self) -> str:
        """Commands to go on with."""
        made = self.results["prompt"]
        gone, checkpoint, bundle = (
            shlex.quote(str(value)) for value in (self.task.forgotten, made.checkpoint, made.bundle)
        )
        return f"""Next, with your own data:
  pfm train --dataset imagefolder:PATH     (or a MedMNIST name, an .npz, a Hugging Face data set)
  pfm eval --ckpt CHECKPOINT
  pfm forget --ckpt CHECKPOINT --classes NAME
  pfm export onnx --ckpt CHECKPOINT --out bundle
Or with what was made here:
  pfm eval --ckpt {checkpoint} --suspend {gone}
  pfm forget --classes {gone} --in_place {bundle}
  pfm bench --bundle {bundle}"""

    def report(self, latency: str) -> str:
        """`report.md`.

        Args:
            latency: the table of latencies.
        """
        versions = self.host["versions"]
        assert isinstance(versions, Mapping)
        shown = ", ".join(f"{name} {number}" for name, number in versions.items())
        steps = [result.steps_s for result in self.results.values()]
        rows = [f"| {name} | {' | '.join(f'{own[name]:.1f}' for own in steps)} |" for name in steps[0]]
        return f"""# pfm demo: {self.task.name}

Seed {self.seed}, {self.seconds:.0f} s on {self.host["cores"]} cores ({self.host["processor"]}; {shown}).
The figures are in `demo.json` and `latency.json`.

{self.table()}

Forget accuracy is measured on test samples of the removed class, retain accuracy on all others. With the
`prompt` readout a removed class has no output, so its forget accuracy is 0 by structure. None of this says
that the shared weights have forgotten what they learned from the class: removing a prompt hides a class. The
`ridge` readout has no shared weights; an erased checkpoint is the one of a fit without the class.

![forget and retain accuracy against the number of removed classes](forgetting.png)

![served answers before and after the erasure](answers.png)

## Latency

{latency}

![latency of one batch](latency.png)

## Steps

| step | cls, seconds | prompt, seconds | ridge, seconds |
|---|---:|---:|---:|
{chr(10).join(rows)}
| latency, seconds | {self.latency_s:.1f} | | |
"""


def draw_pictures(folder: Path, task: Task, results: Mapping[str, ReadoutResult]) -> None:
    """`forgetting.png` and `answers.png`."""
    data = task.load()
    draw_forgetting(
        {f"readout {name}": result.evaluation.inference_accuracies() for name, result in results.items()},
        folder / "forgetting.png",
        num_classes=len(data.classes),
        title=f"{task.name}: what is forgotten and what is kept",
    )
    answers = collect_answers(task, data, {name: result.answers for name, result in results.items()})
    draw_answers(answers, task, data.test.inputs, folder / "answers.png")
