"""Targets and recipes beside models that never saw the class: one JSON a data set, and the tables of docs/results.md.

    python bench/audit_table.py --data digits --out bench/pfm_bench/results/targets_digits.json
    python bench/audit_table.py --data lora --mednist PATH/mednist_64.npz --backbone PATH/vit_cifar32 \
        --out bench/pfm_bench/results/targets_lora.json
    python bench/audit_table.py --data fsdd --fsdd PATH/fsdd --out bench/pfm_bench/results/targets_fsdd.json

    python bench/audit_table.py --data fsdd --fsdd PATH/fsdd --merge MORE.json \
        --out bench/pfm_bench/results/targets_fsdd.json

A case is a variant and a class: the full models of three seeds, each without the class, beside three models that were
retrained without it. `--choose` does the same on other classes and on held-out samples: recipes are chosen there.
What the file holds is not run again, and models are kept in `--work` (they hold the classes, so delete the folder
afterwards). It makes only the attacks that a table shows; `pfm audit` makes all of them. `--merge` takes cases in that
another machine made; all cases of a variant are to be of one, and the file says which.
"""

import argparse
import dataclasses
import functools
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch

from audit_figures import tables
from audit_settings import SETTINGS, VARIANTS, config_of, data_for, few, options_of
from many_hosts import Cases
from pfm.audit import figures, thresholds
from pfm.audit.comparisons.data import by_position
from pfm.audit.comparisons.trained import Comparisons
from pfm.audit.config import QUICK
from pfm.audit.groups import Groups
from pfm.audit.relearning import SCOPES, Lesson, mean_area, relearn
from pfm.audit.resurrection import Attacker, choose_samples
from pfm.audit.subject import Loaded, Subject, as_subject
from pfm.backbones.spec import describe_backbone
from pfm.data.splits import ClassificationData, Split
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.seeds import make_generator
from pfm.storage import write_compact_json
from pfm.training.run import train
from pfm_bench.reports.packed import pack

SEEDS = (42, 2, 3)
ATTACK = dataclasses.replace(QUICK, attack_seeds=5, relearn_steps=(2, 5, 10))

OWN, REST = 100, 200  # test samples of the class and of others, that attacks are measured on


