"""Options in, one call, text out: `pfm export onnx`, `pfm export check`, `pfm export triton`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH, was_given, with_options
from pfm.errors import ConfigError, DataError
from pfm.options import option
from pfm.storage import check_folder
from pfm_export.graph.form import GraphForm
from pfm_export.graph.triton import TritonConfig

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint
    from pfm_export.graph.accuracy import AccuracyReport, TestSamples


@click.group("export", context_settings=CONTEXT_SETTINGS)
def export() -> None:
    """Export to ONNX, and look after what was exported."""


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What accuracy and forgetting are measured on."""

    dataset: str | None = option(None, "Measure accuracy and forgetting on this one.  [default: the run's own]")
    data_dir: str | None = option(None, "Folder of MedMNIST's .npz files.")
    test_samples: int = option(
        1000,
        "Test samples that a precision other than fp32 is measured on; 0 for none. fp32, which has the model's own "
        "numbers, is measured where --dataset is given.",
        minimum=0,
    )


@export.command("onnx")
@click.option("--ckpt", required=True, type=PATH, help="Checkpoint of pfm or of the paper's tool.")
@click.option("--out", required=True, type=PATH, help="Folder of the bundle.")
@click.option("--model_name", default=None, help="Where the frozen backbone is, if not where it was in training.")
@click.option("--overwrite", is_flag=True, help="Replace what stands at --out, and in --triton.")
@click.option(
    "--triton",
    default=None,
    type=PATH,
    help="Write it into this Triton model repository too; `pfm export triton` has the settings.",
)
@click.option(
    "--with_sums",
    is_flag=True,
    help="Put in what --readout ridge is solved from, one file a class, so that the bundle forgets exactly. "
    "Personal data.",
)
@with_options(form=GraphForm, measure=MeasureConfig)
def onnx(
    ckpt: Path,
    out: Path,
    model_name: str | None,
    overwrite: bool,
    triton: Path | None,
    with_sums: bool,
    form: GraphForm,
    measure: MeasureConfig,
) -> None:
    """Write a bundle: graph, prompt bank, manifest and ledger.

    The graph takes the active prompts as input and holds nothing of any class. Its numbers are
    compared with the torch model before anything is written.
    """
    from pfm.model.checkpoint import load_checkpoint
    from pfm_export.graph.export import check_export, export_bundle
    from pfm_export.graph.triton import model_folders, write_repository
    from pfm_export.serving.bundle import Bundle

    checkpoint = load_checkpoint(ckpt, model_name=model_name)
    check_export(checkpoint, out, form=form, overwrite=overwrite, with_sums=with_sums)  # before any long work
    if triton is not None:
        check_folder(triton)
        model_folders(triton, out.resolve().name, is_split=form.split, overwrite=overwrite)
    for note in checkpoint.notes:
        click.echo(f"note: {note}")
    samples = _samples(checkpoint, form, measure)
    report = export_bundle(checkpoint, out, overwrite=overwrite, form=form, with_sums=with_sums, samples=samples)
    size = sum(file.stat().st_size for file in out.iterdir())
    parity = report.parity
    click.echo(
        f"wrote {out} ({size / 2**20:.1f} MiB, {len(checkpoint.classes)} classes)\n"
        f"parity with torch over {len(parity.cases)} cases: worst difference {parity.worst_difference:.1e} "
        f"(largest logit {parity.largest_logit:.1f})" + (f"; {parity.integers.describe()}" if parity.integers else "")
    )
    if report.accuracy is not None:
        _show_accuracy(report.accuracy, form)
    if triton is not None:
        for path in write_repository(Bundle.open(out), triton, overwrite=overwrite):
            click.echo(f"wrote {path}")


