"""`pfm bench` and its commands."""

import click

from pfm.commands.options import CONTEXT_SETTINGS
from pfm_bench.commands.compare import bench_compare
from pfm_bench.commands.end_to_end import bench_end_to_end
from pfm_bench.commands.evaluate import bench_eval
from pfm_bench.commands.forget import bench_forget
from pfm_bench.commands.load import bench_load
from pfm_bench.commands.serve import bench_serve
from pfm_bench.commands.train import bench_train


class _DefaultGroup(click.Group):
    """`pfm bench --bundle …` is `pfm bench serve --bundle …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [str(bench_serve.name), *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=_DefaultGroup, context_settings=CONTEXT_SETTINGS)
def bench() -> None:
    """Measure: a bundle's latency (serve, the default), the training step, evaluation, erasure, from a file
    to its label (end_to_end), a server under load; compare two."""


for command in (bench_train, bench_eval, bench_forget, bench_serve, bench_end_to_end, bench_load, bench_compare):
    bench.add_command(command)