class KeptTrunks:
    """What a frozen trunk makes of a batch, computed once for all models: they share their backbone and its layer."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, ...], torch.Tensor] = {}
        self.compute: Callable[[PromptedClassifier, torch.Tensor], torch.Tensor] = PromptedClassifier.trunk

    def install(self) -> None:
        """In every model of this process; on the CPU."""
        setattr(PromptedClassifier, "trunk", lambda model, inputs: self.trunk(model, inputs))  # noqa: B010  # a method

    def trunk(self, model: PromptedClassifier, inputs: torch.Tensor) -> torch.Tensor:
        """Of a model; a solved readout's ends in the model's own projection, which no other shares."""
        if not model.trunk_is_frozen or not model.readout.sees_prompts:
            return self.compute(model, inputs)
        key = (model.config.prompt_layer, *inputs.shape, zlib.crc32(inputs.contiguous().numpy().data))
        if key not in self.kept:
            with torch.no_grad():
                self.kept[key] = self.compute(model, inputs)
        return self.kept[key]


@dataclass(frozen=True)
class Bench:
    """Where things are.

    Attributes:
        places: of data and backbones, by name.
        is_choosing: on other classes and held-out samples.
    """

    data: str
    places: dict[str, str]
    work: Path
    is_choosing: bool
    seeds: tuple[int, ...]
    device: torch.device

    @functools.cached_property
    def samples(self) -> ClassificationData:
        variant = next(iter(VARIANTS))
        config = config_of(self.data, variant, 0, self.places, str(self.work))
        storage = describe_backbone(config.backbone).storage
        return data_for(config.data, storage, SETTINGS[self.data], is_choosing=self.is_choosing)

    def full(self, variant: str, seed: int) -> Checkpoint:
        """Trained unless it is there."""
        part = f"{self.data}{'_choosing' if self.is_choosing else ''}"
        name = variant.replace(", ", "_").replace(" ", "-")
        folder = self.work / part / f"{name}_{seed}"

        def whole() -> list[Path]:
            return [path for path in folder.glob("*.pt") if not path.stem.endswith("_resume")]  # of a run that stopped

        if not whole():
            config = config_of(self.data, variant, seed, self.places, str(folder))
            train(config, self.device, lambda _: None, data=self.samples)
        (path,) = whole()
        return load_checkpoint(path)


def run_case(bench: Bench, variant: str, label: str) -> dict[str, Any]:
    """Figures of each model, in [0, 1]."""
    started = time.process_time()
    forgotten, retrained, answers = [], [], []
    for seed in bench.seeds:
        full = bench.full(variant, seed)
        data = by_position(bench.samples, full)
        position = full.classes.position(label)
        groups = Groups.of(data, [position])
        comparisons = Comparisons(full, data, [position], bench.work / "models", bench.device, lambda _: None)
        fewer = dataclasses.replace(data, test=few(data.test, position, OWN, REST))
        attacker = Attacker(fewer, [position], ATTACK, bench.device)
        fresh = comparisons.retrained().checkpoint
        whole, oracle = Loaded.of(full, bench.device), Loaded.of(fresh, bench.device)
        smaller = erase(full, [label])
        erased = Loaded.of(smaller, bench.device)
        ids = full.classes.ids
        own_answers = as_subject("full", whole, ids).log_probabilities(data.test).argmax(dim=1)
        out = as_subject("out", whole, ids, without=[ids[position]])
        is_own = data.test.labels == position
        said = out.log_probabilities(groups.forget_test).argmax(dim=1)
        row = {
            "seed": seed,
            "full": share(own_answers == data.test.labels),
            "known": share((own_answers == data.test.labels)[is_own]),
            "prompt_out": share(said == position),
        }
        mine, log_p = inside(as_subject("forgotten", erased, ids), groups)
        forgotten.append({**row, **mine, **attacked(attacker, erased)})
        theirs, oracle_p = inside(as_subject("retrained", oracle, ids), groups)
        retrained.append({"seed": seed, **theirs, **attacked(attacker, oracle)})
        answers.append((log_p, oracle_p))
        if SETTINGS[bench.data].is_relearned and whole.model.readout.sees_prompts:
            lesson = lesson_of(fewer, position, full, seed, bench.device)
            for rows, checkpoint in ((forgotten, smaller), (retrained, fresh)):
                rows[-1] |= relearned(checkpoint, lesson, seed)
    for number, row in enumerate(forgotten):
        row["js"] = mean_js(answers[number][0], [p for _, p in answers])
    for number, row in enumerate(retrained):  # what they differ by among themselves
        others = [p for at, (_, p) in enumerate(answers) if at != number]
        row["js"] = mean_js(answers[number][1], others) if others else None
    return {"forgotten": forgotten, "retrained": retrained, "cpu_seconds": round(time.process_time() - started, 1)}


def inside(subject: Subject, groups: Groups) -> tuple[dict[str, float], torch.Tensor]:
    """What answers alone tell, and the log probabilities for the class's test samples."""
    log_p = subject.log_probabilities(groups.forget_test)
    retained = subject.log_probabilities(groups.retain_test).argmax(dim=1)
    members, strangers = (
        thresholds.negative_entropy(part) for part in (subject.log_probabilities(groups.forget_train), log_p)
    )
    return {
        "retain": share(retained == groups.retain_test.labels),
        "entropy": float(figures.normalised_entropy(log_p).mean()),
        "unknown": share(log_p.argmax(dim=1) == log_p.shape[1] - 1),
        "membership": thresholds.attack(members, strangers, make_generator("bootstrap"))["auc"],
    }, log_p


def attacked(attacker: Attacker, target: Loaded) -> dict[str, float]:
    """AUROC of the class brought back from n samples, the mean of the attacks."""
    return {
        f"auroc_{size}": float(attacker.attack(target, size=size, tokens=1).auroc.mean()) for size in attacker.sizes
    }


def lesson_of(data: ClassificationData, position: int, full: Checkpoint, seed: int, device: torch.device) -> Lesson:
    """Ten samples of the class and ten of the others, other ones for each seed."""
    groups = Groups.of(data, [position])

    def drawn(split: Split, name: str) -> Split:
        return split.subset(choose_samples(torch.arange(len(split)), ATTACK.relearn_size, 1, name, seed)[0])

    learned = drawn(groups.forget_train, "relearned"), drawn(groups.retain_train, "kept")
    tested = groups.forget_test, groups.retain_test
    return Lesson.of(learned, tested, full=full, positions=[position], device=device)


