"""One readout's whole story on real data: train, evaluate, erase, export, serve. What `pfm demo` runs for each readout.

It runs in a process of its own and on one thread: models this small are all overhead, so two of
them side by side take hardly longer than one, and the exact readout is solved in a moment.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pfm.data.splits import ClassificationData
from pfm.evaluation.evaluator import make_evaluator
from pfm.evaluation.outcome import Evaluation
from pfm.evaluation.results import describe_evaluation, write_evaluation
from pfm.evaluation.samples import label_positions
from pfm.evaluation.subsets import forget_sizes
from pfm.forgetting import files as forgetting
from pfm.forgetting.artifacts import Request
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.storage import Json, make_folder
from pfm.training.config import RunConfig
from pfm.training.launch import processes_of, start_accelerator
from pfm.training.run import train
from pfm_bench.demo.task import Task, demo_recipe
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import Prediction, PromptSession

MAX_SUBSETS = 25

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the served bundle answered.

    Attributes:
        before, after: for every test input, the class there and erased.
        times_answered: how often the class was answered while suspended, and once erased.
        erase_ms: from the call of `erase` to the first answer without the class.
    """

    before: list[str]
    after: list[str]
    times_answered: int
    erase_ms: float


@dataclass(frozen=True, kw_only=True)
class ReadoutResult:
    """What one readout achieved; accuracies in [0, 1].

    Attributes:
        worst_difference: between ONNX and torch logits.
        steps_s: seconds by step.
    """

    checkpoint: Path
    bundle: Path
    evaluation: Evaluation
    worst_difference: float
    answers: Answers
    steps_s: dict[str, float] = field(default_factory=dict)

    @property
    def full_bank(self) -> float:
        """Accuracy with every prompt."""
        return self.evaluation.modes["full_bank"]

    @property
    def retain_k1(self) -> float:
        """Accuracy on the other classes with one prompt removed, mean over the classes."""
        return self.evaluation.subsets[0].summary()["retain_mean"]

    @property
    def forget_k1(self) -> float:
        """Accuracy on the class whose prompt is removed, mean over the classes."""
        return self.evaluation.subsets[0].summary()["forget_mean"]

    def to_dict(self) -> Json:
        return {
            "full_bank": self.full_bank,
            "retain_k1": self.retain_k1,
            "forget_k1": self.forget_k1,
            "unknown": None if self.evaluation.unknown is None else asdict(self.evaluation.unknown),
            "onnx_worst_difference": self.worst_difference,
            "times_erased_class_answered": self.answers.times_answered,
            "erase_ms": self.answers.erase_ms,
            "steps_s": self.steps_s,
        }


def tell_story(task: Task, readout: str, folder: Path, seed: int) -> ReadoutResult:
    """Everything the demo does with one readout, under `folder`, said as it happens."""
    torch.set_num_threads(1)
    started: dict[str, float] = {}

    def say(text: str) -> None:
        # one write a line, so that two processes do not mix theirs
        print("".join(f"[{readout:<6}] {line}\n" for line in text.splitlines()), end="", flush=True)

    def step(name: str, work: Callable[[], T]) -> T:
        say(f"▸ {name}")
        before = time.monotonic()
        result = work()
        started[name] = round(time.monotonic() - before, 1)
        say(f"  {name}: {started[name]:.1f} s")
        return result

    def said_now_and_then(text: str) -> None:
        epoch = text.startswith("epoch ") and int(text.split()[1].split("/")[0])
        if not text.startswith("data set") and (epoch is False or epoch == 1 or epoch % 10 == 0):
            say(f"  {text}")

    folder = make_folder(folder)
    config = demo_recipe(task, readout, folder / "checkpoints", seed)
    forgotten = task.forgotten
    data = task.load()
    result = step(
        "train from scratch",
        lambda: train(config, torch.device("cpu"), say=said_now_and_then, data=data),
    )
    checkpoint = load_checkpoint(result.checkpoint)
    measured, text = step("evaluate every mode; forget k classes", lambda: _evaluate(checkpoint, data, folder, config))
    say(text)
    erased = folder / f"{data.name}_without_{forgotten}.pt"
    step(
        f"erase class {forgotten} from the checkpoint",
        lambda: forgetting.erase_file(result.checkpoint, checkpoint, [forgotten], erased, request=Request("demo")),
    )
    bundle = folder / "bundle"
    parity = step("export to ONNX", lambda: export_bundle(checkpoint, bundle).parity)
    say(f"  worst logit difference to torch {parity.worst_difference:.1e} over {len(parity.cases)} cases")
    answers = step(
        "serve without torch; suspend the class, then erase it", lambda: _serve(task, folder, bundle, data, say)
    )
    return ReadoutResult(
        checkpoint=result.checkpoint,
        bundle=bundle,
        evaluation=measured,
        worst_difference=parity.worst_difference,
        answers=answers,
        steps_s=started,
    )


def _evaluate(
    checkpoint: Checkpoint, data: ClassificationData, folder: Path, config: RunConfig
) -> tuple[Evaluation, str]:
    model = checkpoint.build_model()
    evaluator = make_evaluator(
        data.test,
        label_positions(model.classes, data.classes),
        checkpoint.preprocess,
        processes_of(start_accelerator(torch.device("cpu"), config.device)),
        config.evaluation,
        seed=config.train.seed,
    )
    measured = evaluator.evaluate(model, ks=forget_sizes(model.num_classes), max_subsets=MAX_SUBSETS)
    write_evaluation(folder / data.name, measured, model, title=f"{data.name}, readout {model.config.readout}")
    return measured, describe_evaluation(measured, model)


def _serve(task: Task, folder: Path, bundle: Path, data: ClassificationData, say: Callable[[str], None]) -> Answers:
    """Suspend a class for one request, then erase it from a copy of the bundle, and count its answers."""
    forgotten, inputs = task.forgotten, data.test.inputs
    erased = folder / f"bundle_without_{forgotten}"
    shutil.copytree(bundle, erased)
    session = PromptSession(erased, device="cpu", threads=1)

    def predict(count: int | None = None, without: tuple[str, ...] = ()) -> Prediction:
        return task.ask(session, inputs[:count], without)

    truth = np.array([data.classes.names[label] for label in data.test.labels.tolist()])
    before = predict()
    suspended = predict(without=(forgotten,))
    started = time.perf_counter()
    session.erase([forgotten], reason="demo")
    predict(1)
    erase_ms = (time.perf_counter() - started) * 1000
    after = predict()
    count = [*suspended.labels, *after.labels].count(forgotten)
    kept = truth != forgotten
    say(
        f"  {session.provider}: {100 * (np.array(before.labels) == truth).mean():.1f} % right with all classes\n"
        f"  class {forgotten} suspended for one request, then erased for good ({erase_ms:.0f} ms to the next answer): "
        f"answered {count} times, {100 * (np.array(after.labels) == truth)[kept].mean():.1f} % right on the others"
    )
    return Answers(before=before.labels, after=after.labels, times_answered=count, erase_ms=erase_ms)
