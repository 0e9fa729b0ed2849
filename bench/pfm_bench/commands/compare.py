"""`pfm bench compare`."""

from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH
from pfm.storage import check_file, write_json


@click.command("compare", context_settings=CONTEXT_SETTINGS)
@click.argument("before", metavar="A.json", type=PATH)
@click.argument("after", metavar="B.json", type=PATH)
@click.option("--out", default=None, type=PATH, help="Write the comparison there too, as JSON.")
def bench_compare(before: Path, after: Path, out: Path | None) -> None:
    """Times of B over those of A, with 95 % intervals, for every case that both measured."""
    from pfm_bench.reports.compare import compare, describe_comparison, read_document

    if out is not None:
        check_file(out)
    comparison = compare(read_document(before), read_document(after))
    click.echo(describe_comparison(comparison))
    if out is not None:
        write_json(out, comparison.to_dict())
        click.echo(f"wrote {out}")
