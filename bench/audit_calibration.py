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
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch

from audit_settings import DIGITS, SHARED, START
from many_hosts import Cases
from pfm.audit.attacks import ATTACKS
from pfm.audit.comparisons.trained import recipe_of
from pfm.audit.config import QUICK, AuditConfig
from pfm.audit.models import AuditRequest, Models
from pfm.audit.rule import FAIL, PASS, Comparison, Side, Tolerance, judge, recommended_oracles
from pfm.audit.verdict import Judgement, summarise, worst
from pfm.cli import pfm
from pfm.cli import run as run_command
from pfm.data.loading import load_data
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.storage import write_compact_json

CPU = torch.device("cpu")
MOST = 20  # oracles that --full trains
COUNTS = (3, 5, 8, 9, 10)  # oracles that are left in the pool
SUBSETS = 12  # of each number, for each model in the judged one's place
GAPS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # planted, in tolerances
EPSILONS = (0.05, 0.075, 0.1)
TOLERANCES = {  # of what begins so; ε of the rest
    "over-unlearning": Tolerance.RETAINED,
    "output shape: entropy": Tolerance.ENTROPY,
    "output shape: unknown": Tolerance.UNKNOWN,
    "output shape: divergence": Tolerance.DIVERGENCE,
    "membership of the class": Tolerance.MEMBERSHIP,
    "membership of the retained": Tolerance.MEMBERSHIP_RETAINED,
    "feature-classifier alignment": Tolerance.COSINE,
}
PLANTED = ("resurrection", "prototype", "relearning")  # measures of what the weights know, which a gap is planted in
RECIPES = {
    "uniform": "--wrong_target uniform",
    "others": "--wrong_target others",
    "prompt": "--readout prompt --final_norm --wrong_target none --lr 5e-3 --max_grad_norm 1",
}
NO_BRANCH = "--absent_weight 0"


def options_of(recipe: str, epochs: int) -> list[str]:
    return f"{DIGITS} {SHARED} {START} --epochs {epochs} --lr 8e-3 {RECIPES.get(recipe, NO_BRANCH)} --seed 42".split()


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
    said = summarise(measured(models, ["utility", "shape"]), models.learned)
    measures = [
        {what: entry[what] for what in ("level", "measure", "verdict", "value", "limit", "reason")}
        for entry in said["measures"]
    ]
    return {"levels": said["levels"], "measures": measures}


# --- arithmetic -----------------------------------------------------------------------------------


def comparisons_of(run: dict[str, Any], epsilon: float) -> dict[str, Comparison]:
    """The measures of the level *scrub*, with the rule's tolerances."""
    return {
        name.removeprefix("scrub: "): Comparison(
            **{**entry, "side": Side(entry["side"]), "oracles": tuple(entry["oracles"]),
               "tolerance": tolerance_of(name.removeprefix("scrub: "), epsilon)}
        )
        for name, entry in run["comparisons"].items() if name.startswith("scrub: ")
    }  # fmt: skip


def tolerance_of(measure: str, epsilon: float) -> float:
    """What the rule asks for now: a file may be older than its tolerances."""
    return next((value for name, value in TOLERANCES.items() if measure.startswith(name)), epsilon)


def level_of(found: dict[str, Comparison]) -> str:
    return worst(judge(one, len(found)) for one in found.values())


def moved(found: dict[str, Comparison], times: float) -> dict[str, Comparison]:
    """With a gap of so many tolerances in what the weights know."""
    return {
        name: dataclasses.replace(one, value=one.value + times * one.tolerance) if name.startswith(PLANTED) else one
        for name, one in found.items()
    }


def settings(run: dict[str, Any], count: int, epsilon: float) -> Iterator[tuple[int, dict[str, Comparison]]]:
    """Each model in the judged one's place, 0 the forgotten one, beside some of the others."""
    stream = random.Random(count)
    found = comparisons_of(run, epsilon)
    pool = range(1, 1 + len(next(iter(found.values())).oracles))
    for judged, _ in itertools.product((0, *pool), range(SUBSETS)):
        others = stream.sample([number for number in pool if number != judged], count)
        yield judged, {name: one.among(judged, others) for name, one in found.items()}