def relearned(checkpoint: Checkpoint, lesson: Lesson, seed: int) -> dict[str, float]:
    """AUROC of the class that is added and fine-tuned, the mean over some numbers of steps, as `pfm audit` has it."""
    found = {}
    for scope in SCOPES:
        steps = relearn(checkpoint, lesson, scope=scope, steps=ATTACK.relearn_steps, lr=ATTACK.relearn_lr, seed=seed)
        found[f"relearned_{scope.partition(' ')[0]}"] = mean_area(steps).value
    return found


def share(hits: torch.Tensor) -> float:
    return float(hits.double().mean())


def mean_js(log_p: torch.Tensor, others: list[torch.Tensor]) -> float:
    return sum(float(figures.js_divergence(log_p, other).mean()) for other in others) / len(others)


def document_of(bench: Bench, found: Cases) -> dict[str, Any]:
    """The file."""
    order = {name: number for number, name in enumerate(VARIANTS)}
    names = sorted(found.runs, key=lambda name: order[name.partition(";")[0]])
    variants = dict.fromkeys(name.partition(";")[0] for name in names)
    return {
        "command": f"python bench/audit_table.py --data {bench.data}" + " --choose" * bench.is_choosing,
        "training": {variant: f"pfm train {options_of(bench.data, variant)}" for variant in variants},
        "samples": {name: len(split) for name, split in bench.samples.splits()},
        "attack": dataclasses.asdict(ATTACK),
        "hosts": found.hosts,
        "note": "figures in [0, 1]; seconds of the processor, one thread",
        "runs": pack({name: found.runs[name] for name in names}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SETTINGS), required=True)
    parser.add_argument("--mednist", default="", help="PATH/mednist_64.npz")
    parser.add_argument("--fsdd", default="", help="folder of the Free Spoken Digit Dataset, with train/ and test/")
    parser.add_argument("--backbone", default="", help="a small pretrained one, for --data lora")
    parser.add_argument("--variants", default="", help="separated by semicolons; default: all")
    parser.add_argument("--classes", default="", help="names, separated by commas")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--choose", action="store_true", dest="is_choosing")
    parser.add_argument("--device", default="cpu", help="of all that is trained and attacked")
    parser.add_argument("--merge", type=Path, nargs="+", help="run nothing: take the cases of these files in")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("audit-table"))
    parser.add_argument("--print", action="store_true", dest="is_printed", help="run nothing, print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    if device.type == "cpu":
        KeptTrunks().install()
    found = Cases.read(arguments.out)
    if arguments.is_printed:
        print(tables(found.runs))
        return
    setting = SETTINGS[arguments.data]
    places = {name: str(Path(value).resolve()) for name in ("mednist", "fsdd", "backbone")
              if (value := getattr(arguments, name))}  # fmt: skip
    if "fsdd" in places:
        places["fsdd"] = f"audiofolder:{places['fsdd']}"
    seeds = tuple(map(int, arguments.seeds.split(",")))
    bench = Bench(arguments.data, places, arguments.work, arguments.is_choosing, seeds, device)
    if arguments.merge:
        for path in arguments.merge:
            found.take(Cases.read(path))
        write_compact_json(arguments.out, document_of(bench, found))
        return
    labels = (
        arguments.classes.split(",") if arguments.classes else setting.choosing if bench.is_choosing else setting.shown
    )
    for variant in arguments.variants.split(";") if arguments.variants else VARIANTS:
        for label in labels:
            name = f"{variant}; {label}"
            if name in found.runs:
                continue
            started = time.monotonic()
            found.add(name, run_case(bench, variant, label), device.type)
            write_compact_json(arguments.out, document_of(bench, found))
            seconds = found.runs[name]["cpu_seconds"]
            print(f"{name}: {time.monotonic() - started:.0f} s, {seconds:.0f} s of the processor",
                  file=sys.stderr, flush=True)  # fmt: skip
    print(tables(found.runs))


if __name__ == "__main__":
    main()
