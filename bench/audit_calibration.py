"""How often the audit's rule is right: models retrained without a class, one in turn in the place of the forgotten one.

    python bench/audit_calibration.py --out audit_calibration.json
    python bench/audit_calibration.py --out audit_calibration.json --print

Digits, one pool of oracles a class. One audit compares the forgotten model with all of them and keeps the covariance of
every measure, from which each smaller audit follows by arithmetic: another model in the judged one's place, fewer
oracles, a gap planted. Also a model whose class is merely masked, and one trained with `--absent_weight 0`. Resumable:
a case that is in the file is not run again; models are kept in `--work` (they hold the classes: delete it afterwards).
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch

from audit_settings import DIGITS, SHARED
from pfm.audit.attacks import ATTACKS
from pfm.audit.comparisons.trained import recipe_of
from pfm.audit.config import QUICK, AuditConfig
from pfm.audit.models import AuditRequest, Models
from pfm.audit.rule import FAIL, PASS, Comparison, Side, judge, power_curve
from pfm.audit.verdict import Judgement, summarise, worst
from pfm.cli import pfm
from pfm.cli import run as run_command
from pfm.data.loading import load_data
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.storage import write_compact_json
from pfm_bench.reports.header import host_facts

CPU = torch.device("cpu")
COUNTS = (3, 5, 10)  # oracles that are left in the pool
SUBSETS = 12  # of each number, for each model in the judged one's place
PLANTED = ("resurrection", "prototype", "relearning")  # measures of what the weights know, which a gap is planted in
RECIPES = {
    "uniform": "--wrong_target uniform",
    "others": "--wrong_target others",
}
NO_BRANCH = "--absent_weight 0"


def options_of(recipe: str, epochs: int) -> list[str]:
    return f"{DIGITS} {SHARED} --epochs {epochs} --lr 8e-3 {RECIPES.get(recipe, NO_BRANCH)} --seed 42".split()


def trained(recipe: str, epochs: int, work: Path) -> Checkpoint:
    """The full model, trained unless it is there."""
    folder = work / f"{recipe}_{epochs}"
    if not list(folder.glob("*.pt")):
        code = run_command(pfm, ["train", *options_of(recipe, epochs), "--save_dir", str(folder)])
        if code:
            raise SystemExit(code)
    (path,) = folder.glob("*.pt")
    return load_checkpoint(path)


def measured(models: Models, names: Sequence[str]) -> list[Judgement]:
    """What some attacks judge."""
    return [judgement for name in names for judgement in ATTACKS.get(name).measure(models).judgements]


def run_case(recipe: str, label: str, config: AuditConfig, epochs: int, work: Path) -> dict[str, Any]:
    """Every comparison of one class's forgotten model with the whole pool."""
    full = trained(recipe, epochs, work)
    data = load_data(recipe_of(full).data, full.preprocess.storage)
    request = AuditRequest(full=full, data=data, keys=[label])
    started = time.monotonic()
    models = Models(request, config, work / "models", CPU, lambda _: None)
    skipped = ("derivable", "shadow_attacks", "cost", "exposure", "closed_form", "exact")  # not judged by the rule
    found = measured(models, [name for name in ATTACKS.names() if name not in skipped])
    masked = Models(dataclasses.replace(request, judged=full), config, work / "models", CPU, lambda _: None)
    return {
        "learned": dataclasses.asdict(models.learned),
        "comparisons": {
            f"{entry.level}: {entry.measure}": dataclasses.asdict(entry.comparison)
            for entry in found
            if entry.comparison is not None
        },
        "masked": summarise(measured(masked, ["utility", "stored"]), masked.learned)["levels"],
        "seconds": round(time.monotonic() - started, 1),
    }


def run_no_branch(label: str, config: AuditConfig, epochs: int, work: Path) -> dict[str, Any]:
    """What *suspend* says of a model that was never trained to hide a class."""
    full = trained("no_branch", epochs, work)
    data = load_data(recipe_of(full).data, full.preprocess.storage)
    few = dataclasses.replace(config, oracles=min(3, config.oracles))
    models = Models(AuditRequest(full=full, data=data, keys=[label]), few, work / "models", CPU, lambda _: None)
    return {"levels": summarise(measured(models, ["utility", "shape"]), models.learned)["levels"]}


# --- arithmetic -----------------------------------------------------------------------------------


def comparisons_of(run: dict[str, Any]) -> dict[str, Comparison]:
    """The measures of the level *scrub*."""
    return {
        name.removeprefix("scrub: "): Comparison(**{**entry, "side": Side(entry["side"]),
                                                    "oracles": tuple(entry["oracles"])})
        for name, entry in run["comparisons"].items() if name.startswith("scrub: ")
    }  # fmt: skip


def level_of(found: dict[str, Comparison]) -> str:
    return worst(judge(one, len(found)) for one in found.values())


def moved(found: dict[str, Comparison]) -> dict[str, Comparison]:
    """With a gap of twice the tolerance in what the weights know."""
    return {
        name: dataclasses.replace(one, value=one.value + 2 * one.tolerance) if name.startswith(PLANTED) else one
        for name, one in found.items()
    }


