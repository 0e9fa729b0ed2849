"""What `--readout ridge` reaches and costs, beside the two readouts that are trained.

    python bench/ridge_table.py --mednist PATH/mednist_64.npz --fsdd PATH/fsdd --vit PATH/vit_cifar32 \\
        --out bench/pfm_bench/results/ridge.json

For each data set: features once, every width and penalty of the grid on a part of the training data that is held out
(the validation split where there is one, else a fifth of each class), then three projections of the chosen ones on all
training data. The trained readouts' figures are those of `recipes.json` and `recipes_fsdd.json`; on the small ViT they
are trained here, with LoRA in the upper half of its blocks (`LORA`).

What the file has already is not measured again, so that the script can be stopped; `--again` starts anew.
`--only speed` measures solves, features per second beside a plain loop, and one story of fit, forget, export, serve and
learn for backbones of random weights: some five minutes on quiet cores.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import PRESETS
from pfm.backbones.loading import build_backbone
from pfm.backbones.raw import raw_model
from pfm.backbones.spec import describe_backbone
from pfm.classes import ClassList
from pfm.data.config import AugmentConfig, DataConfig, FeedConfig
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
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings, ModelConfig
from pfm.model.extraction import extract
from pfm.model.readouts.ridge import memory_of
from pfm.seeds import make_generator
from pfm.storage import write_json
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.learning import learn_on
from pfm.training.run import train
from pfm_bench.reports.header import host_facts
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import PromptSession

WIDTHS = (1024, 2048)
ALPHAS = (1e-7, 1e-6, 1e-5, 1e-4)
SEEDS = (42, 2, 3)
SOLVES = (1024, 2048, 4096, 8192)
HELD_OUT = 0.2
LORA_LAYER, LORA_EPOCHS = 3, 2  # the lower half runs once an image
SHAPES = ("vit_tiny_patch16_224", "vit_base_patch16_224")
COMMAND = "python bench/ridge_table.py --mednist PATH/mednist_64.npz --fsdd PATH/fsdd --vit PATH/vit_cifar32"
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
        return {
            **figures(load_checkpoint(result.checkpoint), data, seed),
            "fit_s": round(result.seconds, 2),
            "features_per_s": round(result.samples_per_s, 1),
            "checkpoint_bytes": result.checkpoint.stat().st_size,
        }


def figures(checkpoint: Checkpoint, data: ClassificationData, seed: int) -> dict[str, Any]:
    """Accuracies, forgetting and an exact erasure of a fit."""
    width = checkpoint.model.width
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
        "erase_s": round(erase_s, 2),
        "memory_bytes": memory_of(checkpoint).size_bytes,
        "sums_bytes": num_packed(width) * 8 * len(data.classes),
        "digest": checkpoint.exact["digest"],
        "digest_without_first_class": memory.digest,
    }


def solve_seconds(width: int) -> dict[str, float]:
    """One solve for ten classes: the median of three, or of one where it takes long."""
    recipe = Recipe(features={}, size=256, width=width, alpha=1e-6)
    values = np.random.default_rng(0).integers(-2048, 2048, (600, 256)).astype(np.int16)
    sums = sums_of([Projection.draw(recipe, 0).project(values, recipe)], width)
    seconds: list[float] = []
    while len(seconds) < (3 if width <= 4096 else 1):
        started = time.monotonic()
        solve((sums for _ in range(10)), [600] * 10, width=width, alpha=1e-6)
        seconds.append(time.monotonic() - started)
    return {"seconds": round(statistics.median(seconds), 3), "runs": len(seconds)}


def random_backbone(folder: Path, shape: str, side: int) -> Path:
    """A ViT of random weights in Hugging Face layout."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    preset = {name: value for name, value in PRESETS[shape].items() if name != "image_size"}
    ViTModel(ViTConfig(**preset, image_size=side), add_pooling_layer=False).save_pretrained(folder)
    return folder


