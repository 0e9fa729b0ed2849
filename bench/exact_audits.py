"""Audits of `--readout ridge`, one class removed: every level, *exact* by a fit in a fresh process from source files.

    python bench/exact_audits.py --mednist PATH/mednist_64.npz --fsdd PATH/fsdd \\
        --out bench/pfm_bench/results/exact_audits.json

The widths and penalties are those that `bench/ridge_table.py` chose on held-out data. What the file has already is not
audited again.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm.storage import write_json
from pfm_bench.reports.header import host_facts

ROOT = Path(__file__).parent.parent
PFM = (sys.executable, "-c", "import sys; from pfm.cli import main; sys.argv[0] = 'pfm'; main()")
NAMES = "AbdomenCT,BreastMRI,CXR,ChestCT,Hand,HeadCT"
SPEAKER = "--label_from name:{digit}_{speaker}_{n} --label speaker"
KEPT = ("forget_accuracy", "retain_test_accuracy")  # of a model's utility
COMMAND = "python bench/exact_audits.py --mednist PATH/mednist_64.npz --fsdd PATH/fsdd --out exact_audits.json"


@dataclass(frozen=True)
class Case:
    """A data set, and the class that goes.

    Attributes:
        place: of the data: "" where it comes with scikit-learn, else the option that names it.
    """

    name: str
    place: str
    options: str
    forgotten: str

    def data(self, places: dict[str, str]) -> list[str]:
        """The data as `pfm train` is given it."""
        prefix = "audiofolder:" if self.place == "fsdd" else ""
        dataset = prefix + places[self.place] if self.place else "digits"
        return ["--dataset", dataset, *self.options.split()]


CASES = (
    Case("digits", "", "--width 1024 --alpha 1e-5", "3"),
    Case("mednist", "mednist", f"--class_names {NAMES} --width 1024 --alpha 1e-6", "CXR"),
    Case("fsdd", "fsdd", "--width 2048 --alpha 1e-6", "7"),
    Case("fsdd_speaker", "fsdd", f"{SPEAKER} --width 2048 --alpha 1e-6", "theo"),
)


def audit(case: Case, places: dict[str, str]) -> dict[str, Any]:
    """Fit and audit, as a user would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as temporary:
        fit = [
            "train", *case.data(places), "--readout", "ridge", "--features", "raw", "--eval_every", "0", "--cpu",
            "--save_dir", temporary,
        ]  # fmt: skip
        subprocess.run([*PFM, *fit], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        (checkpoint,) = Path(temporary).glob("*.pt")
        asked = ["audit", "--quick", "--cpu", "--ckpt", str(checkpoint), "--class", case.forgotten, "--out", temporary]
        started = time.monotonic()
        subprocess.run([*PFM, *asked], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        found = json.loads((Path(temporary) / "audit.json").read_text())
    shown = case.data({"mednist": "PATH/mednist_64.npz", "fsdd": "PATH/fsdd"})
    return {
        "commands": [
            f"pfm train {shlex.join(shown)} --readout ridge --features raw",
            f"pfm audit --ckpt {checkpoint.name} --class {case.forgotten}",
        ],
        "forgotten": case.forgotten,
        "overall": found["verdict"]["overall"],
        "levels": found["verdict"]["levels"],
        "measures": [
            {name: entry[name] for name in ("level", "measure", "value", "low", "high", "limit", "verdict")}
            for entry in found["verdict"]["measures"]
        ],
        "exact": found["exact"],
        "utility": {name: {key: own[key] for key in KEPT} for name, own in found["utility"].items()},
        "audit_s": round(seconds, 1),
    }


def main() -> None:
    """Audit what is at hand and not in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mednist", default="", help="PATH/mednist_64.npz")
    parser.add_argument("--fsdd", default="", help="PATH/fsdd")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    places = {name: str(Path(given).resolve()) for name in ("mednist", "fsdd") if (given := getattr(arguments, name))}
    runs: dict[str, Any] = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else {}
    for case in CASES:
        if case.name in runs or (case.place and case.place not in places):
            continue
        runs[case.name] = audit(case, places)
        print(case.name, runs[case.name]["levels"], flush=True)
        write_json(arguments.out, {"command": COMMAND, "host": host_facts(), "runs": runs})


if __name__ == "__main__":
    main()
