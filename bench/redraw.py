"""The pictures in docs/pictures, drawn again from the files in bench/pfm_bench/results.

    python bench/redraw.py
    python bench/redraw.py --mednist PATH/mednist_64.npz --fsdd PATH/fsdd

Nothing is measured and nothing is trained. The answers on MedNIST and on sounds show inputs of those data sets, so
these two pictures are drawn only where the data is given.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from answers import choose_task
from pfm.evaluation.pictures import Curve, draw_curves, draw_forgetting
from pfm.storage import Json
from pfm_bench.demo.answers import ServedAnswers
from pfm_bench.demo.answers_picture import draw_answers
from pfm_bench.measuring.rounds import Samples
from pfm_bench.reports.header import Header
from pfm_bench.reports.serving_pictures import draw, draw_prompts
from pfm_bench.reports.serving_report import Case, ServingReport, case_results
from pfm_bench.reports.variants import draw_variants, variants_report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "pfm_bench" / "results"
DIGITS = {"readout cls": "digits_cls_seed42", "readout prompt": "digits_prompt_seed42"}


class NoFacts:
    """Of a variant nothing is drawn but its speed."""

    def to_dict(self) -> Json:
        return {}


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def samples_of(entries: Mapping[Any, Mapping[str, Any]], settings: Mapping[str, Any]) -> Samples[Any]:
    """The raw samples of a document, by case or by variant."""
    return Samples(
        {key: entry["latency_ms"] for key, entry in entries.items()},
        warmup_rounds=settings["warmup_rounds"],
        pause_ms=settings["pause_ms"],
        budget_was_spent=settings["stopped_by_budget"],
        cpu_ms={key: entry["cpu_ms"] for key, entry in entries.items() if "cpu_ms" in entry},
    )


def serving_report(name: str) -> ServingReport:
    """A document of `pfm bench serve` or the latencies of `pfm demo`."""
    document = load(name)
    settings = document["settings"]
    keys = ("batch_size", "num_prompts", "target")
    samples = samples_of({Case(*(entry[key] for key in keys)): entry for entry in document["cases"]}, settings)
    header = Header.of(samples, settings=settings, reference="torch")
    return ServingReport(header=header, cases=case_results([samples], reference="torch"))


def redraw_variants(name: str, path: Path, what: str) -> None:
    """A document of `pfm bench train` or `pfm bench eval`."""
    document = load(name)
    variants = {entry["name"]: entry for entry in document["variants"]}
    report = variants_report(
        samples_of(variants, document["settings"]),
        reference=document["settings"]["reference"],
        images_per_call=1,
        settings=document["settings"],
        facts=dict.fromkeys(variants, NoFacts()),
    )
    draw_variants(report, path, title=f"{what}, {report.title}")


def redraw_forgetting(path: Path) -> None:
    """The digits of `recipes.json`, every subset of each size."""
    runs = load("recipes")["runs"]
    found = {title: runs[name]["evaluation"] for title, name in DIGITS.items()}
    draw_forgetting(
        {title: {str(entry["k"]): entry for entry in run["subsets"]} for title, run in found.items()},
        path,
        num_classes=len(next(iter(found.values()))["classes"]["names"]),
        title="digits: what is forgotten and what is kept",
    )


def redraw_answers(data: str, source: Path | None, path: Path) -> None:
    """A document of `bench/answers.py`."""
    task = choose_task(data, source)
    draw_answers(ServedAnswers.from_dict(load(f"answers_{data}")["answers"]), task, task.load().test.inputs, path)


def redraw_power(path: Path) -> None:
    """What the rule says of models with a planted gap, of `audit_calibration.json`."""
    found = load("audit_calibration")["summary"]["uniform"]["by_oracles"]
    panels = {
        title: {
            f"{count} retrained models": Curve(
                [float(times) for times in entry["gaps"]], [one[verdict] for one in entry["gaps"].values()]
            )
            for count, entry in found.items()
        }
        for title, verdict in (("pass", "pass"), ("fail", "fail"))
    }
    data = draw_curves(panels, xlabel="planted gap, in tolerances", ylabel="share of audits", ticks=True)
    path.write_bytes(data)


def pictures(arguments: argparse.Namespace) -> dict[str, Callable[[Path], None]]:
    """What draws each file."""
    found: dict[str, Callable[[Path], None]] = {
        "answers.png": lambda path: redraw_answers("digits", None, path),
        "forgetting.png": redraw_forgetting,
        "audit_power.png": redraw_power,
        "latency.png": lambda path: draw(serving_report("latency"), path),
        "bench_serve.png": lambda path: draw(serving_report("bench_serve_vit_base"), path),
        "bench_serve_prompts.png": lambda path: draw_prompts(serving_report("bench_serve_vit_base"), path),
        "bench_train.png": lambda path: redraw_variants("bench_train_vit_small", path, "training step"),
        "bench_eval.png": lambda path: redraw_variants("bench_eval_vit_small", path, "evaluation"),
    }
    if arguments.mednist:
        found["answers_mednist.png"] = lambda path: redraw_answers("mednist", arguments.mednist, path)
    if arguments.fsdd:
        found["answers_sounds.png"] = lambda path: redraw_answers("fsdd", arguments.fsdd, path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="folder of the pictures")
    parser.add_argument("--mednist", type=Path, help="PATH/mednist_64.npz")
    parser.add_argument("--fsdd", type=Path, help="PATH/fsdd")
    arguments = parser.parse_args()
    for name, make in pictures(arguments).items():
        make(arguments.out / name)
        print(f"{name}: {(arguments.out / name).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
