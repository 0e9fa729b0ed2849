"""How long a class takes to be gone: from the call of `erase` to the first answer without it.

Each round erases from a fresh copy, as a user's would: a served bundle, whose session then answers, and a
checkpoint in place, from which a model is then built that answers. Beside them: what the same takes by
fine-tuning on the retained samples and by retraining.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.audit.comparisons.data import by_position
from pfm.audit.comparisons.trained import Comparisons
from pfm.classes import check_removal
from pfm.data.splits import ClassificationData
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm_bench.reports.variants import host_facts
from pfm_bench.scenarios.serving import erase_and_answer
from pfm_export.erasing import erase_everywhere
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import PromptSession


def bench_forgetting(
    ckpt: Path,
    data: ClassificationData,
    keys: list[str],
    *,
    rounds: int,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Time `rounds` erasures of both artifacts, then one fine-tuning and one retraining.

    Args:
        data: as `pfm train` loaded it for this checkpoint; the answers are for its first test image.

    Returns:
        raw samples in milliseconds, their p50 and p99, and seconds of what an erasure replaces.

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
            for name, erase in (("bundle", _erase_bundle), ("checkpoint", _erase_checkpoint)):
                source = folder / "bundle" if name == "bundle" else ckpt
                latency_ms = erase(source, folder / "copy", names, inputs)
                if number:
                    samples[name].append(latency_ms)
                shutil.rmtree(folder / "copy")
        say("training what an erasure replaces")
        comparisons = Comparisons(full, data, positions, folder / "models", torch.device("cpu"), say)
        replaced = {"finetune_s": comparisons.finetuned().seconds, "retrain_s": comparisons.retrained().seconds}
    return {
        "settings": {
            "classes": names,
            "rounds": rounds,
            "warmup": 1,
            "threads": torch.get_num_threads(),
            "backbone": full.spec.model_name,
            "readout": full.model.readout,
            "trained_parameters": sum(tensor.numel() for tensor in full.tensors.values()),
        },
        "host": host_facts(),
        "erase_to_first_prediction": {
            name: {
                "p50_ms": float(np.percentile(values, 50)),
                "p99_ms": float(np.percentile(values, 99)),
                "latency_ms": values,
            }
            for name, values in samples.items()
        },
        **replaced,
    }


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


def forgetting_table(document: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| | p50 | p99 |", "|---|---|---|"]
    for name, found in document["erase_to_first_prediction"].items():
        times = f"{found['p50_ms']:.1f} ms | {found['p99_ms']:.1f} ms"
        lines.append(f"| erase from a {name} to the first answer without it | {times} |")
    for key, what in (("finetune_s", "fine-tuning on the retained samples"), ("retrain_s", "retraining without them")):
        seconds = document[key]
        ratio = 1000 * seconds / document["erase_to_first_prediction"]["bundle"]["p50_ms"]
        lines.append(f"| {what}, once ({ratio:,.0f} times the bundle's p50) | {seconds:.1f} s | |")
    return "\n".join(lines)
