"""What each precision costs on real data: the MedNIST recipes of docs/results.md trained, exported and measured.

    python bench/precisions.py --mednist PATH/mednist_64.npz --out bench/pfm_bench/results/precisions_mednist.json

writes parity and sizes for each precision, and on all test images the accuracy, and forget and retain accuracy for one
class removed (mean over the classes), of the bundle in ONNX Runtime beside the model in torch, as
`pfm export onnx --precision P --test_samples 3000` writes them into the manifest.

What is in the file already is not measured again, and checkpoints are kept in `--work` (they hold the classes, so
delete the folder afterwards).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch

from pfm.cli import pfm
from pfm.cli import run as run_command
from pfm.model.checkpoint import load_checkpoint
from pfm.storage import write_json
from pfm_bench.reports.header import host_facts
from pfm_export.graph.accuracy import MOST_ACCURACY_LOST, MOST_FORGET_GAINED, find_samples
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.bundle import Bundle

SEEDS = (42, 2, 3)
READOUTS = ("cls", "prompt")
SHOWN = "PATH/mednist_64.npz"
RECIPE = (
    "--class_names AbdomenCT,BreastMRI,CXR,ChestCT,Hand,HeadCT --model_name scratch:vit_mini --epochs 5 "
    "--optimizer adamw --weight_decay 0.01 --schedule cosine --warmup 0.3 --eval_every 0 --save_every 0 --cpu "
    "--prompt_start seed"
)
PROMPT = "--readout prompt --wrong_target none --final_norm"
MEASURES = ("accuracy", "forget_k1", "retain_k1")


def train_options(readout: str, seed: int, dataset: str) -> list[str]:
    """The options of `pfm train`, as docs/results.md has them."""
    parts = [RECIPE, *([PROMPT] if readout == "prompt" else []), f"--seed {seed}"]
    return ["--dataset", dataset, *" ".join(parts).split()]


def find_checkpoint(readout: str, seed: int, mednist: str, work: Path) -> Path:
    """The run's last checkpoint; trains where there is none."""
    folder = work / f"mednist_{readout}_seed{seed}"
    if not list(folder.glob("*.pt")):
        code = run_command(pfm, ["train", *train_options(readout, seed, mednist), "--save_dir", str(folder)])
        if code:
            raise SystemExit(code)
    (path,) = folder.glob("*.pt")
    return path


def measure(path: Path) -> dict[str, Any]:
    """By precision: accuracies on every test image, parity, bytes."""
    checkpoint = load_checkpoint(path)
    samples = find_samples(checkpoint, max_samples=sys.maxsize)
    found = {}
    for precision in PRECISIONS.names():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "bundle"
            report = export_bundle(checkpoint, folder, form=GraphForm(precision=precision), samples=samples).parity
            bundle = Bundle.open(folder)
            files = {name: entry["size_bytes"] for name, entry in bundle.manifest["files"].items()}
            found[precision] = {
                "accuracy": bundle.manifest["accuracy"],
                "parity": {"worst_difference": report.worst_difference, "largest_logit": report.largest_logit},
                "graph_bytes": sum(size for name, size in files.items() if name.endswith(".onnx")),
                "bundle_bytes": sum(file.stat().st_size for file in folder.iterdir()),
            }
    return found


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Mean over seeds, the range in brackets; then what was asked of int8, in points."""
    lines = ["| readout, precision | accuracy % | forget % | retain % | worst logit difference | graph |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for readout in READOUTS:
        chosen = [run["precisions"] for run in runs.values() if run["readout"] == readout]
        for precision in PRECISIONS.names() if chosen else ():
            entries = [run[precision] for run in chosen]
            cells = [_mean(entries, lambda entry, m=m: 100 * entry["accuracy"]["bundle"][m], 2) for m in MEASURES]
            worst = max(entry["accuracy"]["worst_difference"] for entry in entries)
            size = f"{entries[0]['graph_bytes'] / 1e6:.2f} MB"
            lines.append(f"| {readout}, {precision} | {' | '.join(cells)} | {worst:.1e} | {size} |")
    lines.append("")
    for name, run in runs.items():
        for precision in PRECISIONS.names()[1:]:
            pair = run["precisions"][precision]["accuracy"]
            lost, gained = (
                100 * sign * (pair["fp32"][key] - pair["bundle"][key])
                for sign, key in ((1, "accuracy"), (-1, "forget_k1"))
            )
            kept = lost <= MOST_ACCURACY_LOST and gained <= MOST_FORGET_GAINED
            lines.append(
                f"{name} {precision}: {lost:+.2f} points of accuracy lost, {gained:+.2f} of forget accuracy gained"
                f"{'' if kept else ': TOO MUCH'}"
            )
    return "\n".join(lines)


def _mean(entries: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], digits: int) -> str:
    values = [value(entry) for entry in entries]
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mednist", default="", help="the data, in MedMNIST's file layout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("precisions"), help="folder of the checkpoints")
    parser.add_argument("--print", action="store_true", dest="is_printed", help="run nothing, print what is there")
    arguments = parser.parse_args()
    if not arguments.is_printed and not Path(arguments.mednist).is_file():
        raise SystemExit(f"give --mednist {SHOWN}")
    torch.set_num_threads(1)
    runs = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else {}
    for seed in SEEDS if not arguments.is_printed else ():
        for readout in READOUTS:
            name = f"{readout}_seed{seed}"
            if name in runs:
                continue
            started = time.monotonic()
            path = find_checkpoint(readout, seed, arguments.mednist, arguments.work)
            runs[name] = {"readout": readout, "seed": seed, "precisions": measure(path)}
            document = {
                "command": f"python bench/precisions.py --mednist {SHOWN} --out {arguments.out}",
                "training": {r: "pfm train " + " ".join(train_options(r, SEEDS[0], SHOWN)) for r in READOUTS},
                "host": host_facts(),
                "note": "accuracies in [0, 1], on all test images; `fp32` is the model in torch, `bundle` the graph in "
                "ONNX Runtime on the CPU. The cores were shared with other programs, which changes no figure here.",
                "runs": runs,
            }
            write_json(arguments.out, document)
            print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
