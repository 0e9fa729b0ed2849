"""What the start of the prompts does: accuracy, forgetting, and what of an erased class can be derived.

    python bench/starts_table.py --out bench/pfm_bench/results/starts.json
    python bench/starts_table.py --out bench/pfm_bench/results/starts.json --mednist PATH/mednist_64.npz --only mednist
    python bench/starts_table.py --out bench/pfm_bench/results/starts.json --fsdd PATH/fsdd --only fsdd
    python bench/starts_table.py --out bench/pfm_bench/results/starts.json --mednist PATH/mednist_64.npz \
        --backbone PATH/vit_cifar32 --only lora
    python bench/starts_table.py --out bench/pfm_bench/results/starts_data.json --start data

Each run is trained by its recipe of `bench/recipes.py`, evaluated, and attacked after a class was erased from it.
`common` and `data` run with seeds 42, 2 and 3, `secret` three times with fresh keys and seed 42, `seed` with seed 42
(its accuracies with three seeds are those of `recipes.json` and `recipes_fsdd.json`). What the file holds already is
not run again; `--show` prints it as the table of the documentation. `--models FOLDER` keeps the checkpoints. Further
kinds of runs are `decoys_…`, the readout `prompt` with a decoy, and of MedNIST's recipe `behind_…` with the prompts
behind half of the blocks and `lora_…` with LoRA on the two upper blocks of a pretrained backbone.

`--attack` makes the attacks by formula once more on models that `--models` kept, each class erased without and with
its prompts centred, and says what centring does to the answers. What was attacked with as many rounds of random
prompts already is left alone.

`--retrain FOLDER` trains the recipes of what the file holds once more without the erased class, and attacks both.
"""

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pfm.audit.attacks.derivable import Case, measure_class, measure_formulas
from pfm.audit.attacks.from_samples import key_source, make_again
from pfm.audit.comparisons.data import by_position
from pfm.audit.comparisons.trained import Comparisons
from pfm.audit.config import QUICK
from pfm.audit.derivable import SeedStarts, rows_of_keys
from pfm.audit.groups import Groups
from pfm.commands.train import train as train_command
from pfm.data.config import DataConfig
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData
from pfm.device import DeviceConfig
from pfm.evaluation.config import EvalConfig
from pfm.evaluation.evaluator import make_evaluator
from pfm.evaluation.samples import label_positions
from pfm.forgetting.answers import Asked
from pfm.forgetting.erase import erase
from pfm.forgetting.infer_best import prompts_change
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import BANK
from pfm.model.starts import STARTS
from pfm.storage import write_compact_json
from pfm.training.launch import processes_of, start_accelerator
from pfm_bench.reports.header import host_facts
from recipes import Recipe

CPU = torch.device("cpu")
CLASSES = {"digits": ("3",), "mednist": ("Hand",), "fsdd": ("3",)}  # that are erased, each on its own
SEEDS = (42, 2, 3)
STARTS_SHOWN = ("common", "secret", "data", "seed")
CONFIG = dataclasses.replace(QUICK, attack_seeds=3)
SHOWN = {"mednist": "PATH/mednist_64.npz", "fsdd": "audiofolder:PATH/fsdd", "backbone": "PATH/vit_cifar32"}
ACCURACIES = ("full_bank", "retain_k1", "forget_k1")
RESULTS = Path(__file__).parent / "pfm_bench" / "results"
MOST_SAMPLES = 100  # of each side, that an attack is measured on
KINDS = {
    "": "",
    "behind": "--prompt_layer 2",
    "lora": "--prompt_layer 4 --cache_trunk host",
    "decoys": "--decoys 1",
}  # what is added to the recipe


@dataclass(frozen=True)
class Run:
    """One model: a recipe from one start.

    Attributes:
        number: of the keys of a secret start.
        kind: one of `KINDS`.
    """

    recipe: Recipe
    start: str
    number: int = 0
    kind: str = ""

    def options(self, places: dict[str, str]) -> list[str]:
        """Of `pfm train`, the data at its place."""
        options = self.recipe.options(places)
        options[options.index("--prompt_start") + 1] = self.start
        if self.kind == "lora":
            options[options.index("--model_name") + 1] = places["backbone"]
        return [*options, *KINDS[self.kind].split()]

    @property
    def needs(self) -> set[str]:
        """What has to be at hand, as names of places."""
        return {self.recipe.source, "backbone" if self.kind == "lora" else ""} - {""}

    @property
    def name(self) -> str:
        name = f"{self.recipe.name}_{self.start}" + (f"_keys{self.number}" if self.number else "")
        return f"{self.kind}_{name}" if self.kind else name


