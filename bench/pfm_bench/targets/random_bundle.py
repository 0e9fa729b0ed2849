"""A bundle of any backbone's shape with random weights, for measuring: speed does not depend on the weights."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone
from pfm.classes import ClassList
from pfm.model.checkpoint import Checkpoint, RunState, snapshot
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import ModelConfig
from pfm.storage import Json
from pfm_bench.measuring.rounds import Duration, timed
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.tracing import export_graphs


@dataclass(frozen=True, kw_only=True)
class ExportCost:
    """What an export took.

    Attributes:
        graph: from the model in memory to the bytes of its graph.
        bundle: all of `pfm export onnx`, the parity check with it.
        graph_bytes, bundle_bytes: on disk.
        worst_difference: between the logits of ONNX Runtime and torch.
    """

    graph: Duration
    bundle: Duration
    graph_bytes: int
    bundle_bytes: int
    worst_difference: float

    def to_dict(self) -> Json:
        return asdict(self)


def random_checkpoint(model_name: str, *, num_classes: int, readout: str, seed: int = 0) -> Checkpoint:
    """A model of that shape that nobody trained, as a checkpoint.

    Raises:
        BackboneError: no such backbone.
    """
    spec = describe_backbone(BackboneConfig(model_name=model_name))
    classes = ClassList.from_names([f"class{i}" for i in range(num_classes)])
    config = ModelConfig(readout=readout, tune="full")
    model = PromptedClassifier(build_backbone(spec, seed=seed, load_weights=False), classes, config, None)
    preprocess = spec.preprocess or spec.storage.default_preprocess(spec.input_shape)
    return snapshot(model, spec=spec, preprocess=preprocess, lora=None, state=RunState(seed=seed))


def write_random_bundle(checkpoint: Checkpoint, folder: Path, *, precision: str = "fp32") -> ExportCost:
    """Export it to `folder`, timed."""
    model = checkpoint.build_model()
    form = GraphForm(precision=precision)
    graphs, graph = timed(lambda: export_graphs(model, form, checkpoint.preprocess))
    report, bundle = timed(lambda: export_bundle(checkpoint, folder, form=form))
    return ExportCost(
        graph=graph,
        bundle=bundle,
        graph_bytes=sum(len(content) for content in graphs.values()),
        bundle_bytes=sum(file.stat().st_size for file in folder.iterdir()),
        worst_difference=report.parity.worst_difference,
    )