def _samples(checkpoint: "Checkpoint", form: GraphForm, measure: MeasureConfig) -> "TestSamples | None":
    """Test samples, where any are asked for and can be found."""
    from pfm_export.graph.accuracy import find_samples
    from pfm_export.graph.front_ends import FRONT_ENDS

    kind = form.input_kind(checkpoint.preprocess.kind)
    if not FRONT_ENDS.get(kind.name).measures_accuracy:
        if measure.dataset is None:
            return None
        raise ConfigError(
            "--dataset asks for accuracy, which is measured on the data as it is stored, and a graph with the input "
            f"{kind.name} takes something else; measure an export without it, whose weights are the same"
        )
    if measure.dataset is None and form.precision == "fp32":
        given = [f"--{name}" for name in ("data_dir", "test_samples") if was_given(name)]
        if given and (measure.test_samples or measure.data_dir):
            raise ConfigError(
                f"{', '.join(given)}: fp32 is measured where --dataset is given; give that, or leave it out"
            )
        return None
    if not measure.test_samples:
        given = [f"--{name}" for name in ("dataset", "data_dir") if was_given(name)]
        if given:
            raise ConfigError(f"{', '.join(given)} is to measure on, and --test_samples 0 measures nothing; give one")
        return None
    try:
        return find_samples(
            checkpoint, dataset=measure.dataset, data_dir=measure.data_dir, max_samples=measure.test_samples
        )
    except DataError as error:
        if measure.dataset is not None:
            raise
        click.echo(f"note: accuracy is not measured: {error}")
        return None


def _show_accuracy(report: "AccuracyReport", form: GraphForm) -> None:
    click.echo(f"on {report.num_samples} test samples   accuracy  forget k=1  retain k=1  (%)")
    for label, found in (("torch fp32", report.fp32), (f"bundle {form.precision}", report.bundle)):
        shares = (found.accuracy, found.forget_k1, found.retain_k1)
        click.echo("  {:<22}{:>8.1f}{:>12.1f}{:>12.1f}".format(label, *(100 * share for share in shares)))
    for warning in report.warnings:
        click.echo(f"warning: {warning}")


@export.command("check")
@click.argument("bundle", type=PATH)
@click.option("--ckpt", required=True, type=PATH, help="Checkpoint the bundle was exported from.")
@click.option("--model_name", default=None, help="Where the frozen backbone is, if not where it was in training.")
def check(bundle: Path, ckpt: Path, model_name: str | None) -> None:
    """Compare a bundle's graph with the checkpoint's model.

    Names, shapes and values, for batches of 1, 3 and 8 with no, one, some and all of the bundle's
    classes active, in shuffled order. Leaves with exit code 2 if the bundle fails.
    """
    from pfm.model.checkpoint import load_checkpoint
    from pfm_export.graph.parity import measure_parity
    from pfm_export.serving.bundle import Bundle

    Bundle.open(bundle)  # before a backbone is loaded
    checkpoint = load_checkpoint(ckpt, model_name=model_name)
    for note in checkpoint.notes:
        click.echo(f"note: {note}")
    report = measure_parity(checkpoint.build_model(), bundle)
    click.echo(f"worst difference from torch\n{report.describe()}")
    report.require()
    click.echo(
        f"{bundle} is right: worst of {len(report.cases)} cases {report.worst_difference:.1e}, allowed "
        f"{report.tolerance:.1e} (largest logit {report.largest_logit:.1f})"
    )


@export.command("triton")
@click.argument("bundle", type=PATH)
@click.argument("repository", type=PATH)
@click.option("--name", default=None, help="Name of the model.  [default: the bundle folder's]")
@click.option("--overwrite", is_flag=True, help="Replace a model of that name.")
@with_options(config=TritonConfig)
def triton_repository(bundle: Path, repository: Path, name: str | None, overwrite: bool, config: TritonConfig) -> None:
    """Write a bundle into a Triton model repository. Needs no torch.

    Prompts are inputs there as well: the repository holds nothing of any class. Triton batches requests
    where every input has a batch axis: bundles with --per_request_prompts and --readout prompt, and trunks.
    """
    from pfm_export.graph.triton import write_repository
    from pfm_export.serving.bundle import Bundle

    for path in write_repository(Bundle.open(bundle), repository, config, name=name, overwrite=overwrite):
        click.echo(f"wrote {path}")
