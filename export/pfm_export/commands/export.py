"""Options in, one call, text out: `pfm export onnx`, `pfm export check`, `pfm export triton`, `pfm export erase`."""

from pathlib import Path

import click

from pfm.classes import split_names
from pfm.commands.options import CONTEXT_SETTINGS, with_options
from pfm.errors import ConfigError, DataError
from pfm_export.graph.triton import TritonConfig
from pfm_export.serving.form import GraphForm


@click.group("export", context_settings=CONTEXT_SETTINGS)
def export() -> None:
    """Export to ONNX, and look after what was exported."""


@export.command("onnx")
@click.option(
    "--ckpt", required=True, type=click.Path(path_type=Path), help="Checkpoint of pfm or of the paper's tool."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the bundle.")
@click.option("--model_name", default=None, help="Where the frozen backbone lies, if not where it was in training.")
@click.option("--overwrite", is_flag=True, help="Replace what stands at --out, and in --triton.")
@click.option(
    "--triton",
    default=None,
    type=click.Path(path_type=Path),
    help="Write it into this Triton model repository too; `pfm export triton` has the settings.",
)
@with_options(form=GraphForm)
@click.option("--dataset", default=None, help="Measure accuracy and forgetting on this one.  [default: the run's own]")
@click.option("--data_dir", default=None, help="Folder of MedMNIST's .npz files.")
@click.option(
    "--test_samples",
    default=1000,
    type=click.IntRange(min=0),
    help="Test samples that a precision other than fp32 is measured on; 0 for none. fp32, which has the model's own "
    "numbers, is measured where --dataset is given.",
)
def onnx(
    ckpt: Path,
    out: Path,
    model_name: str | None,
    overwrite: bool,
    triton: Path | None,
    form: GraphForm,
    dataset: str | None,
    data_dir: str | None,
    test_samples: int,
) -> None:
    """Write a bundle: graph, prompt bank, manifest and ledger.

    The graph takes the active prompts as input and holds nothing of any class. Its numbers are
    compared with the torch model before anything is written.
    """
    from pfm.model.checkpoint import load_checkpoint
    from pfm_export.graph.accuracy import find_samples
    from pfm_export.graph.export import export_bundle
    from pfm_export.graph.triton import model_folders, write_repository
    from pfm_export.serving.bundle import Bundle

    checkpoint = load_checkpoint(ckpt, model_name=model_name)
    if triton is not None:  # before any long work
        model_folders(triton, out.resolve().name, form, overwrite=overwrite)
    for note in checkpoint.notes:
        click.echo(f"note: {note}")
    samples = None
    if form.with_frontend and dataset is not None:
        raise ConfigError(
            "--dataset asks for accuracy, which is measured on features, and a graph --with_frontend takes samples; "
            "measure an export without it, whose weights are the same"
        )
    if test_samples and not form.with_frontend and (form.precision != "fp32" or dataset is not None):
        try:
            samples = find_samples(checkpoint, dataset=dataset, data_dir=data_dir, max_samples=test_samples)
        except DataError as error:
            if dataset is not None:
                raise
            click.echo(f"note: accuracy is not measured: {error}")
    report = export_bundle(checkpoint, out, overwrite=overwrite, form=form, samples=samples)
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(
        f"wrote {out} ({size / 2**20:.1f} MiB, {len(checkpoint.classes)} classes)\n"
        f"parity with torch over {len(report.cases)} cases: worst difference {report.worst_difference:.1e} "
        f"(largest logit {report.largest_logit:.1f})"
    )
    if samples is not None:
        measured = Bundle.open(out).manifest["accuracy"]
        click.echo(f"on {measured['num_samples']} test samples   accuracy  forget k=1  retain k=1  (%)")
        for name, label in (("fp32", "torch fp32"), ("bundle", f"bundle {form.precision}")):
            row = [f"{100 * measured[name][key]:.1f}" for key in ("accuracy", "forget_k1", "retain_k1")]
            click.echo(f"  {label:<22}{row[0]:>8}{row[1]:>12}{row[2]:>12}")
        for warning in measured["warnings"]:
            click.echo(f"warning: {warning}")
    if triton is not None:
        for path in write_repository(Bundle.open(out), triton, overwrite=overwrite):
            click.echo(f"wrote {path}")


@export.command("check")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--ckpt", required=True, type=click.Path(path_type=Path), help="Checkpoint the bundle was exported from.")
@click.option("--model_name", default=None, help="Where the frozen backbone lies, if not where it was in training.")
def check(bundle: Path, ckpt: Path, model_name: str | None) -> None:
    """Compare a bundle's graph with the checkpoint's model.

    Names, shapes and values, for batches of 1, 3 and 8 with no, one, some and all of the bundle's
    classes active, in shuffled order. Leaves with exit code 2 if the bundle fails.
    """
    from pfm.model.checkpoint import load_checkpoint
    from pfm_export.graph.parity import measure_parity

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
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Name of the model.  [default: the bundle folder's]")
@click.option("--overwrite", is_flag=True, help="Replace a model of that name.")
@with_options(config=TritonConfig)
def triton_repository(bundle: Path, repository: Path, name: str, overwrite: bool, config: TritonConfig) -> None:
    """Write a bundle into a Triton model repository. Needs no torch.

    Prompts are inputs there as well: the repository holds nothing of any class. Triton batches requests
    where every input has a batch axis: bundles with --per_request_prompts and --readout prompt, and trunks.
    """
    from pfm_export.graph.triton import write_repository
    from pfm_export.serving.bundle import Bundle

    for path in write_repository(Bundle.open(bundle), repository, config, name=name, overwrite=overwrite):
        click.echo(f"wrote {path}")


@export.command("erase")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--classes", required=True, help="Names or numbers, separated by commas; a name wins over a number.")
@click.option("--reason", default="", help="Free text for the record.")
@click.option("--requested_by", default="", help="Free text for the record.")
def erase(bundle: Path, classes: str, reason: str, requested_by: str) -> None:
    """Remove classes from a bundle's files, for good. Needs no torch."""
    from pfm_export.serving.bundle import REMAINS, Bundle

    opened = Bundle.open(bundle)
    left = opened.erase(split_names(classes), reason=reason, requested_by=requested_by).classes
    gone = [name for name in opened.classes.names if name not in left.names]
    click.echo(f"erased {', '.join(gone)} from {bundle}\nclasses left: {left.describe()}")
    for remark in REMAINS:
        click.echo(f"still there: {remark}")
