"""Audit each class in turn, over seeds and both readouts, and write one JSON and the tables of docs/results.md.

    python bench/audit_table.py --data digits --out bench/pfm_bench/results/audit_digits.json
    python bench/audit_table.py --data mednist --mednist PATH/mednist_64.npz --classes Hand \
        --out bench/pfm_bench/results/audit_mednist.json

Resumable: what is in the file is not run again (an older file, whose audits had one retrained model, is to be moved
away first), and models are kept in `--work` (they hold the classes, so
delete the folder afterwards). The recipes are those of `recipes.py` with fewer epochs, without shadow models.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch

from pfm.audit.comparisons.trained import recipe_of
from pfm.audit.config import QUICK
from pfm.audit.models import AuditRequest
from pfm.audit.pooling import pool
from pfm.audit.protocol import audit
from pfm.audit.rule import RULE
from pfm.cli import pfm
from pfm.cli import run as run_command
from pfm.data.loading import load_data
from pfm.model.checkpoint import load_checkpoint
from pfm.seeds import make_generator
from pfm.storage import write_compact_json
from pfm_bench.reports.header import host_facts
from pfm_bench.reports.packed import pack, runs_of

ATTACK = dataclasses.replace(QUICK, shadows=0)
SEEDS = (42, 2, 3)
MODELS = ("full", "forgotten", "retrained", "masked", "finetuned", "closed_form", "untrained")
SHARED = "--optimizer adamw --schedule cosine --eval_every 0 --save_every 0 --cpu"
PROMPT = "--readout prompt --wrong_target none --final_norm"
DIGITS = "--dataset digits --model_name scratch:vit_digits --weight_decay 0.1 --warmup 0.1 --batch_size 128"
MEDNIST = "--model_name scratch:vit_mini --weight_decay 0.01 --warmup 0.3 --batch_size 32"
MEDNIST_NAMES = "AbdomenCT,BreastMRI,CXR,ChestCT,Hand,HeadCT"
LENGTH = {
    ("digits", "cls"): "--epochs 12 --lr 8e-3",
    ("digits", "prompt"): "--epochs 20 --lr 5e-3 --max_grad_norm 1",
    ("mednist", "cls"): "--epochs 2",
    ("mednist", "prompt"): "--epochs 2",
}


@dataclass(frozen=True)
class Case:
    """One class to be forgotten by one trained model."""

    data: str
    readout: str
    seed: int
    label: str

    @property
    def name(self) -> str:
        return f"{self.data}_{self.readout}_seed{self.seed}_class_{self.label}"


def train_options(case: Case, mednist: str) -> list[str]:
    """The options of `pfm train` for the full model of a case."""
    parts = [DIGITS if case.data == "digits" else MEDNIST, SHARED, LENGTH[case.data, case.readout]]
    parts += [PROMPT] if case.readout == "prompt" else []
    named = [] if case.data == "digits" else ["--dataset", mednist, "--class_names", MEDNIST_NAMES]
    return [*named, *" ".join(parts).split(), "--seed", str(case.seed)]


def run_case(case: Case, mednist: str, work: Path) -> dict[str, Any]:
    """Train the full model unless it is there, audit the case, and keep what a table needs."""
    folder = work / f"{case.data}_{case.readout}_{case.seed}"
    if not list(folder.glob("*.pt")):
        code = run_command(pfm, ["train", *train_options(case, mednist), "--save_dir", str(folder)])
        if code:
            raise SystemExit(code)
    (path,) = folder.glob("*.pt")
    full = load_checkpoint(path)
    data = load_data(recipe_of(full).data, full.preprocess.storage)
    request = AuditRequest(full=full, data=data, keys=[case.label])
    result = audit(request, ATTACK, work / "models", torch.device("cpu"), say=lambda _: None)
    return summary(result)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What an audit found, without its curves."""
    models = {}
    for name in MODELS:
        row = {key: value for key, value in result["utility"][name].items() if key != "by_class"}
        shape = {key: value for key, value in result["shape"][name].items() if key != "histogram"}
        sides = result["membership"].get(name, {})
        attacks = {
            side: {"entropy": {k: v for k, v in scores["entropy"].items() if k != "roc"}}
            for side, scores in sides.items()
        }
        models[name] = {"utility": row, "shape": shape, "membership": attacks}
    kept = ("samples", "resurrection", "prototypes", "relearning", "probe", "cost", "exposure", "seconds")
    compared = {
        e["measure"]: {"value": e["comparison"]["value"], "oracles": list(e["comparison"]["oracles"]),
                       "low": e["low"], "high": e["high"]}
        for e in result["verdict"]["measures"] if "comparison" in e
    }  # fmt: skip
    return {
        "models": models,
        "verdict": {"rule": RULE, "levels": result["verdict"]["levels"],
                    "measures": {e["measure"]: e["verdict"] for e in result["verdict"]["measures"]}},
        "compared": compared,
        **{name: result[name] for name in kept},
    }  # fmt: skip