def feature_rate(shape: str) -> dict[str, float]:
    """Features per second at 224 px beside a plain loop, in turns: the median of each."""
    # a batch for each thread at least: ours computes a batch on one
    count, rounds = (64, 3) if "base" in shape else (64, 5)
    with tempfile.TemporaryDirectory() as folder:
        spec = describe_backbone(BackboneConfig(model_name=str(random_backbone(Path(folder), shape, 224))))
        backbone = build_backbone(spec, seed=1)
    split = Split(torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8), torch.arange(count) % 2)
    preprocess = spec.preprocess or spec.family.constant_preprocess(spec.config)
    config = ModelConfig(readout="ridge", tune="prompts", prompt_tokens=0).resolved(has_final_norm=True)
    model = PromptedClassifier(backbone, ClassList.from_names(["a", "b"]), config, None).eval()

    def ours() -> None:
        extract(model, split, preprocess, HERE, key=new_key())

    @torch.inference_mode()
    def plain() -> None:
        for part in split.inputs.split(32):
            tokens = backbone.run_blocks(backbone.embed(preprocess(part)), 0, backbone.num_layers)
            torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).numpy()

    rates: dict[str, list[float]] = {"features_per_s": [], "plain_loop_per_s": []}
    for _ in range(rounds):
        for name, call in zip(rates, (ours, plain), strict=True):
            started = time.monotonic()
            call()
            rates[name].append(count / (time.monotonic() - started))
    return {**{name: round(statistics.median(own), 2) for name, own in rates.items()}, "rounds": rounds}


