"""A bundle of any backbone's shape with random weights, for measuring: speed does not depend on the weights."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneConfig, describe_backbone
from pfm.classes import ClassList
from pfm.model.checkpoint import Checkpoint, RunState, snapshot
from pfm.model.classifier import ModelConfig, PromptedClassifier
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.tracing import export_graphs

T = TypeVar("T")


def random_checkpoint(model_name: str, *, num_classes: int, readout: str, seed: int = 0) -> Checkpoint:
    """A model of that shape that nobody trained, as a checkpoint.

    Raises:
        BackboneError: no such backbone.
    """
    spec = describe_backbone(BackboneConfig(model_name=model_name))
    classes = ClassList.from_names([f"class{i}" for i in range(num_classes)])
    config = ModelConfig(readout=readout, tune="full")
    model = PromptedClassifier(build_backbone(spec, seed=seed, load_weights=False), classes, config, None)
    return snapshot(
        model,
        spec=spec,
        preprocess=spec.preprocess or spec.storage.default_preprocess(spec.input_shape),
        lora=None,
        state=RunState(seed=seed),
    )


def write_random_bundle(checkpoint: Checkpoint, folder: Path, *, precision: str = "fp32") -> dict[str, Any]:
    """Export it to `folder`, timed.

    Returns:
        Seconds on the clock and of CPU time: `graph`, from the model in memory to the bytes of its graph;
        `bundle`, all of `pfm export onnx`, the parity check with it. Bytes on disk, the graph's and all.
    """
    model = checkpoint.build_model()
    form = GraphForm(precision=precision)
    graphs, graph_s = _timed(lambda: export_graphs(model, form, checkpoint.preprocess))
    report, bundle_s = _timed(lambda: export_bundle(checkpoint, folder, form=form))
    return {
        "graph": graph_s,
        "bundle": bundle_s,
        "graph_bytes": sum(len(content) for content in graphs.values()),
        "bundle_bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "worst_difference": report.parity.worst_difference,
    }


def _timed(work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    before, cpu_before = time.perf_counter(), time.process_time()
    result = work()
    return result, {"wall_s": time.perf_counter() - before, "cpu_s": time.process_time() - cpu_before}
