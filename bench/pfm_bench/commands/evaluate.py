"""`pfm bench eval`."""

from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, with_options
from pfm.storage import check_folder, make_folder, write_json
from pfm_bench.commands.out import out_option
from pfm_bench.targets.config import EvalBenchConfig


@click.command("eval", context_settings=CONTEXT_SETTINGS)
@with_options(config=EvalBenchConfig)
@out_option("eval.json and eval.png")
def bench_eval(config: EvalBenchConfig, out: Path) -> None:
    """Our evaluation beside a plain one in the paper's manner, interleaved in one run.

    What is evaluated: infer_best, and forgetting k = 1, C/2 and C-1 classes. Plain: one active set at a
    time, each a pass through the whole model, float32. Weights and images are random.
    """
    from pfm_bench.reports.variants import draw_variants, variants_table
    from pfm_bench.scenarios.evaluating import bench_evaluation
    from pfm_bench.targets.workbench import set_up

    check_folder(out)
    bench = set_up(config, config.num_images)
    folder = make_folder(out)
    report = bench_evaluation(bench, max_subsets=config.max_subsets)
    differing = f"{report.answers.differing} of {report.answers.compared:,} answers differ"
    click.echo(f"{variants_table(report.runs)}\n\nours against plain, the same weights: {differing}")
    write_json(folder / "eval.json", report.to_dict())
    draw_variants(report.runs, folder / "eval.png", title=f"evaluation, {report.runs.title}")
    click.echo(f"wrote {folder / 'eval.json'}\nwrote {folder / 'eval.png'}")