def figures_of(model: str, run: dict[str, Any]) -> dict[str, float | None]:
    """One row's figures of one case, shares in per cent; None where a measure does not apply."""
    entry = run["models"][model]
    entropy = entry["membership"].get("forget", {}).get("entropy")
    found: dict[str, float | None] = {
        "forget %": 100 * entry["utility"]["forget_accuracy"],
        "retain %": 100 * entry["utility"]["retain_test_accuracy"],
        "H/ln C": entry["shape"]["entropy"],
        **({"unknown %": 100 * entry["shape"]["unknown"]} if "unknown" in entry["shape"] else {}),
        "JS": entry["shape"]["js_to_retrained"],
        "MIA AUC": entropy["auc"] if entropy else None,
    }
    for attack in run["resurrection"]:
        recovered = {"forgotten": attack["forgotten"], "retrained": attack["retrained"][0]}.get(model)
        found[f"S@{attack['n']} %"] = 100 * recovered["selective"] if recovered else None
    return found


def table(runs: dict[str, dict[str, Any]], data: str, readout: str) -> str:
    """Mean ± standard deviation over the cases, as Markdown; under it the gaps and the verdicts."""
    chosen = [run for name, run in runs.items() if name.startswith(f"{data}_{readout}_")]
    if not chosen:
        return f"{data}, {readout}: no cases"
    heads = list(figures_of("forgotten", chosen[0]))
    lines = [f"**{data}, readout {readout}** ({len(chosen)} cases)", ""]
    lines += [f"| model | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for model in MODELS:
        cells = []
        for head in heads:
            values = [value for run in chosen if (value := figures_of(model, run)[head]) is not None]
            digits = 1 if "%" in head else 3
            cells.append(f"{statistics.fmean(values):.{digits}f} ± {spread(values):.{digits}f}" if values else "–")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    lines.append("")
    for number, attack in enumerate(chosen[0]["resurrection"]):
        gaps = [run["resurrection"][number]["gap"] for run in chosen]
        above = sum(run["resurrection"][number]["gap_low"] > 0 for run in chosen)
        lines.append(
            f"Resurrection gap from {attack['n']}: {100 * statistics.fmean(gaps):+.1f} ± {100 * spread(gaps):.1f} "
            f"points, its interval above zero in {above} of {len(gaps)}."
        )
    for number, attack in enumerate(chosen[0]["resurrection"]):
        if "auroc_gap" in attack:
            by_class: dict[str, list[float]] = {}
            for name, run in runs.items():
                if name.startswith(f"{data}_{readout}_"):
                    gap = run["resurrection"][number]["auroc_gap"]
                    by_class.setdefault(name.rpartition("_class_")[2], []).append(gap)
            pooled = pool(list(by_class.values()), make_generator("pooled", number))
            lines.append(
                f"AUROC gap from {attack['n']}: {100 * pooled.mean:+.1f} points, pooled over {pooled.num_classes} "
                f"classes and {pooled.num_audits} audits {100 * pooled.low:+.1f} to {100 * pooled.high:+.1f}."
            )
    for level in ("suspend", "erase", "scrub"):
        verdicts = [run["verdict"]["levels"][level] for run in chosen]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("pass", "inconclusive", "fail") if v in verdicts)
        lines.append(f"{level}: {counts}.")
    return "\n".join(lines)


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "mednist"), required=True)
    parser.add_argument("--mednist", default="")
    parser.add_argument("--classes", default="", help="names, separated by commas; default: every class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("audit-table"))
    parser.add_argument("--print", action="store_true", dest="is_printed", help="run nothing, print what is there")
    arguments = parser.parse_args()
    if arguments.data == "mednist" and not arguments.is_printed and not Path(arguments.mednist).is_file():
        raise SystemExit("--data mednist wants --mednist PATH/mednist_64.npz")
    torch.set_num_threads(1)
    everyone = [str(i) for i in range(10)] if arguments.data == "digits" else MEDNIST_NAMES.split(",")
    labels = arguments.classes.split(",") if arguments.classes else everyone
    cases = [Case(arguments.data, readout, seed, label)
             for seed in SEEDS for readout in ("cls", "prompt") for label in labels]  # fmt: skip
    runs = runs_of(json.loads(arguments.out.read_text())) if arguments.out.exists() else {}
    for case in cases:
        if case.name in runs or arguments.is_printed:
            continue
        started = time.monotonic()
        runs[case.name] = run_case(case, arguments.mednist, arguments.work)
        commands = {
            readout: "pfm train " + " ".join(train_options(Case(case.data, readout, 42, ""), "PATH/mednist_64.npz"))
            for readout in ("cls", "prompt")
        }
        write_compact_json(
            arguments.out,
            {
                "command": f"python bench/audit_table.py --data {case.data}"
                + (f" --mednist PATH/mednist_64.npz --classes {arguments.classes}" if arguments.mednist else ""),
                "training": commands,
                "attack": dataclasses.asdict(ATTACK),
                "host": host_facts(),
                "note": "one process of one thread, others beside it: seconds are upper bounds; figures in [0, 1]",
                "runs": pack(runs),
            },
        )
        print(f"{case.name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    for readout in ("cls", "prompt"):
        print(table(runs, arguments.data, readout) + "\n")


if __name__ == "__main__":
    main()