def tell_story(shape: str, side: int = 224) -> dict[str, Any]:
    """Seconds of each step from a backbone of random weights to a served bundle that forgot and learned."""
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 2)

    random = np.random.default_rng(0)
    labels = torch.arange(24) % 3
    split = Split(torch.from_numpy(random.integers(0, 256, (24, 3, side, side), dtype=np.uint8)), labels)
    data = ClassificationData("noise", ClassList.from_names(["a", "b", "c"]), split, split.subset(torch.arange(6)))
    one = dataclasses.replace(data, train=split.subset((labels == 1).nonzero()[:, 0]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = random_backbone(folder / "vit", shape, side)
        case = Case(data=DataConfig(dataset="digits"), features="backbone", model_name=str(path))
        with timed("fit"):
            result = train(case.config(2048, 1e-6, 1, folder / "run"), HERE.device, lambda _: None, data=data)
        whole = load_checkpoint(result.checkpoint)
        with timed("forget"):
            erased = erase(whole, ["b"])
        with timed("learn"):
            again = learn_on(erased, one, HERE).checkpoint
        assert again.exact["digest"] == whole.exact["digest"], "learned again, it is the same"
        with timed("export"):
            export_bundle(whole, folder / "bundle", with_sums=True)
        with timed("open"):
            session = PromptSession(folder / "bundle", device="cpu", threads=1)
        pixels = whole.preprocess(split.inputs[:1]).numpy()
        session.predict(pixels)
        with timed("answer"):
            session.predict(pixels)
        with timed("forget_served"):
            session.erase("b")
        answer = session.predict(pixels)
        assert (answer.classes, answer.is_exact) == (("a", "c"), True)
    return {"seconds": seconds, "samples": len(split), "side": side, "digest": whole.exact["digest"]}


def train_lora(case: Case, data: ClassificationData, readout: str, seed: int) -> dict[str, Any]:
    """One training of the readouts that learn, on the same backbone and data."""
    own = {"readout": readout, "prompt_layer": LORA_LAYER}
    if readout == "prompt":
        own |= {"wrong_target": "none", "final_norm": True}
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            data=case.data, backbone=BackboneConfig(model_name=case.model_name), model=ModelConfig(**own),
            lora=LoraSettings(),
            train=TrainConfig(
                epochs=LORA_EPOCHS, lr=3e-3, optimizer="adamw", weight_decay=0.01, schedule="cosine", warmup=0.1,
                seed=seed, save_dir=folder, eval_every=0, save_every=0,
            ),
            feed=FeedConfig(cache_trunk="host"), augment=AugmentConfig(), evaluation=EvalConfig(),
            device=DeviceConfig(cpu=True),
        )  # fmt: skip
        result = train(config, HERE.device, lambda _: None, data=data)
        checkpoint = load_checkpoint(result.checkpoint)
    model = checkpoint.build_model()
    evaluator = make_evaluator(
        data.test, label_positions(model.classes, data.classes), checkpoint.preprocess, HERE, EvalConfig(), seed=seed
    )
    evaluation = evaluator.evaluate(model, ks=[1], max_subsets=None)
    removed = evaluation.subsets[0].summary()
    return {
        "seed": seed,
        "full_bank": evaluation.modes["full_bank"],
        "retain_k1": removed["retain_mean"],
        "forget_k1": removed["forget_mean"],
        "train_s": round(result.seconds, 1),
    }


def main() -> None:
    """Measure what is asked for and not there, and add it to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mednist", default="", help="PATH/mednist_64.npz")
    parser.add_argument("--fsdd", default="", help="PATH/fsdd")
    parser.add_argument("--vit", default="", help="a small pretrained ViT in Hugging Face layout")
    parser.add_argument("--only", default="", help="what has this in its name: a data set, lora or speed")
    parser.add_argument("--again", action="store_true", help="measure what the file has already, too")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}

    def cell(section: str, name: str, measured: Callable[[], Any]) -> Any:
        """One figure of a section, measured where the file has none."""
        own = results.setdefault(section, {})
        if name not in own or (arguments.again and (section, name) not in fresh):
            own[name] = measured()
            fresh.add((section, name))
            print(f"{section}, {name}: {own[name]}", flush=True)
            write_json(arguments.out, {**results, "command": COMMAND, "host": host_facts()})
        return own[name]

    fresh: set[tuple[str, str]] = set()
    found = cases(arguments.mednist, arguments.fsdd, arguments.vit)
    for name, case in found.items():
        if arguments.only in name and (name not in results or arguments.again):
            results[name] = measure_case(case)
            write_json(arguments.out, {**results, "command": COMMAND, "host": host_facts()})
    case = found.get("mednist_vit_cifar32")
    if case is not None and arguments.only in "lora":
        data = None
        for seed, readout in itertools.product(SEEDS, ("cls", "prompt")):
            if arguments.again or f"{readout}_seed{seed}" not in results.get("lora", {}):
                data = data or case.load()
                cell("lora", f"{readout}_seed{seed}", lambda s=seed, r=readout, d=data: train_lora(case, d, r, s))
    if arguments.only in "speed":
        for earlier in ("solve_s", "features"):  # one run each, on busy cores
            results.pop(earlier, None)
        for width in SOLVES:
            cell("solve", str(width), lambda width=width: solve_seconds(width))
        for shape in SHAPES:
            cell("rates", shape, lambda shape=shape: feature_rate(shape))
            cell("story", shape, lambda shape=shape: tell_story(shape))


def measure_case(case: Case) -> dict[str, Any]:
    """A data set: the choice on held-out data, then the fits."""
    data = case.load()
    print(data.name, flush=True)
    grid, (width, alpha) = choose(case, data)
    runs = [measure(case, data, width, alpha, seed) for seed in SEEDS]
    names = ("full_bank", "retain_k1", "retain_k1_exact", "forget_k1", "fit_s", "erase_s")
    mean = {name: statistics.fmean(run[name] for run in runs) for name in names}
    print(f"  width {width}, alpha {alpha:g}: {mean}", flush=True)
    return {"width": width, "alpha": alpha, "chosen_on": grid, "mean": mean, "runs": runs}


if __name__ == "__main__":
    main()