def calibrate(runs: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """Shares of verdicts with so many oracles, over classes, over models in the judged one's place, over subsets."""
    stream = random.Random(count)
    levels: dict[str, list[str]] = {"retrained": [], "planted": [], "forgotten": []}
    single: dict[str, dict[str, list[str]]] = {"retrained": {}, "planted": {}}
    for run in runs:
        found = comparisons_of(run)
        pool = range(1, 1 + len(next(iter(found.values())).oracles))
        for judged, _ in itertools.product((0, *pool), range(SUBSETS)):
            others = stream.sample([number for number in pool if number != judged], count)
            here = {name: one.among(judged, others) for name, one in found.items()}
            if judged == 0:
                levels["forgotten"].append(level_of(here))
                continue
            for kind, these in (("retrained", here), ("planted", moved(here))):
                levels[kind].append(level_of(these))
                for name, one in these.items():
                    if kind == "retrained" or name.startswith(PLANTED):
                        single[kind].setdefault(name, []).append(judge(one))
    return {
        "levels": {kind: shares(verdicts) for kind, verdicts in levels.items()},
        "measures": {
            kind: {name: shares(verdicts) for name, verdicts in by_name.items()} for kind, by_name in single.items()
        },
    }


def shares(verdicts: Sequence[str]) -> dict[str, float]:
    return {what: round(sum(v == what for v in verdicts) / max(1, len(verdicts)), 4) for what in (PASS, FAIL)}


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Calibration by recipe and number of oracles, the spreads, and a power curve at each measure's spread."""
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        chosen = [run for name, run in runs.items() if name.startswith(f"{recipe} class ")]
        if not chosen:
            continue
        every = [comparisons_of(run) for run in chosen]
        spreads = {name: statistics.fmean(one[name].spread for one in every) for name in every[0]}
        pool = len(next(iter(every[0].values())).oracles)
        gaps = [0.0, 0.025, 0.05, 0.075, 0.10, 0.15]
        area = statistics.fmean(spread for name, spread in spreads.items() if name.startswith(PLANTED))
        found[recipe] = {
            "spreads": spreads,
            "by_oracles": {str(count): calibrate(chosen, count) for count in COUNTS if count < pool},
            "power_curve": {
                "spread": area,
                "gaps": gaps,
                **{str(count): [list(point) for point in power_curve(gaps, area, count)] for count in COUNTS},
            },
        }
    return found


def table(found: dict[str, Any]) -> str:
    """Per cent of verdicts at the level *scrub*, as Markdown."""
    lines = ["| recipe | oracles | retrained: pass | fail | planted 2ε: fail | forgotten: pass | fail |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for recipe, entry in found.items():
        for count, one in entry["by_oracles"].items():
            level = one["levels"]
            cells = [level["retrained"][PASS], level["retrained"][FAIL], level["planted"][FAIL],
                     level["forgotten"][PASS], level["forgotten"][FAIL]]  # fmt: skip
            lines.append(f"| {recipe} | {count} | {' | '.join(f'{100 * cell:.0f}' for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("audit-calibration"))
    parser.add_argument("--classes", default="3,8", help="names, separated by commas")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names, separated by commas")
    parser.add_argument("--oracles", type=int, default=11)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--smoke", action="store_true", help="a look whether it runs: few steps and attacks")
    parser.add_argument("--print", action="store_true", dest="is_printed", help="run nothing, print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = dataclasses.replace(QUICK, shadows=0, attack_seeds=20, oracles=arguments.oracles)
    if arguments.smoke:
        config = dataclasses.replace(config, attack_seeds=2, attack_steps=5, restarts=2, relearn_steps=(0, 2),
                                     relearn_seeds=1)  # fmt: skip
    runs = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else {}
    cases = [(recipe, label) for label in arguments.classes.split(",")
             for recipe in (*arguments.recipes.split(","), "no_branch")]  # fmt: skip
    for recipe, label in cases:
        name = f"{recipe} class {label}"
        if name in runs or arguments.is_printed:
            continue
        if recipe == "no_branch":
            runs[name] = run_no_branch(label, config, arguments.epochs, arguments.work)
        else:
            runs[name] = run_case(recipe, label, config, arguments.epochs, arguments.work)
        write_compact_json(
            arguments.out,
            {
                "command": f"python bench/audit_calibration.py --out {arguments.out.name} --oracles {config.oracles} "
                f"--epochs {arguments.epochs} --classes {arguments.classes} --recipes {arguments.recipes}"
                + " --smoke" * arguments.smoke,
                "training": {one: "pfm train " + " ".join(options_of(one, arguments.epochs))
                             for one in (*RECIPES, "no_branch")},
                "attack": dataclasses.asdict(config),
                "host": host_facts(),
                "note": "values in [0, 1]; one process of one thread, others beside it: seconds are upper bounds",
                "summary": summary(runs),
                "runs": runs,
            },
        )  # fmt: skip
        print(f"{name} is done", file=sys.stderr, flush=True)
    print(table(summary(runs)))
    for name, run in runs.items():
        what = run.get("masked") or run.get("levels")
        print(f"{name}, {'masked' if 'masked' in run else 'as trained'}: {what}")


if __name__ == "__main__":
    main()
