"""How easy a removed class is to bring back, by what of the model was trained: JSON and table of docs/results.md.

    python bench/resurrection_table.py --out bench/pfm_bench/results/resurrection_digits.json

The digits, from scratch and on a backbone that was pretrained on drawn glyphs (`glyph_backbone.py`, made in
`--work`). Each variant is compared with a model retrained by the same options without the class. Resumable: what is
in the file is not run again.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch

from audit_settings import SHARED, START
from glyph_backbone import pretrain
from pfm.audit import figures, thresholds
from pfm.audit.attacks.exposure import exposure
from pfm.audit.attacks.resurrection import resurrection_gaps
from pfm.audit.comparisons.data import by_position
from pfm.audit.comparisons.trained import Comparisons, recipe_of
from pfm.audit.config import QUICK
from pfm.audit.groups import Groups
from pfm.audit.pooling import pool
from pfm.audit.resurrection import Attacker
from pfm.audit.subject import Loaded, as_subject
from pfm.cli import pfm
from pfm.cli import run as run_command
from pfm.data.loading import load_data
from pfm.data.splits import Split
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import load_checkpoint
from pfm.seeds import make_generator
from pfm.storage import write_json
from pfm_bench.reports.header import host_facts

ATTACK = dataclasses.replace(QUICK, shadows=0)
CPU = torch.device("cpu")
SEEDS = (42, 2)
LABELS = ("1", "3", "8")
COMMON = "--dataset digits --weight_decay 0.1 --warmup 0.1 --batch_size 128"
CLS, LONG = "--epochs 12 --lr 8e-3", "--epochs 60 --lr 8e-3"
SCRATCH = "--model_name scratch:vit_digits"
VARIANTS = {
    "scratch, cls, 60 epochs": f"{SCRATCH} {LONG}",
    "scratch, cls, others, 60 epochs": f"{SCRATCH} {LONG} --wrong_target others",
    "scratch, cls": f"{SCRATCH} {CLS}",
    "scratch, cls, others": f"{SCRATCH} {CLS} --wrong_target others",
    "cls, lora": CLS,
    "cls, lora, others": f"{CLS} --wrong_target others",
    "cls, lora, late prompts": f"{CLS} --prompt_layer 1",
    "cls, prompts, late prompts": "--tune prompts --epochs 40 --lr 3e-2 --prompt_layer 1",
}

# these with the first seed only: a short look, not a comparison
ONE_SEED = tuple(name for name in VARIANTS if not name.startswith("scratch"))


def options_of(variant: str, model_name: str) -> list[str]:
    backbone = "" if SCRATCH in VARIANTS[variant] else f"--model_name {model_name}"
    return f"{backbone} {COMMON} {SHARED} {START} {VARIANTS[variant]}".split()


def run_case(variant: str, seed: int, label: str, work: Path) -> dict[str, Any]:
    """Train what is not there yet, erase the class, attack; shares and gaps in [0, 1]."""
    folder = work / f"{variant.replace(', ', '_').replace(' ', '-')}_{seed}"
    if not list(folder.glob("*.pt")):
        options = [*options_of(variant, str(work / "glyphs")), "--seed", str(seed), "--save_dir", str(folder)]
        code = run_command(pfm, ["train", *options])
        if code:
            raise SystemExit(code)
    (path,) = folder.glob("*.pt")
    full = load_checkpoint(path)
    data = by_position(load_data(recipe_of(full).data, full.preprocess.storage), full)
    positions = full.classes.positions([label])
    groups, ids = Groups.of(data, positions), full.classes.ids
    oracle = Comparisons(full, data, positions, work / "models", CPU, lambda _: None).retrained()
    whole, forgotten, retrained = (
        Loaded.of(checkpoint, CPU) for checkpoint in (full, erase(full, [label]), oracle.checkpoint)
    )
    subjects = {
        "full": as_subject("full", whole, ids),
        "suspended": as_subject("suspended", whole, ids, without=[ids[p] for p in positions]),
        "forgotten": as_subject("forgotten", forgotten, ids),
        "retrained": as_subject("retrained", retrained, ids),
    }

    def accuracy(name: str, split: Split) -> float:
        return float((subjects[name].log_probabilities(split).argmax(dim=1) == split.labels).double().mean())

    members, others = [
        -figures.normalised_entropy(subjects["forgotten"].log_probabilities(split))
        for split in (groups.forget_train, groups.forget_test)
    ]
    return {
        "full": accuracy("full", data.test),
        "retain": accuracy("forgotten", groups.retain_test),
        "retrained_retain": accuracy("retrained", groups.retain_test),
        # the prompt left out and all classifier rows there, as the paper measures it
        "forget_suspended": accuracy("suspended", groups.forget_test),
        "entropy_auc": thresholds.attack(members, others, make_generator("bootstrap"))["auc"],
        "exposure": exposure(full, positions),
        "resurrection": resurrection_gaps(Attacker(data, positions, ATTACK, CPU), forgotten, [retrained]),
    }


def figures_of(run: dict[str, Any]) -> dict[str, float]:
    found = {
        "full %": 100 * run["full"],
        "retain %": 100 * run["retain"],
        "forget % (prompt out)": 100 * run["forget_suspended"],
        "entropy AUC": run["entropy_auc"],
    }
    for attack in run["resurrection"]:
        found[f"S@{attack['n']} %"] = 100 * attack["forgotten"]["selective"]
        found[f"gap {attack['n']}"] = 100 * attack["gap"]
    for attack in run["resurrection"]:  # S@n says little where a new classifier row drowns the retained classes
        sides = attack["forgotten"]["auroc"], attack["retrained"][0]["auroc"]
        found[f"AUROC gap {attack['n']}"] = 100 * (sides[0] - sides[1])
    return found


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Mean ± standard deviation over the cases, as Markdown."""
    rows = {name: [run for key, run in runs.items() if key.rpartition(" seed ")[0] == name] for name in VARIANTS}
    rows = {name: chosen for name, chosen in rows.items() if chosen}
    if not rows:
        return "no cases"
    heads = list(figures_of(next(iter(runs.values()))))
    lines = [f"| model | {' | '.join(heads)} | gap above zero |", f"|---|{'---|' * (len(heads) + 1)}"]
    for name, chosen in rows.items():
        cells = []
        for head in heads:
            values = [figures_of(run)[head] for run in chosen]
            digits, sign = (3, "") if head == "entropy AUC" else (1, "+" if "gap" in head else "")
            cells.append(f"{statistics.fmean(values):{sign}.{digits}f} ± {spread(values):.{digits}f}")
        above = [sum(run["resurrection"][n]["gap_low"] > 0 for run in chosen) for n in range(len(ATTACK.sizes))]
        cells.append(", ".join(map(str, above)) + f" of {len(chosen)}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    for name in rows:
        gaps = (pooled_area(runs, name, number) for number in range(len(ATTACK.sizes)))
        lines.append(f"{name}: AUROC gaps pooled over classes and seeds {', '.join(gaps)}")
    return "\n".join(lines)


def pooled_area(runs: dict[str, dict[str, Any]], variant: str, number: int) -> str:
    """The AUROC gap from one number of samples, in points, and its interval."""
    by_class: dict[str, list[float]] = {}
    for name, run in runs.items():
        if name.rpartition(" seed ")[0] == variant:
            attack = run["resurrection"][number]
            sides = attack["forgotten"]["auroc"], attack["retrained"][0]["auroc"]
            by_class.setdefault(name.rpartition(" class ")[2], []).append(sides[0] - sides[1])
    found = pool(list(by_class.values()), make_generator("pooled", number))
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("resurrection-table"))
    parser.add_argument("--print", action="store_true", dest="is_printed", help="run nothing, print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else {}
    cases = [(v, seed, label) for seed in SEEDS for v in VARIANTS for label in LABELS
             if seed == SEEDS[0] or v not in ONE_SEED]  # fmt: skip
    for variant, seed, label in cases:
        name = f"{variant} seed {seed} class {label}"
        if name in runs or arguments.is_printed:
            continue
        if not (arguments.work / "glyphs" / "config.json").exists():
            pretrain(arguments.work / "glyphs")
        started = time.monotonic()
        runs[name] = run_case(variant, seed, label, arguments.work)
        write_json(
            arguments.out,
            {
                "command": f"python bench/resurrection_table.py --out {arguments.out.name}",
                "training": {v: "pfm train " + " ".join(options_of(v, "glyphs")) for v in VARIANTS},
                "attack": dataclasses.asdict(ATTACK),
                "host": host_facts(),
                "note": "shares and gaps in [0, 1]; one process of one thread, others beside it",
                "runs": runs,
            },
        )
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