def list_runs() -> Iterator[Run]:
    """Both readouts of each data set from every start; every cell has one run before any has two; then other kinds."""
    runs = [
        (number, start, Run(Recipe(data, readout, seed), start, number * (start == "secret")))
        for data in CLASSES
        for readout in ("cls", "prompt")
        for start in STARTS_SHOWN
        for number, seed in enumerate((42,) * 3 if start == "secret" else SEEDS[: 1 if start == "seed" else 3], start=1)
    ]
    for number in (1, 2, 3):
        yield from (run for at, _, run in runs if at == number)
    yield from (Run(Recipe(data, "prompt", seed), "data", kind="decoys") for seed in SEEDS for data in CLASSES)
    for kind in ("lora", "behind"):
        for readout in ("cls", "prompt"):
            for start in STARTS_SHOWN:
                yield Run(Recipe("mednist", readout), start, int(start == "secret"), kind)
    for number in (2, 3):
        yield from (Run(Recipe("mednist", readout), "secret", number, "lora") for readout in ("cls", "prompt"))


def trained(run: Run, places: dict[str, str], folder: Path) -> Checkpoint:
    """The model of a run, trained unless it is in the folder."""

    def whole() -> list[Path]:
        return [path for path in folder.glob("*.pt") if not path.stem.endswith("_resume")]  # of a run that was stopped

    if not whole():
        train_command.main([*run.options(places), "--save_dir", str(folder)], standalone_mode=False)
    (path,) = whole()
    return load_checkpoint(path)


def data_of(checkpoint: Checkpoint) -> ClassificationData:
    """What a checkpoint was trained and is tested on."""
    stored = checkpoint.run["data"]
    known = {field.name: stored[field.name] for field in dataclasses.fields(DataConfig) if field.name in stored}
    return load_data(DataConfig(**known), checkpoint.preprocess.storage)


