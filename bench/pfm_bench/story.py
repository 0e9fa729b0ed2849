"""One readout's whole story on real data: train, evaluate, erase, export, serve. What `pfm demo` runs twice.

It runs in a process of its own and on one thread: models this small are all overhead, so two of
them side by side take hardly longer than one.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from pfm.backbones.spec import BackboneConfig, describe_backbone
from pfm.data.augmentation import AugmentConfig
from pfm.data.config import DataConfig
from pfm.data.inputs import preprocess_from_dict
from pfm.data.loading import load_data
from pfm.data.sounds import SoundPreprocess
from pfm.data.splits import ClassificationData
from pfm.device import DeviceConfig
from pfm.evaluation.evaluator import EvalConfig, make_evaluator
from pfm.evaluation.results import Evaluation, describe_evaluation, write_evaluation
from pfm.evaluation.samples import label_positions
from pfm.evaluation.subsets import forget_sizes
from pfm.forgetting import files as forgetting
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import ModelConfig
from pfm.model.lora import LoraSettings
from pfm.storage import make_folder
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.launch import processes_of, start_accelerator
from pfm.training.run import train
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import Prediction, PromptSession

MAX_SUBSETS = 25
MODELS = {
    "cls": ModelConfig(readout="cls"),
    "prompt": ModelConfig(readout="prompt", wrong_target="none", final_norm=True),
}
RECIPE = TrainConfig(
    epochs=60,
    batch_size=128,
    lr=8e-3,
    optimizer="adamw",
    weight_decay=0.1,
    schedule="cosine",
    warmup=0.1,
    eval_every=0,
    save_every=0,
)
SOUND_RECIPE = dataclasses.replace(RECIPE, epochs=20, batch_size=64, lr=3e-3, weight_decay=0.05)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a demo is told of.

    Attributes:
        forgotten: the class that goes.
        recipes: by readout.
    """

    data: DataConfig
    model_name: str
    forgotten: str
    recipes: dict[str, TrainConfig]

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.data.short_name


DIGITS = Task(
    data=DataConfig(dataset="digits"),
    model_name="scratch:vit_digits",
    forgotten="3",
    recipes={"cls": RECIPE, "prompt": dataclasses.replace(RECIPE, epochs=90, lr=5e-3, max_grad_norm=1.0)},
)


def sound_task(data: DataConfig, forgotten: str) -> Task:
    """The same story on a folder of sounds."""
    recipes = {"cls": SOUND_RECIPE, "prompt": dataclasses.replace(SOUND_RECIPE, epochs=30, max_grad_norm=1.0)}
    return Task(data=data, model_name="scratch:ast_mini", forgotten=forgotten, recipes=recipes)


T = TypeVar("T")


@dataclass
class ReadoutResult:
    """What one readout achieved; accuracies in [0, 1].

    Attributes:
        worst_difference: between ONNX and torch logits.
        answers_before, answers_after: of the served bundle for every test image, the class there and erased.
        times_answered: how often the class was answered while suspended, and once erased.
        erase_ms: from the call of `erase` to the first answer without the class.
        steps_s: seconds by step.
    """

    checkpoint: Path
    bundle: Path
    evaluation: Evaluation
    worst_difference: float
    answers_before: list[str]
    answers_after: list[str]
    times_answered: int
    erase_ms: float
    steps_s: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        k1 = self.evaluation.subsets[0].summary()
        return {
            "full_bank": self.evaluation.modes["full_bank"],
            "retain_k1": k1["retain_mean"],
            "forget_k1": k1["forget_mean"],
            "unknown": None if self.evaluation.unknown is None else dataclasses.asdict(self.evaluation.unknown),
            "onnx_worst_difference": self.worst_difference,
            "times_erased_class_answered": self.times_answered,
            "erase_ms": self.erase_ms,
            "steps_s": self.steps_s,
        }


def run_config(task: Task, readout: str, folder: Path, seed: int) -> RunConfig:
    """The demo's recipe, as `pfm train` would take it."""
    return RunConfig(
        data=task.data,
        backbone=BackboneConfig(model_name=task.model_name),
        model=MODELS[readout],
        lora=LoraSettings(),
        train=dataclasses.replace(task.recipes[readout], seed=seed, save_dir=str(folder)),
        augment=AugmentConfig(),
        evaluation=EvalConfig(eval_batch_size=360),
        device=DeviceConfig(cpu=True),
    )


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
    config = run_config(task, readout, folder / "checkpoints", seed)
    forgotten = task.forgotten
    data = load_data(config.data, describe_backbone(config.backbone).storage)
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
        lambda: forgetting.erase_file(result.checkpoint, checkpoint, [forgotten], erased, reason="demo"),
    )
    bundle = folder / "bundle"
    parity = step("export to ONNX", lambda: export_bundle(checkpoint, bundle).parity)
    say(f"  worst logit difference to torch {parity.worst_difference:.1e} over {len(parity.cases)} cases")
    served = step(
        "serve without torch; suspend the class, then erase it", lambda: _serve(folder, bundle, data, forgotten, say)
    )
    return ReadoutResult(result.checkpoint, bundle, measured, parity.worst_difference, **served, steps_s=started)


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


def _serve(
    folder: Path, bundle: Path, data: ClassificationData, forgotten: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Suspend a class for one request, then erase it from a copy of the bundle, and count its answers."""
    erased = folder / f"bundle_without_{forgotten}"
    shutil.copytree(bundle, erased)
    session = PromptSession(erased, device="cpu", threads=1)
    preprocess = preprocess_from_dict(session.manifest["preprocess"])

    def predict(count: int | None = None, without: tuple[str, ...] = ()) -> Prediction:
        if isinstance(preprocess, SoundPreprocess):  # clips as they were read; the first window of each
            return session.predict(preprocess(data.test.inputs[:count]).numpy(), without=without)
        return session.predict_images(list(data.test.inputs[:count, 0].numpy()), without=without)

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
    return {
        "answers_before": before.labels,
        "answers_after": after.labels,
        "times_answered": count,
        "erase_ms": erase_ms,
    }
