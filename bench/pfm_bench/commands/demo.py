"""`pfm demo`: train, forget, export, serve and measure on real data, both readouts side by side."""

import shutil
import time
from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH, SEED
from pfm.errors import StorageError
from pfm.storage import check_folder, make_folder, write_json, write_text
from pfm_bench.demo.side_by_side import READOUTS, readout_folder, tell_both

REPORT = "report.md"


@click.command("demo", context_settings=CONTEXT_SETTINGS)
@click.option("--out", default="pfm-demo", type=PATH, help="Folder for everything that is made.")
@click.option("--seed", default=42, type=SEED, help="Seed of the whole run.")
@click.option("--data_type", default="image", type=click.Choice(["image", "audio"]), help="Kind of input.")
@click.option(
    "--dataset", default="", show_default=False, help="For audio: audiofolder:PATH.  [default: digits, for images]"
)
@click.option("--label_from", default="", show_default=False, help="For audio: name:PATTERN, see pfm train.")
@click.option("--label", default="", show_default=False, help="Field of --label_from that is the label.")
@click.option(
    "--forget",
    default="",
    show_default=False,
    help="The class that goes.  [default: 3 of the digits, else the last class]",
)
def demo(out: Path, seed: int, data_type: str, dataset: str, label_from: str, label: str, forget: str) -> None:
    """The whole story on 1,797 real images of handwritten digits, in two minutes on two CPU cores.

    With --data_type audio the same on a folder of sounds that you have.

    Trains two small models from scratch (the paper's readout and ours) and solves a third, exact one; forgets a
    class, exports to ONNX, serves with and without the class, erases it for good and measures latency.
    """
    from pfm_bench.demo.tasks import choose_task

    started = time.monotonic()
    check_folder(out)
    task = choose_task(data_type, dataset, label_from, label, forget)
    folder = _clear_folder(out)
    click.echo(f"three readouts side by side, a process each; everything goes to {folder}/")
    results = tell_both(task, folder, seed)

    from pfm_bench.demo.report import Summary, draw_pictures
    from pfm_bench.reports.header import host_facts
    from pfm_bench.reports.serving_pictures import draw
    from pfm_bench.reports.serving_tables import table
    from pfm_bench.scenarios.serving import bench_bundle
    from pfm_bench.scenarios.serving_config import ServeBenchConfig

    click.echo("▸ latency: torch beside ONNX Runtime, interleaved")
    before = time.monotonic()
    cls = results["cls"]
    config = ServeBenchConfig(batch_sizes="1,8,32", rounds=30, seconds=5, device="cpu")
    latency = bench_bundle([cls.bundle], cls.checkpoint, config, workplace=folder)
    click.echo(table(latency))
    write_json(folder / "latency.json", latency.to_dict())
    draw(latency, folder / "latency.png")
    draw_pictures(folder, task, results)
    summary = Summary(
        task=task,
        seed=seed,
        seconds=round(time.monotonic() - started, 1),
        latency_s=round(time.monotonic() - before, 1),
        host=host_facts(),
        results=results,
    )
    write_json(folder / "demo.json", summary.to_dict())
    write_text(folder / REPORT, summary.report(table(latency)))
    click.echo(f"\n{summary.table()}\n\n{summary.next_steps()}")
    click.echo(f"\nThe report, with pictures: {folder / REPORT}   ({summary.seconds:.0f} s in all)")


def _clear_folder(out: Path) -> Path:
    """An empty folder; what an earlier demo left in it goes.

    Raises:
        StorageError: it holds something else.
    """
    parts = [readout_folder(out, name) for name in READOUTS]
    if out.exists():
        known = {*(part.name for part in parts), REPORT, "demo.json", "latency.json", "latency.png"}
        known |= {"forgetting.png", "answers.png"}
        strange = sorted(path.name for path in out.iterdir() if path.name not in known) if out.is_dir() else [out.name]
        if strange:
            raise StorageError(f"{out} holds {strange[0]!r}, which no demo made; choose another folder with --out")
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    return make_folder(out)
