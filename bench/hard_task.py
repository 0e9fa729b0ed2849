"""What each target does on a task that is hard: digits under so much noise that a classifier is right half the time.

    python bench/hard_task.py --out bench/pfm_bench/results/hard_task.json

Answers are accuracy with all classes, and, with one class removed, the accuracy on the others and how often the
removed class's samples are answered `unknown`. Resumable: what is in the file is not run again; `--show` prints it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from pfm.storage import write_json
from pfm_bench.reports.header import host_facts

NOISE = 80  # standard deviation, in grey levels of 256
NUM_TRAIN = 1300
RECIPE = (
    "--model_name scratch:vit_digits --weight_decay 0.1 --warmup 0.1 --optimizer adamw --schedule cosine "
    "--eval_every 0 --save_every 0 --cpu --batch_size 128 --epochs 30 --lr 5e-3 --max_grad_norm 1 "
    "--prompt_start seed"
)
PROMPT = "--readout prompt --final_norm --wrong_target"
VARIANTS = {
    "cls, uniform": "--readout cls",
    "prompt, uniform": f"{PROMPT} uniform",
    "prompt, none": f"{PROMPT} none",
    "prompt, none, weight 0.3": f"{PROMPT} none --absent_weight 0.3",
    "prompt, none, weight 0.1": f"{PROMPT} none --absent_weight 0.1",
    "prompt, others": f"{PROMPT} others",
}


def write_data(path: Path) -> None:
    """The digits, noisy, as an .npz in MedMNIST's layout."""
    pixels, target = load_digits(return_X_y=True)
    clean, labels = np.asarray(pixels).reshape(-1, 8, 8), np.asarray(target)[:, None]
    noise = np.random.default_rng(0).normal(0, NOISE, clean.shape)
    images = np.clip(clean * 8 + 64 + noise, 0, 255).astype(np.uint8)
    train, test = slice(0, NUM_TRAIN), slice(NUM_TRAIN, None)
    np.savez(
        path, train_images=images[train], train_labels=labels[train], val_images=images[test][:50],
        val_labels=labels[test][:50], test_images=images[test], test_labels=labels[test],
    )  # fmt: skip


def run(options: str, npz: Path, folder: Path) -> dict[str, Any]:
    """Train and evaluate; shares in [0, 1]."""

    def pfm(*arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("pfm")), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    given = ["--dataset", str(npz), *RECIPE.split(), *options.split()]
    pfm("train", *given, "--save_dir", str(folder))
    (checkpoint,) = folder.glob("*.pt")
    pfm("eval", "--ckpt", str(checkpoint), "--save_dir", str(folder), "--cpu")
    (evaluation,) = (json.loads(path.read_text()) for path in folder.glob("*_evaluation.json"))
    less = evaluation["subsets"][0]
    return {
        "command": " ".join(["pfm train --dataset hard.npz", RECIPE, options]),
        "full_bank": evaluation["modes"]["full_bank"],
        "retain_k1": less["retain_mean"],
        "unknown": evaluation.get("unknown"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    runs: dict[str, Any] = json.loads(options.out.read_text())["runs"] if options.out.exists() else {}
    if options.show:
        for name, entry in runs.items():
            unknown = entry["unknown"] or {}
            print(f"| `{name}` | {100 * entry['full_bank']:.1f} | {100 * entry['retain_k1']:.1f} | {unknown} |")
        return
    with tempfile.TemporaryDirectory() as folder:
        npz = Path(folder) / "hard.npz"
        write_data(npz)
        for number, (name, given) in enumerate(VARIANTS.items()):
            if name not in runs:
                runs[name] = run(given, npz, Path(folder) / str(number))
                write_json(options.out, {"host": host_facts(), "noise": NOISE, "runs": runs})


if __name__ == "__main__":
    main()
