"""How long a class takes to be gone: from the call of `erase` to the first answer without it.

Each round erases from a fresh copy, as a user's would: a served bundle, whose session then answers, and a
checkpoint in place, from which a model is then built that answers. Beside them: what the same takes by
fine-tuning on the retained samples and by retraining.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pfm.audit.comparisons.data import by_position
from pfm.audit.comparisons.trained import Comparisons
from pfm.classes import check_removal
from pfm.data.splits import ClassificationData
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.storage import Json
from pfm_bench.reports.header import host_facts
from pfm_bench.scenarios.time_to_forget import erase_and_answer
from pfm_export.erasing import erase_everywhere
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import PromptSession


@dataclass(frozen=True, kw_only=True)
class Erasures:
    """Milliseconds from the call of `erase` to the first answer without the classes, raw."""

    latency_ms: list[float]

    @property
    def p50_ms(self) -> float:
        return float(np.percentile(self.latency_ms, 50))

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.latency_ms, 99))

    def to_dict(self) -> Json:
        return {"p50_ms": self.p50_ms, "p99_ms": self.p99_ms, "latency_ms": self.latency_ms}


@dataclass(frozen=True, kw_only=True)
class ForgettingReport:
    """Everything that was measured.

    Attributes:
        erasures: by artifact, "bundle" and "checkpoint".
        finetune_s, retrain_s: what an erasure replaces, done once.
    """

    settings: Json
    erasures: Mapping[str, Erasures]
    finetune_s: float
    retrain_s: float

    def to_dict(self) -> Json:
        return {
            "settings": self.settings,
            "host": host_facts(),
            "erase_to_first_prediction": {name: found.to_dict() for name, found in self.erasures.items()},
            "finetune_s": self.finetune_s,
            "retrain_s": self.retrain_s,
        }

    def describe(self) -> str:
        """A Markdown table."""
        lines = ["| | p50 | p99 |", "|---|---|---|"]
        for name, found in self.erasures.items():
            times = f"{found.p50_ms:.1f} ms | {found.p99_ms:.1f} ms"
            lines.append(f"| erase from a {name} to the first answer without it | {times} |")
        replaced = {
            "fine-tuning on the retained samples": self.finetune_s, "retraining without them": self.retrain_s
        }  # fmt: skip
        for what, seconds in replaced.items():
            ratio = 1000 * seconds / self.erasures["bundle"].p50_ms
            lines.append(f"| {what}, once ({ratio:,.0f} times the bundle's p50) | {seconds:.1f} s | |")
        return "\n".join(lines)


def bench_forgetting(
    ckpt: Path,
    data: ClassificationData,
    keys: list[str],
    *,
    rounds: int,
    say: Callable[[str], None] = print,
) -> ForgettingReport:
    """Time `rounds` erasures of both artifacts, then one fine-tuning and one retraining.

    Args:
        data: as `pfm train` loaded it for this checkpoint; the answers are for its first test image.
        keys: names or numbers of the classes.

    Raises:
        ClassNameError: the checkpoint does not have the classes, or no others.
    """
    full = load_checkpoint(ckpt)
    positions = full.classes.positions(keys)
    check_removal(full.classes, positions)
    names = [full.classes.names[p] for p in positions]
    data = by_position(data, full)
    inputs = full.preprocess(data.test.inputs[:1])
    samples: dict[str, list[float]] = {"bundle": [], "checkpoint": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_bundle(full, folder / "bundle")
        for number in range(rounds + 1):  # the first of each is a warm-up
            for name, source, erase in (
                ("bundle", folder / "bundle", _erase_bundle),
                ("checkpoint", ckpt, _erase_checkpoint),
            ):
                latency_ms = erase(source, folder / "copy", names, inputs)
                if number:
                    samples[name].append(latency_ms)
                shutil.rmtree(folder / "copy")
        say("training what an erasure replaces")
        comparisons = Comparisons(full, data, positions, folder / "models", torch.device("cpu"), say)
        finetune_s, retrain_s = comparisons.finetuned().seconds, comparisons.retrained().seconds
    return ForgettingReport(
        settings={
            "classes": names,
            "rounds": rounds,
            "warmup": 1,
            "threads": torch.get_num_threads(),
            "backbone": full.spec.model_name,
            "readout": full.model.readout,
            "trained_parameters": sum(tensor.numel() for tensor in full.tensors.values()),
        },
        erasures={name: Erasures(latency_ms=values) for name, values in samples.items()},
        finetune_s=finetune_s,
        retrain_s=retrain_s,
    )


def _erase_bundle(source: Path, copy: Path, names: list[str], inputs: torch.Tensor) -> float:
    """Milliseconds for a session that is already serving."""
    shutil.copytree(source, copy)
    session = PromptSession(copy, device="cpu", threads=torch.get_num_threads())
    values = inputs.numpy()
    assert set(names) <= set(session.predict(values).classes)
    return erase_and_answer(session, names, values)[1]


@torch.no_grad()
def _erase_checkpoint(source: Path, copy: Path, names: list[str], inputs: torch.Tensor) -> float:
    """Milliseconds for a file: erased in place, read again, a model built from it."""
    copy.mkdir()
    target = Path(shutil.copy(source, copy / source.name))
    started = time.perf_counter()
    erase_everywhere([target], names)
    smaller: Checkpoint = load_checkpoint(target)
    model = smaller.build_model().eval()
    model.logits(inputs, torch.arange(model.num_classes)[None])
    latency_ms = 1000 * (time.perf_counter() - started)
    assert not set(names) & set(model.classes.names), "the class is still answered"
    return latency_ms
