"""What of a class that was erased from a bundle can be derived from the bundle alone, for every form of its graph.

    python bench/starts_table.py --out starts.json --models MODELS --only digits
    python bench/bundle_attack.py --models MODELS --out bench/pfm_bench/results/bundle_attack.json

The first command trains the models. The second exports each in every precision, erases a class from the bundle, and
attacks what is left as somebody would who has nothing else: the bank is read out of its file, the graph is run by ONNX
Runtime, and no model of torch answers anything. The formulas are those of `pfm audit` (*derivable*). What stands in the
file already is not measured again; `--show` prints the table of the documentation.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import safetensors.numpy
import torch

from pfm.audit.comparisons.data import by_position
from pfm.audit.derivable import Candidates, Survivors, derive, draw_random, find_seed
from pfm.audit.derivable import SeedStarts as Starts
from pfm.audit.figures import interval
from pfm.audit.groups import Groups
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.seeds import make_generator
from pfm.storage import write_json
from pfm_bench.reports.header import host_facts
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.signature import INPUT_BIAS, INPUT_PROMPTS, INPUT_WEIGHT, MODEL
from starts_table import CLASSES, MOST_SAMPLES, data_of, list_runs

Floats = npt.NDArray[np.float32]
DRAWS = 40
SEEDS = range(100)


@dataclass(frozen=True)
class Attacked:
    """A bundle's files and nothing else.

    Attributes:
        bank: by tensor name.
        ids: of the classes that are left, in the order in which they go into the graph.
        unknown: score of the answer `unknown`; -inf where there is none.
    """

    session: onnxruntime.InferenceSession
    bank: Mapping[str, Floats]
    ids: tuple[int, ...]
    unknown: float

    @classmethod
    def of(cls, folder: Path) -> "Attacked":
        manifest = json.loads((folder / "manifest.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        score = manifest.get("unknown_score")
        return cls(
            onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"]),
            safetensors.numpy.load_file(folder / BANK),
            tuple(entry["id"] for entry in manifest["classes"]),
            -np.inf if score is None else score,
        )

    def answers(self, inputs: Floats, prompt: Floats, row: Floats) -> npt.NDArray[np.int64]:
        """Position of each answer among the classes left, the new class behind them; -1 for `unknown`."""
        feed = {self.session.get_inputs()[0].name: inputs}
        prompts = [*(self.bank[f"prompt.{i}"] for i in self.ids), prompt]
        feed[INPUT_PROMPTS] = np.concatenate(prompts)  # (K·m + m, D)
        if INPUT_WEIGHT in {entry.name for entry in self.session.get_inputs()}:
            feed[INPUT_WEIGHT] = np.stack([*(self.bank[f"weight.{i}"] for i in self.ids), row[:-1]])
            feed[INPUT_BIAS] = np.stack([*(self.bank[f"bias.{i}"] for i in self.ids), row[-1]])
        scores = np.asarray(self.session.run(None, feed)[0])
        return np.where(scores.max(axis=1) > self.unknown, scores.argmax(axis=1), -1)


@dataclass(frozen=True)
class Asked:
    """What is asked: model inputs of the class and of the others, with their positions among the classes left."""

    forget: Floats
    retain: Floats
    positions: npt.NDArray[np.int64]

    def back(self, attacked: Attacked, prompt: Floats, row: Floats) -> dict[str, float]:
        """How far the class comes back with a prompt and a row."""
        forget = float((attacked.answers(self.forget, prompt, row) == len(attacked.ids)).mean())
        retain = float((attacked.answers(self.retain, prompt, row) == self.positions).mean())
        return {"selective": 0.5 * (forget + retain), "forget": forget, "retain": retain}


def asked(checkpoint: Checkpoint, name: str) -> Asked:
    """As `starts_table` asks."""
    position = checkpoint.classes.position(name)
    groups = Groups.of(by_position(data_of(checkpoint), checkpoint), [position])
    chosen = torch.randperm(len(groups.retain_test), generator=torch.Generator().manual_seed(0))[:MOST_SAMPLES]
    retain = groups.retain_test.subset(chosen)
    labels = retain.labels.numpy()
    forget = groups.forget_test.subset(torch.arange(min(MOST_SAMPLES, len(groups.forget_test))))
    return Asked(
        checkpoint.preprocess(forget.inputs).numpy(),
        checkpoint.preprocess(retain.inputs).numpy(),
        labels - (labels > position),
    )


def measure(checkpoint: Checkpoint, precision: str, name: str) -> dict[str, Any]:
    """Export, erase, attack."""
    number = checkpoint.classes.ids[checkpoint.classes.position(name)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        export_bundle(checkpoint, folder, form=GraphForm(precision=precision))
        whole = safetensors.numpy.load_file(folder / BANK)
        Bundle.open(folder).erase(name)
        attacked, samples = Attacked.of(folder), asked(checkpoint, name)
        shutil.rmtree(folder)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in attacked.bank.items()}
    survivors = Survivors.of_bank(tensors, checkpoint.classes.ids, number)
    starts = Starts(checkpoint, checkpoint.classes.ids)
    seed, match = find_seed(survivors, starts, SEEDS)
    found = derive(
        survivors,
        {
            f"the {start} start of the recorded seed": starts.rows(checkpoint.seed, start)
            for start in ("seed", "common")
        },
    )
    own = np.append(whole.get(f"weight.{number}", np.zeros(found.row.shape[1] - 1)), whole.get(f"bias.{number}", 0.0))
    ways = [{"way": way, **back} for way, back in zip(found.names, tried(attacked, samples, found), strict=True)]
    drawn = draw_random(found, DRAWS, make_generator(0, "random prompts"))
    random = list(tried(attacked, samples, drawn))
    low, high = interval(torch.tensor([back["selective"] for back in random], dtype=torch.float64))
    return {
        "name": name,
        "full": samples.back(attacked, whole[f"prompt.{number}"], own.astype(np.float32)),
        "seed_found": seed,
        "seed_match": match,
        "random": {
            "draws": DRAWS, "low": low, "high": high,
            **{key: float(np.mean([back[key] for back in random])) for key in ("selective", "forget", "retain")},
        },
        "num_formulas": len(ways),
        "formulas": sorted(ways, key=lambda way: -way["selective"])[:3],
    }  # fmt: skip


def tried(attacked: Attacked, samples: Asked, candidates: Candidates) -> Iterator[dict[str, float]]:
    """How far each candidate brings the class back."""
    for prompt, row in zip(candidates.prompt.numpy(), candidates.row.numpy(), strict=True):
        yield samples.back(attacked, prompt, row)


def show(runs: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table, in per cent."""
    for name, entry in runs.items():
        data, readout, *_ = name.split("_")
        best, random = entry["formulas"][0], entry["random"]
        figures = (
            entry["full"]["selective"], best["selective"], best["forget"], best["retain"], random["selective"],
            random["high"],
        )  # fmt: skip
        columns = [
            f"{data}, `{readout}`",
            f"`{entry['start']}`",
            entry["precision"],
            *(f"{100 * f:.1f}" for f in figures),
        ]
        yield f"| {' | '.join(columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="what starts_table.py --models kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="models whose name begins so")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else {}
    if arguments.show:
        print("\n".join(show(runs)))
        return
    firsts = [
        run for run in list_runs() if run.recipe.seed == 42 and run.number <= 1 and run.name.startswith(arguments.only)
    ]
    names = [f"{run.name}_{precision}" for run in firsts for precision in PRECISIONS.names()]
    for run in firsts:
        for path in sorted((arguments.models / run.name).glob("*.pt")):
            checkpoint = load_checkpoint(path)
            for precision in PRECISIONS.names():
                name = f"{run.name}_{precision}"
                if name in runs:
                    continue
                found = measure(checkpoint, precision, CLASSES[run.recipe.data][0])
                runs[name] = {"start": run.start, "precision": precision, **found}
                ordered = {other: runs[other] for other in names if other in runs}
                write_json(arguments.out, {"host": host_facts(), "runs": ordered})
                print(f"{name}: {100 * found['formulas'][0]['selective']:.1f}", flush=True)


if __name__ == "__main__":
    main()
