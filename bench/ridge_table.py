"""What `--readout ridge` reaches and costs, beside the two readouts that are trained.

    python bench/ridge_table.py --mednist PATH/mednist_64.npz --fsdd PATH/fsdd --vit PATH/vit_cifar32 \\
        --out bench/pfm_bench/results/ridge.json

For each data set: features once, every width and penalty of the grid on a part of the training data that is held out
(the validation split where there is one, else a fifth of each class), then three projections of the chosen ones on all
training data. The trained readouts' figures are those of `recipes.json` and `recipes_fsdd.json`.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone
from pfm.backbones.raw import raw_model
from pfm.backbones.spec import describe_backbone
from pfm.data.config import AugmentConfig, DataConfig
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData, Split
from pfm.device import DeviceConfig, Processes
from pfm.evaluation.config import EvalConfig
from pfm.evaluation.evaluator import make_evaluator
from pfm.evaluation.exact_subsets import solve_subsets
from pfm.evaluation.samples import label_positions
from pfm.exact.ids import new_key
from pfm.exact.recipe import Projection, Recipe
from pfm.exact.solve import solve
from pfm.exact.sums import num_packed, sums_of
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import load_checkpoint
from pfm.model.config import LoraSettings, ModelConfig
from pfm.model.extraction import extract
from pfm.model.readouts.ridge import memory_of
from pfm.seeds import make_generator
from pfm.storage import write_json
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.run import train
from pfm_bench.reports.header import host_facts

WIDTHS = (1024, 2048)
ALPHAS = (1e-8, 1e-7, 1e-6, 1e-5)
SEEDS = (42, 2, 3)
SOLVES = (1024, 2048, 4096, 8192)
HELD_OUT = 0.2
HERE = Processes(device=torch.device("cpu"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A data set and its features."""

    data: DataConfig
    features: str = "raw"
    model_name: str = ""

    def config(self, width: int, alpha: float, seed: int, folder: Path) -> RunConfig:
        """As `pfm train` would take it."""
        name = self.model_name or raw_model(self.data.kind)
        return RunConfig(
            data=self.data,
            backbone=BackboneConfig(model_name=name),
            model=ModelConfig(readout="ridge", features=self.features, width=width, alpha=alpha),
            lora=LoraSettings(),
            train=TrainConfig(seed=seed, save_dir=str(folder), eval_every=0),
            augment=AugmentConfig(),
            evaluation=EvalConfig(),
            device=DeviceConfig(cpu=True),
        )

    def load(self) -> ClassificationData:
        """Its data."""
        backbone = BackboneConfig(model_name=self.model_name or raw_model(self.data.kind))
        return load_data(self.data, describe_backbone(backbone).storage)


def cases(mednist: str, fsdd: str, vit: str) -> dict[str, Case]:
    """Those whose data is at hand."""
    found = {"digits": Case(data=DataConfig(dataset="digits"))}
    if mednist:
        found["mednist"] = Case(data=DataConfig(dataset=mednist))
    if mednist and vit:
        found["mednist_vit_cifar32"] = Case(data=DataConfig(dataset=mednist), features="backbone", model_name=vit)
    if fsdd:
        sounds = DataConfig(dataset=f"audiofolder:{fsdd}", data_type="audio")
        found["fsdd"] = Case(data=sounds)
        found["fsdd_speaker"] = Case(
            data=dataclasses.replace(sounds, label_from="name:{digit}_{speaker}_{n}", label="speaker")
        )
    return found


def held_out(data: ClassificationData) -> tuple[Split, Split]:
    """What is fitted and what is chosen on."""
    if data.val is not None:
        return data.train, data.val
    labels = data.train.labels
    order = torch.randperm(len(labels), generator=make_generator("ridge", "held out"))
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = order[labels[order] == label]
        is_held[own[: int(len(own) * HELD_OUT)]] = True
    return data.train.subset((~is_held).nonzero()[:, 0]), data.train.subset(is_held.nonzero()[:, 0])


def choose(case: Case, data: ClassificationData) -> tuple[dict[str, float], tuple[int, float]]:
    """Accuracy on held-out data by width and penalty, and the best of them, the narrower and stronger where equal."""
    with tempfile.TemporaryDirectory() as folder:
        config = case.config(64, 1e-6, 1, Path(folder))
        checkpoint = load_checkpoint(train(config, HERE.device, lambda _: None, data=data).checkpoint)
    model = checkpoint.build_model()
    fitted, chosen_on = held_out(data)
    rows, others = (
        extract(model, split, checkpoint.preprocess, HERE, key=new_key()).rows for split in (fitted, chosen_on)
    )
    counts = np.bincount(rows.labels).tolist()
    found: dict[tuple[int, float], float] = {}
    for width in WIDTHS:
        recipe = Recipe(features={}, size=rows.values.shape[1], width=width, alpha=1.0)
        projection = Projection.draw(recipe, 1)
        sums = [sums_of([projection.project(rows.values[rows.labels == c], recipe)], width) for c in range(len(counts))]
        asked = projection.project(others.values, recipe)[:, :-1]
        for alpha in ALPHAS:
            solution = solve(sums, counts, width=width, alpha=alpha)
            answers = (asked @ solution.weight.T + solution.bias).argmax(axis=1)
            found[width, alpha] = float((answers == others.labels).mean())
            print(f"  {width:>5} {alpha:g}: {found[width, alpha]:.4f}", flush=True)
    best = max(found, key=lambda key: (round(found[key], 3), -key[0], key[1]))
    return {f"{width}/{alpha:g}": value for (width, alpha), value in found.items()}, best