def calibrate(runs: Sequence[dict[str, Any]], count: int, epsilon: float) -> dict[str, Any]:
    """Shares of verdicts with so many oracles, over classes, over models in the judged one's place, over subsets."""
    levels: dict[str, list[str]] = {"retrained": [], "forgotten": []}
    curve: dict[float, list[str]] = {times: [] for times in GAPS}
    single: dict[str, dict[str, list[str]]] = {"retrained": {}, "planted": {}}
    for judged, here in (pair for run in runs for pair in settings(run, count, epsilon)):
        if judged == 0:
            levels["forgotten"].append(level_of(here))
            continue
        levels["retrained"].append(level_of(here))
        for times, verdicts in curve.items():
            verdicts.append(level_of(moved(here, times)))
        for kind, these in (("retrained", here), ("planted", moved(here, 2.0))):
            for name, one in these.items():
                if kind == "retrained" or name.startswith(PLANTED):
                    single[kind].setdefault(name, []).append(judge(one, len(these)))
    return {
        "levels": {kind: shares(verdicts) for kind, verdicts in levels.items()},
        "gaps": {str(times): shares(verdicts) for times, verdicts in curve.items()},
        "measures": {
            kind: {name: shares(verdicts) for name, verdicts in by_name.items()} for kind, by_name in single.items()
        },
    }


