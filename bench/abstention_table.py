"""How often a model with a threshold answers `unknown`, with the class there and with it removed: one JSON.

    python bench/abstention_table.py --out bench/pfm_bench/results/abstention_digits.json

The demo's recipe for the cls readout on digits, with `--abstain`; one seed.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch

from audit_settings import DIGITS, SHARED, START
from pfm.cli import pfm
from pfm.cli import run as run_command
from pfm.storage import write_json
from pfm_bench.reports.header import host_facts

SEEDS = (42,)
SHARES = (0.05,)
RECIPE = f"{DIGITS} {SHARED} {START} --epochs 60 --lr 8e-3"


def measure(share: float, seed: int, folder: Path) -> dict[str, float | None]:
    """Train and evaluate; figures in [0, 1], those of `unknown` None where there is no such answer."""
    commands = [
        ["train", *RECIPE.split(), "--abstain", str(share), "--seed", str(seed), "--save_dir", str(folder)],
        ["eval", "--ckpt", str(folder / f"digits_seed_{seed}_60.pt"), "--save_dir", str(folder), "--cpu"],
    ]
    for command in commands:
        code = run_command(pfm, command)
        if code:
            raise SystemExit(code)
    found = json.loads((folder / "digits_seed_42_evaluation.json").read_text())
    one = found["subsets"][0]
    return {
        "full_bank": found["modes"]["full_bank"],
        "forget": one["forget_mean"],
        "retain": one["retain_mean"],
        "unknown_class_present": found["unknown"] and found["unknown"]["class_present"],
        "unknown_class_removed": found["unknown"] and found["unknown"]["class_removed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    runs = {}
    for share in SHARES:
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                runs[f"abstain {share:g} seed {seed}"] = measure(share, seed, Path(folder))
    command, training = "python bench/abstention_table.py", f"pfm train {RECIPE} --abstain SHARE"
    write_json(out, {"command": command, "training": training, "host": host_facts(), "runs": runs})
    print(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
