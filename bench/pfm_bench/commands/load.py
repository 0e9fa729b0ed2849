"""`pfm bench load`."""

from dataclasses import asdict
from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, with_options
from pfm.storage import make_folder, write_json
from pfm_bench.commands.out import out_option
from pfm_bench.scenarios.load_plan import LoadPlan


@click.command("load", context_settings=CONTEXT_SETTINGS)
@click.option("--model", required=True, help="Which of the server's models.")
@click.option("--token", "tokens", multiple=True, help="Of a tenant; as often as there are tenants.")
@with_options(plan=LoadPlan)
@out_option("load.json")
def bench_load(model: str, tokens: tuple[str, ...], plan: LoadPlan, out: Path) -> None:
    """Latency of a running server against its load, errors and wrong answers.

    One request after another, then --clients at a time, then arrivals at random: first at the rates that find the
    highest one which is carried (the capacity), then at shares of that.
    """
    from pfm_bench.reports.header import FORMAT, host_facts
    from pfm_bench.scenarios.load import Load
    from pfm_bench.scenarios.load_client import run_precisely
    from pfm_bench.scenarios.load_reference import SessionAnswers

    folder = make_folder(out)
    expected = None if plan.bundle is None else SessionAnswers(plan.bundle)
    phases = run_precisely(Load(plan, model, tokens, click.echo, expected).run())
    document = {
        "format": FORMAT,
        "command": "pfm bench load",
        "host": host_facts(),
        "settings": {
            **asdict(plan),
            "bundle": plan.bundle and str(plan.bundle),
            "model": model,
            "tenants": len(tokens),
        },
        "phases": [phase.to_dict() for phase in phases],
    }
    write_json(folder / "load.json", document)
    click.echo(f"wrote {folder / 'load.json'}")
