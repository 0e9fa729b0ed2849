"""What of a class that was erased from a bundle can be derived from the bundle alone, for every form of its graph.

    python bench/starts_table.py --out starts.json --models MODELS --only digits
    python bench/bundle_attack.py --models MODELS --out bench/pfm_bench/results/bundle_attack.json

The first command trains the models. The second exports each in every form, erases a class from the bundle, without and
with its prompts centred, and attacks what is left as somebody would who has nothing else: the bank is read out of its
file, the graph is run by ONNX Runtime, and no model of torch answers anything. The formulas, and the random prompts
they are compared with, are those of `pfm audit` (*derivable*). Models whose prompts enter behind some blocks are
exported in two graphs. What stands in the file already, of as many rounds, is not measured again; `--show` prints the
table of the documentation.
"""

import argparse
import dataclasses
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

from pfm.audit.attacks.derivable import candidates_of, of_ideas, summed_up
from pfm.audit.by_chance import compare_with_chance
from pfm.audit.comparisons.data import by_position
from pfm.audit.derivable import Candidates, Survivors, nearest
from pfm.audit.groups import Groups
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.seeds import make_generator
from pfm.storage import write_compact_json
from pfm_bench.reports.header import host_facts
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.signature import HEAD, INPUT_BIAS, INPUT_LENS, INPUT_PROMPTS, INPUT_WEIGHT, MODEL, TRUNK
from starts_table import CLASSES, CONFIG, KINDS, MOST_SAMPLES, SEEDS, Run, data_of, list_runs

Floats = npt.NDArray[np.float32]
FORMS = {
    "fp32": GraphForm(),
    "fp16": GraphForm(precision="fp16"),
    "bf16": GraphForm(precision="bf16"),
    "int8": GraphForm(precision="int8"),
    "per request": GraphForm(per_request_prompts=True),
    "split": GraphForm(split=True),
}


@dataclass(frozen=True)
class Attacked:
    """A bundle's files and nothing else.

    Attributes:
        trunk: the graph that runs first, of two; None of one.
        bank: by tensor name.
        ids: of the classes that are left, in the order in which they go into the graph.
        unknown: score of the answer `unknown`; -inf where there is none.
    """

    trunk: onnxruntime.InferenceSession | None
    graph: onnxruntime.InferenceSession
    bank: Mapping[str, Floats]
    ids: tuple[int, ...]
    unknown: float

    @classmethod
    def of(cls, folder: Path) -> "Attacked":
        manifest = json.loads((folder / "manifest.json").read_text())
        is_split = (folder / TRUNK).exists()
        score = manifest.get("unknown_score")
        return cls(
            _session(folder / TRUNK) if is_split else None,
            _session(folder / (HEAD if is_split else MODEL)),
            safetensors.numpy.load_file(folder / BANK),
            tuple(entry["id"] for entry in manifest["classes"]),
            -np.inf if score is None else score,
        )

    def ahead(self, inputs: Floats) -> Floats:
        """What goes into the graph that the prompts enter."""
        if self.trunk is None:
            return inputs
        return np.asarray(self.trunk.run(None, {self.trunk.get_inputs()[0].name: inputs})[0])

    def scores(self, tokens: Floats, prompt: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Scores with one more prompt there: of the classes left and `unknown` (B, C + 1), of the new class (B, R).

        Args:
            rows: (R, D + 1) that the new class may have, of any values where classes have none.
        """
        names = {entry.name for entry in self.graph.get_inputs()}
        feed: dict[str, npt.NDArray[Any]] = {self.graph.get_inputs()[0].name: tokens}
        prompts = np.concatenate([*(self.bank[f"prompt.{i}"] for i in self.ids), prompt])  # (K·m + m, D)
        if INPUT_LENS in names:
            prompts = np.broadcast_to(prompts, (len(tokens), *prompts.shape))
            feed[INPUT_LENS] = np.full(len(tokens), len(self.ids) + 1, np.int32)
        feed[INPUT_PROMPTS] = prompts
        if INPUT_WEIGHT in names:  # a logit is of its row alone: the graph takes any number of rows
            feed[INPUT_WEIGHT] = np.concatenate([*(self.bank[f"weight.{i}"][None] for i in self.ids), rows[:, :-1]])
            feed[INPUT_BIAS] = np.concatenate([*(self.bank[f"bias.{i}"][None] for i in self.ids), rows[:, -1]])
        scores = np.asarray(self.graph.run(None, feed)[0])
        left = np.concatenate([scores[:, : len(self.ids)], np.full((len(scores), 1), self.unknown)], axis=1)
        return left, np.broadcast_to(scores[:, len(self.ids) :], (len(scores), len(rows)))


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Asked:
    """What is asked: model inputs of the class and of the others, with their positions among the classes left."""

    forget: Floats
    retain: Floats
    positions: npt.NDArray[np.int64]

    def back(self, attacked: Attacked, prompt: Floats, rows: Floats) -> Iterator[dict[str, float]]:
        """How far the class comes back with a prompt, and each row (R, D + 1)."""
        left, new = attacked.scores(self.forget, prompt, rows)
        others, against = attacked.scores(self.retain, prompt, rows)
        is_right = others.argmax(axis=1) == self.positions
        for own, other in zip(new.T, against.T, strict=True):
            forget = float((own > left.max(axis=1)).mean())
            retain = float((is_right & (other <= others.max(axis=1))).mean())
            yield {"selective": 0.5 * (forget + retain), "forget": forget, "retain": retain}


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


def measure(checkpoint: Checkpoint, form: GraphForm, name: str) -> dict[str, Any]:
    """Export, erase, attack; without and with the prompts centred."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        export_bundle(checkpoint, folder, form=form)
        other = shutil.copytree(folder, Path(temporary) / "other")
        whole = safetensors.numpy.load_file(folder / BANK)
        samples = asked(checkpoint, name)
        found = measure_erased(checkpoint, folder, whole, samples, name)
        centred = measure_erased(checkpoint, other, whole, samples, name, centre_prompts=True)
    return {"name": name, **found, "centred": centred}


def measure_erased(
    checkpoint: Checkpoint,
    folder: Path,
    whole: Mapping[str, Floats],
    samples: Asked,
    name: str,
    *,
    centre_prompts: bool = False,
) -> dict[str, Any]:
    """Erase a class from a bundle, and attack.

    Args:
        whole: the bank of before.
    """
    number = checkpoint.classes.ids[checkpoint.classes.position(name)]
    Bundle.open(folder).erase(name, centre_prompts=centre_prompts)
    attacked = Attacked.of(folder)
    samples = dataclasses.replace(samples, forget=attacked.ahead(samples.forget), retain=attacked.ahead(samples.retain))
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in attacked.bank.items()}
    survivors = Survivors.of_bank(tensors, checkpoint.classes.ids, number)
    found, seed, match = candidates_of(checkpoint, survivors, CONFIG)
    own = np.append(whole.get(f"weight.{number}", np.zeros(found.row.shape[1] - 1)), whole.get(f"bias.{number}", 0.0))
    ways = [{"way": way, **back} for way, back in zip(found.names, tried(attacked, samples, found), strict=True)]
    claimed: list[float] = []

    def attack(drawn: Candidates) -> torch.Tensor:
        backs = tried(attacked, samples, drawn)
        claimed.extend(back["forget"] for back in backs)
        return torch.tensor([back["selective"] for back in backs], dtype=torch.float64)

    selective = torch.tensor([way["selective"] for way in ways], dtype=torch.float64)
    chance = compare_with_chance(
        found, selective, attack, rounds=CONFIG.random_rounds, generator=make_generator(0, "random prompts")
    )
    way, cosine = nearest(found, survivors, torch.from_numpy(whole[f"prompt.{number}"]))
    return {
        "key": {"way": way.partition(";")[0], "cosine": cosine},
        "full": next(samples.back(attacked, whole[f"prompt.{number}"], own.astype(np.float32)[None])),
        "seed_found": seed,
        "seed_match": match,
        "random": summed_up(chance, float(np.mean(claimed[: chance.rounds.numel()]))),
        "num_formulas": len(ways),
        "formulas": sorted(ways, key=lambda way: -way["selective"])[:1],
        "ideas": of_ideas(chance),
    }


