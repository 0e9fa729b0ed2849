"""From a checkpoint to a bundle: graph, bank and manifest, written only when the graph gives the model's numbers."""

import dataclasses
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pfm import __version__
from pfm.data.mel import LOWEST_HZ, PREEMPHASIS
from pfm.errors import StorageError
from pfm.forgetting.ledger import canonical
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.storage import explain, make_folder, sha256_bytes
from pfm_export.graph.accuracy import TestSamples, measure_accuracy
from pfm_export.graph.hub_files import hub_files, without_classes
from pfm_export.graph.parity import ParityReport, check_parity
from pfm_export.graph.tracing import OPSET, export_graphs
from pfm_export.serving.bundle import LEDGER, MANIFEST, Bundle, write_bundle, write_manifest
from pfm_export.serving.form import GraphForm

# how log-mel features are made, for those who make them elsewhere
FEATURES = {
    "kind": "kaldi_fbank", "frame_ms": 25, "hop_ms": 10, "window": "hann, symmetric", "preemphasis": PREEMPHASIS,
    "remove_dc_offset": True, "dither": 0, "low_hz": LOWEST_HZ, "power": 2, "log_floor": 1.1920928955078125e-07,
    "snip_edges": True, "missing_frames": 0.0, "normalised": "(x - mean) / (2 * std)",
}  # fmt: skip
NOT_MEASURED = "not measured at export; parity is of random inputs only"
# what is said in the graph too; nothing of a class, which an erasure could not take out again
_FACTS = (
    "pfm", "readout", "wrong_target", "prompt_tokens", "prompt_layer", "final_norm", "hidden_size", "preprocess",
    "opset", "versions", "form", "bundle",
)  # fmt: skip


def export_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    overwrite: bool = False,
    form: GraphForm | None = None,
    samples: TestSamples | None = None,
) -> ParityReport:
    """Write a bundle for plain ONNX Runtime, its parity with the torch model measured.

    It is made beside `folder` and moved there when it is whole and right.

    Args:
        form: of the graph.  [default: the ordinary one]
        samples: to measure accuracy and forgetting on, beside the model's; the manifest says if none were.

    Raises:
        ConfigError: a form that this model does not have.
        StorageError: `folder` is in use, and is not a bundle that `overwrite` may replace, or cannot be written.
        ParityError: the graph does not give the model's numbers; nothing is written.
    """
    _check_target(folder, overwrite=overwrite)
    make_folder(folder.absolute().parent)
    model = checkpoint.build_model()
    form = form or GraphForm()
    bank = _bank(model)
    manifest = _manifest(checkpoint, form)
    manifest["bundle"] = _identity(manifest, bank)
    facts = {name: manifest[name] for name in _FACTS}
    graphs = export_graphs(model, form, checkpoint.preprocess, facts)
    others = hub_files(checkpoint.spec.config, checkpoint.preprocess)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as temporary:
        staged = Path(temporary) / "bundle"
        staged.mkdir()
        write_bundle(staged, graphs=graphs, others=others, bank=bank, manifest=manifest)
        report = check_parity(model, staged)
        manifest = Bundle.open(staged).manifest  # the graph, which may be large, is written once
        accuracy = None if samples is None else measure_accuracy(model, staged, samples)
        write_manifest(staged, {**manifest, "parity": report.to_dict(), "accuracy": accuracy or NOT_MEASURED})
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
    own = {"prompt": model.bank.prompts.detach(), **model.readout.bank_rows(model)}
    for position, number in enumerate(model.classes.ids):
        rows |= {f"{kind}.{number}": tensor[position].numpy().copy() for kind, tensor in own.items()}
    return rows


def _identity(manifest: dict[str, Any], bank: dict[str, np.ndarray]) -> str:
    """SHA-256 over what a bundle is made of, which its graphs state as well: they say where they come from, also alone.

    It stays as it is when a class is erased, and is the same whenever the same model is exported in the same form.
    """
    rows = {name: sha256_bytes(np.ascontiguousarray(array).tobytes()) for name, array in bank.items()}
    facts = {name: value for name, value in manifest.items() if name != "created"}
    return sha256_bytes(canonical({**facts, "bank": rows}))


def _manifest(checkpoint: Checkpoint, form: GraphForm) -> dict[str, Any]:
    kind = checkpoint.preprocess.kind
    first = form.first_inputs(kind)
    shape: list[str | int] = ["batch", *checkpoint.spec.input_shape]
    if form.uint8_input:
        shape = ["batch", "height", "width", 3]
    if form.with_frontend:
        shape = ["batch", "samples"]
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
        "form": form.to_dict(),
        "graphs": {
            file: {"inputs": inputs, "outputs": outputs}
            for file, (inputs, outputs) in form.signatures(checkpoint.model.readout, kind).items()
        },
        "input": {"name": first[0], "shape": shape, "dtype": "uint8" if form.uint8_input else "float32"},
        "preprocess": checkpoint.preprocess.to_dict(),
        **({"features": FEATURES} if kind == "audio" else {}),
        # a local folder is named without where it lay
        "backbone": {
            "model_name": Path(name).name if Path(name).exists() else name,
            "config": without_classes(checkpoint.spec.config),
        },
        "training": {"seed": checkpoint.seed, "epoch": checkpoint.epoch, "model": dataclasses.asdict(checkpoint.model)},
        **({"unknown_below": checkpoint.unknown_below} if checkpoint.unknown_below else {}),
        "opset": OPSET,
        "versions": {p: version(p) for p in ("torch", "transformers", "onnx", "onnxscript")},
    }
