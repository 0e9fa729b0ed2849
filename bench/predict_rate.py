"""How fast `pfm predict` is beside the session that it uses, and how much memory it takes.

    python bench/predict_rate.py --files 10000 --out bench/pfm_bench/results/predict_rate.json

writes JPEGs and a bundle of random weights to a temporary folder. Rate: portions of the files, in turn through
`PromptSession.predict_images` in batches of 32 and through what the command runs, rows written, in one process; the
ratio is paired by portion. Memory: the whole command in a process of its own, on a tenth of the files and on all.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pfm.storage import write_json
from pfm_bench.measuring.stats import paired_ratio
from pfm_bench.reports.header import host_facts
from pfm_bench.targets.random_bundle import random_checkpoint, write_random_bundle
from pfm_export.predicting.pipeline import FileAnswer, predict_files
from pfm_export.predicting.rows import open_rows
from pfm_export.serving.answers import ActiveSet
from pfm_export.serving.session import PromptSession

SHAPE = "scratch:vit_mini"
SIDE, BATCH, PORTIONS = 160, 32, 10
# the command, and then the most memory that its process held
COMMAND = """
import sys
from pfm.cli import pfm, run
code = run(pfm, sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024, file=sys.stderr)
sys.exit(code)
"""


def write_photos(folder: Path, count: int) -> list[str]:
    """JPEGs with as much detail as a photograph has, a hundred in a folder."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(20):
        rough = random.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(rough).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
        pictures.append((smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))
    paths = []
    for number in range(count):
        path = folder / f"{number // 100:04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(pictures[number % len(pictures)], number % SIDE, axis=1)).save(path, quality=90)
        paths.append(str(path))
    return paths


def through_session(session: PromptSession, paths: list[str]) -> float:
    """Seconds."""
    started = time.perf_counter()
    for first in range(0, len(paths), BATCH):
        session.predict_images(paths[first : first + BATCH])
    return time.perf_counter() - started


def through_command(session: PromptSession, paths: list[str]) -> float:
    """Seconds."""
    started = time.perf_counter()
    rows = open_rows("csv", io.StringIO(), session.active())
    workers = os.cpu_count() or 1
    for answer in predict_files(session, paths, ActiveSet(), batch_size=BATCH, num_workers=workers):
        assert isinstance(answer, FileAnswer)
        rows.write(answer)
    return time.perf_counter() - started


def peak_mib(bundle: Path, paths: list[str], folder: Path) -> float:
    """Most memory of `pfm predict` on a list of files."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "predict", str(bundle), "-", "--out", str(folder / "answers.csv")],
        input="\n".join(paths), stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(done.stderr.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_photos(folder / "photos", arguments.files)
        write_random_bundle(random_checkpoint(SHAPE, num_classes=10, readout="cls"), folder / "bundle")
        session = PromptSession(folder / "bundle", device="cpu", warm_up=[BATCH])
        through_command(session, paths[: 4 * BATCH])
        size = -(-len(paths) // PORTIONS)
        times: dict[str, list[float]] = {"session": [], "predict": []}
        for number, first in enumerate(range(0, len(paths), size)):
            portion = paths[first : first + size]
            turns = [("session", through_session), ("predict", through_command)]
            for name, run in turns if number % 2 else turns[::-1]:
                times[name].append(run(session, portion))
        ratio = paired_ratio(times["predict"], times["session"])
        rates = {name: len(paths) / sum(values) for name, values in times.items()}
        peaks = {
            str(count): peak_mib(folder / "bundle", paths[:count], folder) for count in (len(paths) // 10, len(paths))
        }
    print(f"time of pfm predict over the session's: {ratio.describe()}; files a second {rates}; peak MiB {peaks}")
    write_json(
        arguments.out,
        {
            "command": f"python bench/predict_rate.py --files {arguments.files} --out {arguments.out}",
            "host": host_facts(),
            "note": "the cores were shared with other programs: times are upper bounds, the ratio is paired by portion",
            "model": SHAPE,
            "files": f"{arguments.files} JPEGs of {SIDE} x {SIDE}",
            "time_to_session": ratio.to_dict(),
            "files_per_s": rates,
            "peak_mib_by_files": peaks,
            "portion_s": times,
        },
    )


if __name__ == "__main__":
    main()
