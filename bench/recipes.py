"""The recipes of docs/results.md, trained and evaluated.

    python bench/recipes.py --mednist PATH/mednist_64.npz --out bench/pfm_bench/results/recipes.json
    python bench/recipes.py --fsdd PATH/fsdd --only fsdd --out bench/pfm_bench/results/recipes_fsdd.json

write the commands of each run, its evaluation and its speed.

Prompts start from the seed, as in the paper and as was the default when the files were made.

Two runs go side by side, on one thread each; a run of two processes has the machine for itself.
`--only PART` picks the runs whose name has PART in it; their results replace those of the same name in the file.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm.storage import write_json
from pfm_bench.reports.header import host_facts

ROOT = Path(__file__).parent.parent
PROMPT = "--readout prompt --wrong_target none --final_norm"
SHARED = "--optimizer adamw --schedule cosine --eval_every 0 --save_every 0 --cpu"
START = "--prompt_start seed"
DIGITS = "--dataset digits --model_name scratch:vit_digits --weight_decay 0.1 --warmup 0.1"
DIGITS_LENGTH = {"cls": "--epochs 60 --lr 8e-3", "prompt": "--epochs 90 --lr 5e-3 --max_grad_norm 1"}
MEDNIST = (
    "--class_names AbdomenCT,BreastMRI,CXR,ChestCT,Hand,HeadCT --model_name scratch:vit_mini --epochs 5 "
    "--weight_decay 0.01 --warmup 0.3"
)
FSDD = "--model_name scratch:ast_mini --lr 3e-3 --weight_decay 0.05 --warmup 0.1"
FSDD_LENGTH = {"cls": "--epochs 20", "prompt": "--epochs 30 --max_grad_norm 1"}
SPEAKER = ["--label_from", "name:{digit}_{speaker}_{n}", "--label", "speaker"]
BATCH = {"digits": 128, "mednist": 32, "fsdd": 64, "fsdd_speaker": 64}


@dataclass(frozen=True)
class Recipe:
    """One run.

    Attributes:
        layer: --prompt_layer.
        processes: 2 are started through accelerate_configs/cpu_2.yaml, with half the batch each.
    """

    data: str
    readout: str
    seed: int = 42
    layer: int = 0
    processes: int = 1

    @property
    def name(self) -> str:
        marks = [self.layer and f"L{self.layer}", self.processes > 1 and f"{self.processes}processes"]
        return "_".join([self.data, self.readout, f"seed{self.seed}", *(mark for mark in marks if mark)])

    def options(self, places: dict[str, str]) -> list[str]:
        """Of `pfm train`, the data at its place."""
        shapes = {"digits": f"{DIGITS} {DIGITS_LENGTH[self.readout]}", "mednist": MEDNIST}
        parts = [shapes.get(self.data, f"{FSDD} {FSDD_LENGTH[self.readout]}"), SHARED]
        parts += [PROMPT] if self.readout == "prompt" else []
        parts += [f"--batch_size {BATCH[self.data] // self.processes} --seed {self.seed} {START}"]
        parts += [f"--prompt_layer {self.layer}"] if self.layer else []
        data = ["--dataset", places[self.source]] if self.source else []
        data += SPEAKER if self.data == "fsdd_speaker" else []
        return [*data, *" ".join(parts).split()]

    @property
    def source(self) -> str:
        """Which of the data sets that must be at hand it needs; "" for none."""
        return "" if self.data == "digits" else self.data.split("_")[0]


def list_recipes() -> list[Recipe]:
    """Both readouts of both data sets; more seeds; on two processes; prompts half and three quarters of the way up."""
    pairs = [(data, readout) for data in ("digits", "mednist") for readout in ("cls", "prompt")]
    recipes = [Recipe(data, readout, seed) for data, readout in pairs for seed in (42, 2, 3)]
    recipes += [Recipe("mednist", readout, layer=layer) for readout in ("cls", "prompt") for layer in (2, 3)]
    recipes += [Recipe(data, readout, processes=2) for data, readout in pairs]
    recipes += [Recipe("mednist", "cls", 2, processes=2)]
    sounds = [(data, readout) for data in ("fsdd", "fsdd_speaker") for readout in ("cls", "prompt")]
    return [*recipes, *(Recipe(data, readout, seed) for seed in (42, 2, 3) for data, readout in sounds)]


def run(recipe: Recipe, places: dict[str, str]) -> dict[str, Any]:
    """Train and evaluate; the commands as a user would give them, and what they wrote."""
    shown = recipe.options({"mednist": "PATH/mednist_64.npz", "fsdd": "audiofolder:PATH/fsdd"})
    launcher = ["pfm", "train"]
    if recipe.processes > 1:
        launcher = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu_2.yaml", "pfm/train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}

    with tempfile.TemporaryDirectory() as folder:

        def call(program: str, *arguments: str) -> float:
            started = time.monotonic()
            subprocess.run(
                [Path(sys.executable).with_name(program), *arguments],
                cwd=ROOT,
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            return time.monotonic() - started

        seconds = call(launcher[0], *launcher[1:], *recipe.options(places), "--save_dir", folder)
        (checkpoint,) = Path(folder).glob("*.pt")
        call("pfm", "eval", "--ckpt", str(checkpoint), "--save_dir", folder, "--cpu")
        (evaluation,) = (json.loads(path.read_text()) for path in Path(folder).glob("*_evaluation.json"))
        (log,) = (json.loads(path.read_text()) for path in Path(folder).glob("*_run.json"))
    for entry in evaluation["subsets"]:  # the summaries say enough; one line for each subset would be thousands
        for name in ("subsets", "forget", "retain"):
            entry.pop(name)
    rates = sorted(epoch["samples_per_s"] for epoch in log["epochs"])
    return {
        "commands": [shlex.join([*launcher, *shown]), f"pfm eval --ckpt {checkpoint.name}"],
        "train_command_s": round(seconds, 1),
        "samples_per_s": rates[len(rates) // 2],
        "evaluation": evaluation,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mednist", default="", help="PATH/mednist_64.npz")
    parser.add_argument("--fsdd", default="", help="folder of the Free Spoken Digit Dataset, with train/ and test/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else {}
    places = {}
    if arguments.mednist:
        places["mednist"] = str(Path(arguments.mednist).resolve())
    if arguments.fsdd:
        places["fsdd"] = f"audiofolder:{Path(arguments.fsdd).resolve()}"

    def keep(recipe: Recipe) -> None:
        results[recipe.name] = run(recipe, places)
        modes = results[recipe.name]["evaluation"]["modes"]
        print(f"{recipe.name}: full bank {100 * modes['full_bank']:.1f}, all wrong {100 * modes['all_wrong']:.1f}")
        ordered = {other.name: results[other.name] for other in list_recipes() if other.name in results}
        write_json(
            arguments.out,
            {
                "host": host_facts(),
                "note": "one thread a process, two runs side by side; a run of two processes alone",
                "runs": ordered,
            },
        )

    chosen = [recipe for recipe in list_recipes() if arguments.only in recipe.name]
    lacking = sorted({recipe.source for recipe in chosen} - {"", *places})
    if lacking:
        raise SystemExit(f"give {' and '.join(f'--{name}' for name in lacking)}, or choose other runs with --only")
    with ThreadPoolExecutor(2) as lanes:
        list(lanes.map(keep, [recipe for recipe in chosen if recipe.processes == 1]))
    for recipe in chosen:
        if recipe.processes > 1:
            keep(recipe)


if __name__ == "__main__":
    main()
