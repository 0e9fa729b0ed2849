"""From a checkpoint to an ONNX graph that belongs to no class.

Letters: B batch, C classes, K active prompts, m tokens per prompt, T tokens of the backbone, D hidden size.
"""

import contextlib
import dataclasses
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from pfm import __version__
from pfm.backbone import Backbone
from pfm.checkpoint import Checkpoint
from pfm.errors import StorageError
from pfm.lora import merged
from pfm.model import PromptedClassifier
from pfm.storage import explain, make_folder
from pfm_export.bundle import (
    INPUT_BIAS,
    INPUT_PROMPTS,
    INPUT_WEIGHT,
    LEDGER,
    MANIFEST,
    OUTPUT,
    Bundle,
    write_bundle,
    write_manifest,
)
from pfm_export.parity import ParityReport, check_parity

OPSET = 20
INPUT = "pixel_values"


class ClsGraph(nn.Module):
    """(pixel_values, prompts, class_weight, class_bias) -> logits (B, C)."""

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.body = _Body(model)

    def forward(
        self, pixel_values: torch.Tensor, prompts: torch.Tensor, class_weight: torch.Tensor, class_bias: torch.Tensor
    ) -> torch.Tensor:
        outputs = self.body(pixel_values, prompts, slice(0, 1))
        return outputs[:, 0] @ class_weight.T + class_bias