def measure(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """Evaluate and attack."""
    data = data_of(checkpoint)
    model = checkpoint.build_model()
    evaluator = make_evaluator(
        data.test, label_positions(model.classes, data.classes), checkpoint.preprocess,
        processes_of(start_accelerator(CPU, DeviceConfig(cpu=True))), EvalConfig(), seed=checkpoint.seed,
    )  # fmt: skip
    found = evaluator.evaluate(model, ks=[1], max_subsets=None)
    one_less = found.subsets[0].summary()
    return {
        "full_bank": found.modes["full_bank"],
        "retain_k1": one_less["retain_mean"],
        "forget_k1": one_less["forget_mean"],
        "unknown": None if found.unknown is None else dataclasses.asdict(found.unknown),
        "cosine_to_start": cosine_to_start(checkpoint, data),
        "derivable": [attack(checkpoint, data, name) for name in CLASSES[run.recipe.data]],
    }


def cosine_to_start(checkpoint: Checkpoint, data: ClassificationData) -> float | None:
    """Of the trained prompts, their mean; None where nobody can draw the start again."""
    start, ids = STARTS.get(checkpoint.prompt_start), checkpoint.classes.ids
    if start.samples:
        keys = start.keys(key_source(checkpoint, by_position(data, checkpoint).train))
        rows = rows_of_keys(checkpoint, ids, checkpoint.seed, keys)[BANK]
    elif start.takes_keys:
        return None
    else:
        rows = SeedStarts(checkpoint, ids).rows(checkpoint.seed, checkpoint.prompt_start)[BANK]
    trained = checkpoint.tensors[BANK]
    return float(torch.cosine_similarity(trained.flatten(1), rows.flatten(1), dim=1).mean())


def attack(full: Checkpoint, data: ClassificationData, name: str) -> dict[str, Any]:
    """What comes back of a class once it is erased; of the formulas, the three best."""
    case = case_of(full, data, name)
    found = {**short(measure_class(case)), "centred": with_centred(full, data, name)}
    if STARTS.get(full.prompt_start).samples:
        found["made_again"] = make_again(case, key_source(full, by_position(data, full).train)).figures()
    return found


def attack_again(full: Checkpoint, data: ClassificationData, name: str, before: dict[str, Any]) -> dict[str, Any]:
    """The same by formula alone; what was learned without data, and what is known of retrained models, stays."""
    found = short(measure_formulas(case_of(full, data, name)))
    return {**before, **found, "retrained": before.get("retrained", []), "centred": with_centred(full, data, name)}


def with_centred(full: Checkpoint, data: ClassificationData, name: str) -> dict[str, Any]:
    """What comes back where the prompts that are left were centred, and what that does to the other classes."""
    found = short(measure_formulas(case_of(full, data, name, centre_prompts=True)))
    kept = ("key", "random", "formulas", "ideas")
    pair = erase(full, [name]), erase(full, [name], centre_prompts=True)
    change = prompts_change(*pair, Asked(split=data.test, data=data.classes))
    return {**{key: found[key] for key in kept}, "answers": change.to_dict()}


def retrained(full: Checkpoint, data: ClassificationData, name: str, folder: Path) -> Sequence[Mapping[str, Any]]:
    """The best formula in a model that never saw the class, which is kept in a folder."""
    case = case_of(full, data, name)
    known = by_position(data, full)
    comparisons = Comparisons(full, known, [case.position], folder, CPU, print)
    case = dataclasses.replace(case, retrained=(comparisons.retrained().checkpoint,))
    return measure_formulas(case)["retrained"]


def short(found: Mapping[str, Any]) -> dict[str, Any]:
    """The three best formulas, and how many there are."""
    return {**found, "formulas": found["formulas"][:3], "num_formulas": len(found["formulas"])}


def case_of(full: Checkpoint, data: ClassificationData, name: str, *, centre_prompts: bool = False) -> Case:
    """A class that was erased, and up to so many samples of it and of the others."""
    known = by_position(data, full)
    position = full.classes.position(name)
    groups = Groups.of(known, [position])
    fewer = dataclasses.replace(
        groups,
        forget_test=groups.forget_test.subset(torch.arange(min(MOST_SAMPLES, len(groups.forget_test)))),
        retain_test=groups.retain_test.subset(
            torch.randperm(len(groups.retain_test), generator=torch.Generator().manual_seed(0))[:MOST_SAMPLES]
        ),
    )
    forgotten = erase(full, [name], centre_prompts=centre_prompts)
    return Case(full=full, forgotten=forgotten, groups=fewer, position=position, device=CPU, config=CONFIG)


def today(data: str, readout: str) -> list[dict[str, float]]:
    """Accuracies of the seed's start with three seeds."""
    path = RESULTS / ("recipes_fsdd.json" if data == "fsdd" else "recipes.json")
    names = [f"{data}_{readout}_seed{seed}" for seed in SEEDS]
    known = json.loads(path.read_text())["runs"]
    found = []
    for evaluation in (known[name]["evaluation"] for name in names if name in known):
        one_less = evaluation["subsets"][0]
        accuracies = evaluation["modes"]["full_bank"], one_less["retain_mean"], one_less["forget_mean"]
        found.append(dict(zip(ACCURACIES, accuracies, strict=True)))
    return found


def show(runs: Mapping[str, Any]) -> Iterator[str]:
    """The lines of two tables, in per cent, means over runs: accuracies, and what was derived of the erased class."""
    cells = [
        (data, readout, start, chosen)
        for data in (f"{kind}_{data}".strip("_") for kind in KINDS for data in CLASSES)
        for readout in ("cls", "prompt")
        for start in reversed(STARTS_SHOWN)
        if (chosen := [r for n, r in runs.items() if n.startswith(f"{data}_{readout}_seed") and r["start"] == start])
    ]
    for data, readout, start, chosen in cells:
        trained = (today(data, readout) if start == "seed" else []) or chosen
        banks = [100 * entry["full_bank"] for entry in trained]
        columns = [
            f"{data}, `{readout}`", f"`{start}`", str(len(trained)),
            f"{sum(banks) / len(banks):.1f}" + (f" ({min(banks):.1f}–{max(banks):.1f})" if banks[1:] else ""),
            mean(entry["retain_k1"] for entry in trained), mean(entry["forget_k1"] for entry in trained),
        ]  # fmt: skip
        yield f"| {' | '.join(columns)} |"
    for data, readout, start, chosen in cells:
        attacks = [entry for run in chosen for entry in run["derivable"] if "centred" in entry]
        if not attacks:
            continue
        answers = [entry["centred"]["answers"] for entry in attacks]
        columns = [
            f"{data}, `{readout}`", f"`{start}`", str(len(attacks)),
            mean(entry["full"]["selective"] for entry in attacks),
            *derived(attacks), *derived([entry["centred"] for entry in attacks]),
            mean(answer["changed"] for answer in answers),
            f"{mean(answer['before'] for answer in answers)} → {mean(answer['after'] for answer in answers)}",
            mean(way["selective"] for entry in attacks for way in entry["retrained"]),
            mean(max(way["selective"] for way in entry["learned"].values()) for entry in attacks),
        ]  # fmt: skip
        yield f"| {' | '.join(columns)} |"


def pooled(runs: Mapping[str, Any]) -> Iterator[str]:
    """A line for each start and readout, and both: of all models in how many a formula tells, and how likely by luck.

    Models in which none does are expected to show one in twenty; and the best of all formulas is above the middle 95 %
    of so few rounds in about one of sixteen.
    """
    for start in reversed(STARTS_SHOWN):
        for readout in ("cls", "prompt", ""):
            attacks = [
                entry
                for name, run in runs.items()
                for entry in run["derivable"]
                if run["start"] == start and "centred" in entry and (not readout or f"_{readout}_seed" in name)
            ]
            if not attacks:
                continue
            parts = []
            for found in (attacks, [entry["centred"] for entry in attacks]):
                count = sum(not entry["ideas"][0]["as_good"] for entry in found)
                above = sum(entry["formulas"][0]["selective"] > entry["random"]["high"] for entry in found)
                parts.append(f"{count} of {len(found)} (p = {by_luck(count, len(found)):.2g}), above in {above}")
            yield f"`{start}`, {readout or 'both readouts'}: {parts[0]}; centred {parts[1]}"


def by_luck(count: int, models: int) -> float:
    """How likely so many or more of the models tell, where each does once in twenty."""
    return sum(math.comb(models, k) * 19 ** (models - k) for k in range(count, models + 1)) / 20**models


def derived(attacks: list[dict[str, Any]]) -> Iterator[str]:
    """The largest key, S of the best formula, of as many random prompts, and in how many models a formula tells."""
    yield f"{max(entry['key']['cosine'] for entry in attacks):.2f}"
    yield mean(entry["formulas"][0]["selective"] for entry in attacks)
    yield f"{mean(entry['random']['low'] for entry in attacks)}–{mean(entry['random']['high'] for entry in attacks)}"
    yield f"{sum(not entry['ideas'][0]['as_good'] for entry in attacks)} of {len(attacks)}"


def mean(values: Iterable[float]) -> str:
    """In per cent; a dash of none."""
    found = list(values)
    return f"{100 * sum(found) / len(found):.1f}" if found else "–"


def lacking(run: Mapping[str, Any], steps: list[str]) -> list[str]:
    """Which of some figures a run that was measured does not have, of as many rounds."""
    entry = run["derivable"][0]
    rounds = entry.get("centred", {}).get("random", {}).get("rounds")
    return [step for step in steps if not entry.get(step) or (step == "centred" and rounds != CONFIG.random_rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mednist", default="", help="PATH/mednist_64.npz")
    parser.add_argument("--fsdd", default="", help="folder of the Free Spoken Digit Dataset, with train/ and test/")
    parser.add_argument("--backbone", default="", help="a small pretrained one, for the runs lora_…")
    parser.add_argument("--models", type=Path, help="folder that keeps the trained checkpoints")
    parser.add_argument("--attack", action="store_true", help="make the attacks by formula again")
    parser.add_argument("--retrain", type=Path, help="folder that keeps models retrained without the class")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    parser.add_argument("--start", default="", choices=("", *STARTS_SHOWN), help="runs from this start only")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}  # trials among them, made by hand
    runs = known.get("runs", {})
    if arguments.show:
        print("\n".join([*show(runs), "", *pooled(runs)]))
        return
    places = {}
    if arguments.mednist:
        places["mednist"] = str(Path(arguments.mednist).resolve())
    if arguments.fsdd:
        places["fsdd"] = f"audiofolder:{Path(arguments.fsdd).resolve()}"
    if arguments.backbone:
        places["backbone"] = str(Path(arguments.backbone).resolve())
    steps = [step for step, is_asked in (("centred", arguments.attack), ("retrained", arguments.retrain)) if is_asked]
    chosen = [run for run in list_runs() if run.name.startswith(arguments.only) and run.needs <= {*places}]
    chosen = [run for run in chosen if arguments.start in ("", run.start)]
    for run in chosen:
        is_known = run.name in runs
        if is_known != bool(steps) or (is_known and not lacking(runs[run.name], steps)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = trained(run, places, (arguments.models or Path(folder)) / run.name)
        if is_known:
            data, names = data_of(checkpoint), CLASSES[run.recipe.data]
            entries = dict(zip(names, runs[run.name]["derivable"], strict=True))
            if "centred" in lacking(runs[run.name], steps):
                entries = {name: attack_again(checkpoint, data, name, entry) for name, entry in entries.items()}
            for name, entry in entries.items():
                if "retrained" in steps and not entry["retrained"]:
                    entry["retrained"] = retrained(checkpoint, data, name, arguments.retrain)
            runs[run.name]["derivable"] = list(entries.values())
        else:
            command = ["pfm", "train", *run.options(SHOWN)]
            runs[run.name] = {"start": run.start, "command": " ".join(command), **measure(run, checkpoint)}
        ordered = {other.name: runs[other.name] for other in list_runs() if other.name in runs}
        config = dataclasses.asdict(CONFIG)
        write_compact_json(arguments.out, {**known, "host": host_facts(), "config": config, "runs": ordered})
        print(f"{run.name}: full bank {100 * runs[run.name]['full_bank']:.1f}", flush=True)


if __name__ == "__main__":
    main()