def list_attacked() -> list[Run]:
    """Two models of each cell, the first of each before any second: of secret starts by keys, of others by seeds."""

    def number(run: Run) -> int:
        return run.number or 1 + SEEDS.index(run.recipe.seed)

    return sorted((run for run in list_runs() if number(run) <= 2), key=number)


def tried(attacked: Attacked, samples: Asked, candidates: Candidates) -> list[dict[str, float]]:
    """How far each candidate brings the class back; those with the same prompt are asked for together."""
    distinct, place = torch.unique(candidates.prompt, dim=0, return_inverse=True)
    found: list[dict[str, float]] = [{}] * len(candidates.names)
    for number, prompt in enumerate(distinct.numpy()):
        chosen = (place == number).nonzero().flatten()
        backs = samples.back(attacked, prompt, candidates.row[chosen].numpy())
        for at, back in zip(chosen.tolist(), backs, strict=True):
            found[at] = back
    return found


def show(runs: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table, in per cent."""
    for name, entry in runs.items():
        kind = next((kind for kind in KINDS if kind and name.startswith(f"{kind}_")), "")
        data, readout, *_ = name.removeprefix(f"{kind}_").split("_")
        columns = [
            ", ".join(part for part in (data, kind, f"`{readout}`") if part),
            f"`{entry['start']}`",
            entry["form"],
            f"{100 * entry['full']['selective']:.1f}",
        ]
        for found in (entry, entry["centred"]):
            worst, random = found["ideas"][0], found["random"]
            tells = "**" if not worst["as_good"] else ""
            columns += [
                f"{100 * found['formulas'][0]['selective']:.1f}",
                f"{100 * random['low']:.1f}–{100 * random['high']:.1f}",
                f"{tells}{worst['as_good']} of {worst['rounds']}{tells}",
                f"{found['key']['cosine']:.2f}",
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
    chosen = list_attacked()
    names = [f"{run.name}_{form}" for run in chosen for form in FORMS]
    for run in chosen:
        if not run.name.startswith(arguments.only):
            continue
        for path in sorted((arguments.models / run.name).glob("*.pt")):
            checkpoint = load_checkpoint(path)
            for form_name, form in FORMS.items():
                name = f"{run.name}_{form_name}"
                # two graphs where the prompts enter behind some blocks, and all others where they enter first
                known = runs.get(name, {}).get("centred", {}).get("random", {}).get("rounds") == CONFIG.random_rounds
                if known or form.split != bool(checkpoint.model.prompt_layer):
                    continue
                found = measure(checkpoint, form, CLASSES[run.recipe.data][0])
                runs[name] = {"start": run.start, "form": form_name, **found}
                ordered = {other: runs[other] for other in names if other in runs}
                write_compact_json(arguments.out, {"host": host_facts(), "runs": ordered})
                print(f"{name}: {100 * found['formulas'][0]['selective']:.1f}", flush=True)


if __name__ == "__main__":
    main()