class PromptGraph(nn.Module):
    """(pixel_values, prompts) -> scores (B, K)."""

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.body = _Body(model)
        self.scorer = model.scorer
        self.prompt_tokens = model.config.prompt_tokens

    def forward(self, pixel_values: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        outputs = self.body(pixel_values, prompts, None)  # (B, K·m, D)
        scores = self.scorer(outputs).squeeze(-1)
        if self.prompt_tokens == 1:
            return scores
        return scores.unflatten(1, (-1, self.prompt_tokens)).mean(dim=2)


class _Body(nn.Module):
    """Backbone and shared prompts -> outputs at `positions`, or where the prompts stand: (B, P, D)."""

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.backbone: Backbone = model.backbone
        self.prompt_layer = model.config.prompt_layer
        self.final_norm = model.config.final_norm

    def forward(self, inputs: torch.Tensor, prompts: torch.Tensor, positions: slice | None) -> torch.Tensor:
        tokens = self.backbone.run_blocks(self.backbone.embed(inputs), 0, self.prompt_layer)
        num_own = tokens.shape[1]
        tokens = torch.cat([tokens, prompts.unsqueeze(0).expand(tokens.shape[0], -1, -1)], dim=1)
        outputs = self.backbone.readout(tokens, self.prompt_layer, positions or slice(num_own, None))
        return self.backbone.normalise(outputs) if self.final_norm else outputs


def export_graph(model: PromptedClassifier) -> bytes:
    """The ONNX graph of a model: adapters merged, opset 20, plain ai.onnx operators, one file.

    Batch, number of prompts and number of classes are dynamic; nothing in it belongs to a class.
    """
    plain = merged(model).eval()
    assert isinstance(plain, PromptedClassifier)
    plain.backbone.set_attention("eager")
    width = plain.backbone.hidden_size
    size = plain.backbone.config.image_size
    tokens = plain.config.prompt_tokens
    # three images, two prompts, five classes: no two sizes alike, none of them 0 or 1
    inputs: list[torch.Tensor] = [torch.randn(3, 3, size, size), torch.randn(2 * tokens, width)]
    names = [INPUT, INPUT_PROMPTS]
    if tokens == 1 or plain.config.readout == "cls":
        num_prompts: Any = "num_prompts"
    else:
        num_prompts = tokens * torch.export.Dim("num_classes", min=0)
    shapes: dict[str, Any] = {INPUT: {0: "batch"}, INPUT_PROMPTS: {0: num_prompts}}
    if plain.config.readout == "cls":
        graph: nn.Module = ClsGraph(plain)
        inputs += [torch.randn(5, width), torch.randn(5)]
        names += [INPUT_WEIGHT, INPUT_BIAS]
        shapes |= {INPUT_WEIGHT: {0: "num_classes"}, INPUT_BIAS: {0: "num_classes"}}
    else:
        graph = PromptGraph(plain)
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=[OUTPUT[plain.config.readout]],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _clean(program.model_proto)


def _clean(proto: onnx.ModelProto) -> bytes:
    """Drop what the exporter notes of this machine: stack traces, paths, names of Python modules."""
    proto.doc_string = ""
    proto.graph.doc_string = ""
    proto.producer_name, proto.producer_version = "pfm", __version__
    for item in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    for initializer in proto.graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    del proto.graph.metadata_props[:]
    onnx.checker.check_model(proto)
    buffer = io.BytesIO()
    onnx.save(proto, buffer)
    return buffer.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks are for its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_bundle(checkpoint: Checkpoint, folder: Path, *, overwrite: bool = False) -> ParityReport:
    """Write a bundle for plain ONNX Runtime, its parity with the torch model measured.

    It is made beside `folder` and moved there when it is whole and right.

    Raises:
        StorageError: `folder` is in use, and is not a bundle that `overwrite` may replace, or cannot be written.
        ParityError: the graph does not give the model's numbers; nothing is written.
    """
    _check_target(folder, overwrite=overwrite)
    make_folder(folder.absolute().parent)
    model = checkpoint.build_model()
    graph = export_graph(model)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as temporary:
        staged = Path(temporary) / "bundle"
        staged.mkdir()
        write_bundle(staged, model=graph, bank=_bank(model), manifest=_manifest(checkpoint))
        report = check_parity(model, staged)
        manifest = Bundle.open(staged).manifest  # the graph, which may be large, is written once
        write_manifest(staged, {**manifest, "parity": report.to_dict()})
        try:
            if folder.exists():  # the old bundle goes only when the new one stands
                folder.rename(Path(temporary) / "old")
            staged.rename(folder)
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {explain(error)}") from error
    return report


def _check_target(folder: Path, *, overwrite: bool) -> None:
    """Only an empty folder, or a bundle that nothing was erased from, may be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise StorageError(f"{folder} exists and is not empty; choose another folder, or give --overwrite")
    if not (folder / MANIFEST).is_file():
        raise StorageError(f"{folder} is no bundle, so --overwrite leaves it alone; choose another folder")
    if (folder / LEDGER).is_file() and (folder / LEDGER).stat().st_size:
        raise StorageError(
            f"{folder} records erasures, which an export over it would undo; choose another folder, or delete it first"
        )


def _bank(model: PromptedClassifier) -> dict[str, np.ndarray]:
    rows: dict[str, np.ndarray] = {}
    for position, number in enumerate(model.classes.ids):
        rows[f"prompt.{number}"] = model.bank.prompts[position].detach().numpy().copy()
        if model.config.readout == "cls":
            rows[f"weight.{number}"] = model.classifier.weight[position].detach().numpy().copy()
            rows[f"bias.{number}"] = model.classifier.bias[position].detach().numpy().copy()
    return rows


def _manifest(checkpoint: Checkpoint) -> dict[str, Any]:
    name = checkpoint.spec.model_name
    return {
        "pfm": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "readout": checkpoint.model.readout,
        "wrong_target": checkpoint.model.wrong_target,
        "prompt_tokens": checkpoint.model.prompt_tokens,
        "prompt_layer": checkpoint.model.prompt_layer,
        "final_norm": checkpoint.model.final_norm,
        "hidden_size": checkpoint.spec.hidden_size,
        "classes": [
            {"id": i, "name": n} for i, n in zip(checkpoint.classes.ids, checkpoint.classes.names, strict=True)
        ],
        "erased": [{"id": i, "name": n} for i, n in checkpoint.erased],
        "input": {"name": INPUT, "shape": ["batch", 3, checkpoint.preprocess.size, checkpoint.preprocess.size]},
        "preprocess": checkpoint.preprocess.to_dict(),
        # a local folder is named without where it lay
        "backbone": {"model_name": Path(name).name if Path(name).exists() else name, "config": checkpoint.spec.config},
        "training": {"seed": checkpoint.seed, "epoch": checkpoint.epoch, "model": dataclasses.asdict(checkpoint.model)},
        "opset": OPSET,
        "versions": {p: version(p) for p in ("torch", "transformers", "onnx", "onnxscript")},
    }