def shares(verdicts: Sequence[str]) -> dict[str, float]:
    return {what: round(sum(v == what for v in verdicts) / max(1, len(verdicts)), 4) for what in (PASS, FAIL)}


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Calibration by recipe and number of oracles, the spreads, and what another ε would give."""
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        chosen = {name: run for name, run in runs.items() if name.startswith(f"{recipe} class ")}
        if not chosen:
            continue
        every = [comparisons_of(run, Tolerance.AREA) for run in chosen.values()]
        spreads = {
            name: {
                "tolerance": one.tolerance,
                "spread": math.sqrt(statistics.fmean(other[name].spread ** 2 for other in every)),
                "sampling": statistics.fmean(
                    other[name].among(1, range(2, 1 + pool_of(other))).sampling for other in every
                ),
            }
            for name, one in every[0].items()
        }
        widest = max(entry["spread"] for name, entry in spreads.items() if name.startswith(PLANTED))
        largest = max(map(pool_of, every))
        fit = {
            count: {name: run for (name, run), one in zip(chosen.items(), every, strict=True) if pool_of(one) > count}
            for count in COUNTS if count < largest
        }  # fmt: skip
        most = max(fit)
        found[recipe] = {
            "spreads": spreads,
            "recommended": {
                str(epsilon): recommended_oracles(widest, epsilon, MOST, len(spreads)) for epsilon in EPSILONS
            },
            "by_oracles": {
                str(count): {"classes": len(runs), **calibrate(list(runs.values()), count, Tolerance.AREA)}
                for count, runs in fit.items()
            },
            "by_class": {
                name: {str(count): calibrate([run], count, Tolerance.AREA)["levels"] for count in fit
                       if name in fit[count]}
                for name, run in chosen.items()
            },
            "by_epsilon": {
                str(epsilon): {
                    "oracles": most,
                    **{kind: entry for kind, entry in calibrate(list(fit[most].values()), most, epsilon).items()
                       if kind != "measures"},
                }
                for epsilon in EPSILONS
            },
        }  # fmt: skip
    return found


def pool_of(found: dict[str, Comparison]) -> int:
    return len(next(iter(found.values())).oracles)


def table(found: dict[str, Any]) -> str:
    """Per cent of verdicts at the level *scrub*, and the spreads, as Markdown."""
    lines = ["| recipe | ε | oracles | retrained: pass | fail | planted 2ε: fail | forgotten: pass | fail |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for recipe, entry in found.items():
        rows = [(Tolerance.AREA, count, one) for count, one in entry["by_oracles"].items()]
        rows += [(epsilon, one["oracles"], one) for epsilon, one in entry["by_epsilon"].items()]
        for epsilon, count, one in rows:
            level = one["levels"]
            cells = [level["retrained"][PASS], level["retrained"][FAIL], one["gaps"]["2.0"][FAIL],
                     level["forgotten"][PASS], level["forgotten"][FAIL]]  # fmt: skip
            shown = " | ".join(f"{100 * cell:.0f}" for cell in cells)
            lines.append(f"| {recipe} | {float(epsilon):g} | {count} | {shown} |")
    for recipe, entry in found.items():
        last = list(entry["by_oracles"].values())[-1]["measures"]
        lines += ["", f"| {recipe} | tolerance | spread | by samples | retrained: pass | fail | planted: fail |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        for name, one in entry["spreads"].items():
            fair, planted = last["retrained"][name], last["planted"].get(name)
            lines.append(
                f"| {name} | {one['tolerance']:g} | {one['spread']:.3f} | {one['sampling']:.3f} | "
                f"{100 * fair[PASS]:.0f} | {100 * fair[FAIL]:.0f} | {f'{100 * planted[FAIL]:.0f}' if planted else ''} |"
            )
        lines += ["", f"{recipe}: recommended retrained models by ε: {entry['recommended']}",
                  f"by class: {entry['by_class']}"]  # fmt: skip
    return "\n".join(lines)


def write(arguments: argparse.Namespace, config: AuditConfig, found: Cases) -> None:
    """Everything, with the arithmetic made anew."""
    what = (f"--oracles {config.oracles} --epochs {arguments.epochs} --classes {arguments.classes} "
            f"--recipes {arguments.recipes}" + " --smoke" * arguments.smoke)  # fmt: skip
    write_compact_json(
        arguments.out,
        {
            "command": f"python bench/audit_calibration.py --out {arguments.out.name} {what}",
            "training": {one: "pfm train " + " ".join(options_of(one, arguments.epochs))
                         for one in (*RECIPES, "no_branch")},
            "attack": dataclasses.asdict(config),
            "hosts": found.hosts,
            "note": "values in [0, 1]; one process of one thread, others beside it: seconds are upper bounds",
            "summary": summary(found.runs),
            "runs": found.runs,
        },
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("audit-calibration"))
    parser.add_argument("--classes", default="3,1,8", help="names, separated by commas")
    parser.add_argument("--recipes", default="uniform", help="names, separated by commas")
    parser.add_argument("--oracles", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--smoke", action="store_true", help="a look whether it runs: few steps and attacks")
    parser.add_argument("--merge", type=Path, nargs="+", help="run nothing: take the cases of these files in")
    parser.add_argument("--print", action="store_true", dest="is_printed", help="run nothing, print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = dataclasses.replace(QUICK, shadows=0, oracles=arguments.oracles)
    if arguments.smoke:
        config = dataclasses.replace(config, attack_seeds=2, attack_steps=5, restarts=2, relearn_steps=(0, 2),
                                     relearn_seeds=1)  # fmt: skip
    found = Cases.read(arguments.out)
    runs = found.runs
    for path in arguments.merge or ():
        found.take(Cases.read(path))
    labels, recipes = arguments.classes.split(","), arguments.recipes.split(",")
    cases = [(recipe, label) for label in labels for recipe in recipes]
    cases.insert(len(recipes), ("no_branch", labels[0]))
    for recipe, label in cases:
        name = f"{recipe} class {label}"
        if name in runs or arguments.is_printed or arguments.merge:
            continue
        if recipe == "no_branch":
            run = run_no_branch(label, config, arguments.epochs, arguments.work)
        else:
            run = run_case(recipe, label, config, arguments.epochs, arguments.work)
        found.add(name, run, "cpu")
        write(arguments, config, found)
        print(f"{name} is done", file=sys.stderr, flush=True)
    if runs:
        write(arguments, config, found)  # the arithmetic may have changed
    print(table(summary(runs)))
    for name, run in runs.items():
        what = run.get("masked") or run.get("levels")
        print(f"{name}, {'masked' if 'masked' in run else 'as trained'}: {what}")


if __name__ == "__main__":
    main()
