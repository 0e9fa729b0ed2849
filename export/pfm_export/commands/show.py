"""`pfm show`: what a checkpoint, bundle, ledger or run folder is."""

import json
from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH


@click.command("show", context_settings=CONTEXT_SETTINGS)
@click.argument("artifact", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table, with everything in it.")
def show(artifact: Path, as_json: bool) -> None:
    """Say what a checkpoint, a bundle, a ledger or a folder of them is.

    Classes with their positions, those erased, readout, recipe, data set, sizes, hashes, versions, lines
    of the ledger, and profiles of suspended classes; of a folder, everything in it that an erasure would
    look at. A class keeps its position when others are erased. Changes nothing.
    """
    from pfm.storage import finite
    from pfm_export.showing import describe
    from pfm_export.showing_text import as_text

    document = describe(artifact)
    if as_json:
        click.echo(json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(as_text(document))
