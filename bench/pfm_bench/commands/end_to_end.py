"""`pfm bench end_to_end`."""

import tempfile
from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, with_options
from pfm.storage import make_folder, write_json
from pfm_bench.commands.out import out_option
from pfm_bench.scenarios.end_to_end_plan import EndToEndPlan


@click.command("end_to_end", context_settings=CONTEXT_SETTINGS)
@with_options(plan=EndToEndPlan)
@out_option("end_to_end.json")
def bench_end_to_end(plan: EndToEndPlan, out: Path) -> None:
    """From a file to its label: decoding and resizing in the session, by threads ahead, in the graph, over HTTP."""
    import sys

    from pfm_bench.reports.header import FORMAT, host_facts
    from pfm_bench.scenarios.end_to_end import run

    folder = make_folder(out)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".random.") as temporary:
        found = run(plan, Path(temporary), click.echo)
    document = {"format": FORMAT, "command": "pfm " + " ".join(sys.argv[1:]), "host": host_facts(), **found}
    write_json(folder / "end_to_end.json", document)
    click.echo(f"wrote {folder / 'end_to_end.json'}")
