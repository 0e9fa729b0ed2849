"""From a checkpoint to a bundle: graph, bank and manifest, written only when the graph gives the model's numbers."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pfm.errors import ConfigError, StorageError, explain
from pfm.forgetting.ledger import LEDGER
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.readouts.ridge import memory_of
from pfm.options import expanded
from pfm.storage import check_folder, make_folder, write_bytes
from pfm_export.graph.accuracy import AccuracyReport, TestSamples, measure_accuracy
from pfm_export.graph.form import GraphForm
from pfm_export.graph.hub_files import hub_files
from pfm_export.graph.manifest import describe, graph_facts
from pfm_export.graph.parity import ParityReport, check_parity
from pfm_export.graph.tracing import export_graphs
from pfm_export.serving.bank import Floats
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import MANIFEST, write_manifest
from pfm_export.serving.solving import sums_file
from pfm_export.serving.writing import write_bundle

NOT_MEASURED = "not measured at export; parity is of random inputs only"


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was measured on a bundle before it was written.

    Attributes:
        parity: graph against model.
        accuracy: on test samples; None where none were given.
    """

    parity: ParityReport
    accuracy: AccuracyReport | None


def export_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    overwrite: bool = False,
    form: GraphForm | None = None,
    with_sums: bool = False,
    samples: TestSamples | None = None,
) -> ExportReport:
    """Write a bundle for plain ONNX Runtime, its parity with the torch model measured.

    It is made beside `folder` and moved there when it is whole and right.

    Args:
        form: of the graph.  [default: the ordinary one]
        with_sums: put in what an exact readout is solved from, one file a class, so that the bundle can forget exactly.
        samples: to measure accuracy and forgetting on, beside the model's; the manifest says if none were.

    Raises:
        ConfigError: a form that this model does not have.
        StorageError: `folder` is in use, and is not a bundle that `overwrite` may replace, or cannot be written.
        ParityError: the graph does not give the model's numbers; nothing is written.
    """
    folder, form = expanded(folder), form or GraphForm()
    check_export(checkpoint, folder, overwrite=overwrite, form=form, with_sums=with_sums)
    make_folder(folder.absolute().parent)
    sums = class_sums(checkpoint) if with_sums else {}
    model = checkpoint.build_model()
    bank = _bank(model)
    manifest = describe(checkpoint, model, form, with_sums=with_sums)
    graphs = export_graphs(model, form, checkpoint.preprocess, graph_facts(manifest))
    others = hub_files(checkpoint.spec, checkpoint.preprocess)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as temporary:
        staged = Path(temporary) / "bundle"
        staged.mkdir()
        write_bundle(staged, graphs=graphs, others=others, bank=bank, manifest=manifest)
        for name, content in sums.items():
            write_bytes(staged / name, content, is_private=True)
        parity = check_parity(model, staged)
        accuracy = None if samples is None else measure_accuracy(model, staged, samples)
        measured = {"parity": parity.to_dict(), "accuracy": accuracy.to_dict() if accuracy else NOT_MEASURED}
        # the graph, which may be large, is written once
        write_manifest(staged, {**Bundle.open(staged).manifest, **measured})
        try:
            if folder.exists():  # the old bundle goes only when the new one stands
                folder.rename(Path(temporary) / "old")
            staged.rename(folder)
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {explain(error)}") from error
    return ExportReport(parity=parity, accuracy=accuracy)


def check_export(
    checkpoint: Checkpoint, folder: Path, *, form: GraphForm, overwrite: bool = False, with_sums: bool = False
) -> None:
    """Refuse what `export_bundle` would, as far as can be said before a backbone or data is loaded.

    Raises:
        ConfigError, StorageError: see there.
    """
    _check_target(folder, overwrite=overwrite)
    check_folder(folder.absolute().parent)
    form.input_kind(checkpoint.preprocess.kind)
    form.check_split(has_trunk=checkpoint.model.has_trunk)
    if with_sums:
        _check_sums(checkpoint)


def _check_target(folder: Path, *, overwrite: bool) -> None:
    """Only an empty folder, or a bundle that nothing was erased from, may be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise StorageError(f"{folder} exists and is not empty; choose another folder, or give --overwrite")
    if not (folder / MANIFEST).is_file():
        raise StorageError(f"{folder} is not a bundle, so --overwrite leaves it alone; choose another folder")
    if (folder / LEDGER).is_file() and (folder / LEDGER).stat().st_size:
        raise StorageError(
            f"{folder} records erasures, which an export over it would undo; choose another folder, or delete it first"
        )


def class_sums(checkpoint: Checkpoint) -> dict[str, memoryview]:
    """The files of an exact readout's sums, by name.

    Raises:
        ConfigError: another readout, or one that kept nothing to make sums of, or a threshold that sums do not give.
    """
    _check_sums(checkpoint)
    memory = memory_of(checkpoint)
    numbers = dict(zip(checkpoint.classes.names, checkpoint.classes.ids, strict=True))
    return {sums_file(numbers[name]): memory.class_sums(name).data for name in memory.classes}


def _check_sums(checkpoint: Checkpoint) -> None:
    if not checkpoint.exact:
        raise ConfigError(f"--with_sums is for --readout ridge; this model has --readout {checkpoint.model.readout}")
    if checkpoint.unknown_below:
        raise ConfigError(
            "--with_sums: the threshold of --abstain is a function of the samples, which sums do not give; export "
            "without it, and to forget, forget in the checkpoint and export again"
        )


def _bank(model: PromptedClassifier) -> dict[str, Floats]:
    """Everything that belongs to a class, under the class's number."""
    kinds = {"prompt": model.bank.prompts.detach(), **model.readout.bank_rows(model)}
    return {
        f"{kind}.{number}": rows[position].numpy().copy()
        for position, number in enumerate(model.classes.ids)
        for kind, rows in kinds.items()
    }
