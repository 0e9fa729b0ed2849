"""Options in, one call, text out: `pfm export onnx`, `pfm export erase`."""

from pathlib import Path

import click

from pfm.classes import split_names
from pfm.options import CONTEXT_SETTINGS


@click.group("export", context_settings=CONTEXT_SETTINGS)
def export() -> None:
    """Export to ONNX, and look after what was exported."""


@export.command("onnx")
@click.option(
    "--ckpt", required=True, type=click.Path(path_type=Path), help="Checkpoint of pfm or of the paper's tool."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the bundle.")
@click.option("--model_name", default=None, help="Where the frozen backbone lies, if not where it was in training.")
@click.option("--overwrite", is_flag=True, help="Replace what stands at --out.")
def onnx(ckpt: Path, out: Path, model_name: str | None, overwrite: bool) -> None:
    """Write a bundle: graph, prompt bank, manifest and ledger.

    The graph takes the active prompts as input and holds nothing of any class. Its numbers are
    compared with the torch model before anything is written.
    """
    from pfm.checkpoint import load_checkpoint
    from pfm_export.graph import export_bundle

    checkpoint = load_checkpoint(ckpt, model_name=model_name)
    for note in checkpoint.notes:
        click.echo(f"note: {note}")
    report = export_bundle(checkpoint, out, overwrite=overwrite)
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(
        f"wrote {out} ({size / 2**20:.1f} MiB, {len(checkpoint.classes)} classes)\n"
        f"parity with torch over {len(report.cases)} cases: worst difference {report.worst_difference:.1e} "
        f"(largest logit {report.largest_logit:.1f})"
    )


@export.command("erase")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--classes", required=True, help="Names or numbers, separated by commas; a name wins over a number.")
@click.option("--reason", default="", help="Free text for the record.")
@click.option("--requested_by", default="", help="Free text for the record.")
def erase(bundle: Path, classes: str, reason: str, requested_by: str) -> None:
    """Remove classes from a bundle's files, for good. Needs no torch."""
    from pfm_export.bundle import REMAINS, Bundle

    opened = Bundle.open(bundle)
    left = opened.erase(split_names(classes), reason=reason, requested_by=requested_by).classes
    gone = [name for name in opened.classes.names if name not in left.names]
    click.echo(f"erased {', '.join(gone)} from {bundle}\nclasses left: {left.describe()}")
    for remark in REMAINS:
        click.echo(f"still there: {remark}")