def measure(case: Case, data: ClassificationData, width: int, alpha: float, seed: int) -> dict[str, Any]:
    """One fit: accuracies, forgetting, an exact erasure, what it costs."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(case.config(width, alpha, seed, Path(folder)), HERE.device, lambda _: None, data=data)
        size = result.checkpoint.stat().st_size
        checkpoint = load_checkpoint(result.checkpoint)
    model = checkpoint.build_model()
    evaluator = make_evaluator(
        data.test, label_positions(model.classes, data.classes), checkpoint.preprocess, HERE, EvalConfig(), seed=seed
    )
    evaluation = evaluator.evaluate(model, ks=[1], max_subsets=None)
    by_rows = evaluation.subsets[0].summary()
    started = time.monotonic()
    smaller = erase(checkpoint, [data.classes.names[0]])
    erase_s = time.monotonic() - started
    memory = memory_of(smaller)
    exact = solve_subsets(evaluator, model, evaluation, memory_of(checkpoint)).subsets[0].summary()
    return {
        "seed": seed,
        "full_bank": evaluation.modes["full_bank"],
        "retain_k1": by_rows["retain_mean"],
        "retain_k1_exact": exact["retain_mean"],
        "forget_k1": by_rows["forget_mean"],
        "fit_s": round(result.seconds, 2),
        "features_per_s": round(result.samples_per_s, 1),
        "erase_s": round(erase_s, 2),
        "checkpoint_bytes": size,
        "memory_bytes": memory_of(checkpoint).size_bytes,
        "sums_bytes": num_packed(width) * 8 * len(data.classes),
        "digest": checkpoint.exact["digest"],
        "digest_without_first_class": memory.digest,
    }


def solves() -> dict[str, float]:
    """Seconds of one solve by width, for ten classes."""
    found: dict[str, float] = {}
    for width in SOLVES:
        recipe = Recipe(features={}, size=256, width=width, alpha=1e-6)
        values = np.random.default_rng(0).integers(-2048, 2048, (600, 256)).astype(np.int16)
        memory = sums_of([Projection.draw(recipe, 0).project(values, recipe)], width)
        started = time.monotonic()
        solve((memory for _ in range(10)), [600] * 10, width=width, alpha=1e-6)
        found[str(width)] = round(time.monotonic() - started, 2)
        print(f"solve {width}: {found[str(width)]} s", flush=True)
    return found


def rates(names: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Features per second of backbones of random weights, beside a plain loop of one thread."""
    found: dict[str, dict[str, float]] = {}
    for name, path in names.items():
        spec = describe_backbone(BackboneConfig(model_name=path))
        side = spec.input_shape[-1]
        count = 64 if spec.hidden_size > 400 else 128
        split = Split(
            torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8), torch.arange(count) % 2,
        )  # fmt: skip
        preprocess = spec.preprocess or spec.family.constant_preprocess(spec.config)
        backbone = build_backbone(spec, seed=1)
        from pfm.classes import ClassList
        from pfm.model.classifier import PromptedClassifier

        config = ModelConfig(readout="ridge", width=2048, tune="prompts", prompt_tokens=0)
        model = PromptedClassifier(backbone, ClassList.from_names(["a", "b"]), config, None).eval()
        started = time.monotonic()
        extract(model, split, preprocess, HERE, key=new_key())
        ours = time.monotonic() - started
        started = time.monotonic()
        with torch.inference_mode():
            for part in split.inputs.split(32):
                backbone.run_blocks(backbone.embed(preprocess(part)), 0, backbone.num_layers)
        plain = time.monotonic() - started
        found[name] = {"features_per_s": round(count / ours, 1), "plain_loop_per_s": round(count / plain, 1)}
        print(name, found[name], flush=True)
    return found


def main() -> None:
    """Measure what is asked for and add it to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mednist", default="", help="PATH/mednist_64.npz")
    parser.add_argument("--fsdd", default="", help="PATH/fsdd")
    parser.add_argument("--vit", default="", help="a small pretrained ViT in Hugging Face layout")
    parser.add_argument("--only", default="", help="the data sets whose name has this in it")
    parser.add_argument("--no_speed", action="store_true", help="leave out solves and features per second")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for name, case in cases(arguments.mednist, arguments.fsdd, arguments.vit).items():
        if arguments.only not in name:
            continue
        data = case.load()
        print(name, flush=True)
        grid, (width, alpha) = choose(case, data)
        runs = [measure(case, data, width, alpha, seed) for seed in SEEDS]
        mean = {key: statistics.fmean(run[key] for run in runs) for key in ("full_bank", "retain_k1", "retain_k1_exact",
                "forget_k1", "fit_s", "erase_s")}  # fmt: skip
        results[name] = {"width": width, "alpha": alpha, "chosen_on": grid, "mean": mean, "runs": runs}
        print(f"  width {width}, alpha {alpha:g}: {mean}", flush=True)
        _write(arguments.out, results)
    if not arguments.no_speed:
        results["solve_s"] = solves()
        results["features"] = rates(
            {
                "vit_tiny_patch16_224": "scratch:vit_tiny_patch16_224",
                "vit_base_patch16_224": "scratch:vit_base_patch16_224",
            }
        )
        _write(arguments.out, results)


def _write(path: Path, results: Mapping[str, Any]) -> None:
    command = "python bench/ridge_table.py --mednist PATH/mednist_64.npz --fsdd PATH/fsdd --vit PATH/vit_cifar32"
    write_json(path, {"command": command, "host": host_facts(), **results})


if __name__ == "__main__":
    main()
