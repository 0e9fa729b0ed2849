"""One trunk pass for several active sets, beside as many passes of the whole graph.

    python bench/split_sets.py --prompt_layer 6 --sets 8 --out bench/pfm_bench/results/split_sets.json

writes the raw times of one interleaved run on the CPU, their ratio, and how much the answers differ.

The weights are random: speed does not depend on them. Every set leaves out another class.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pfm.model.checkpoint import Checkpoint, RunState, snapshot
from pfm.model.classifier import PromptedClassifier
from pfm.storage import write_json
from pfm_bench.measuring.rounds import measure
from pfm_bench.reports.header import host_facts
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner


def deeper(checkpoint: Checkpoint, prompt_layer: int) -> Checkpoint:
    """The same model with prompts that enter at a later block."""
    built = checkpoint.build_model()
    model = PromptedClassifier(
        built.backbone, built.classes, dataclasses.replace(checkpoint.model, prompt_layer=prompt_layer), None
    )
    return snapshot(model, spec=checkpoint.spec, preprocess=checkpoint.preprocess, lora=None, state=RunState(seed=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="scratch:vit_base_patch16_224")
    parser.add_argument("--prompt_layer", type=int, default=6)
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--sets", type=int, default=8)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not 0 < options.sets <= options.num_classes:
        parser.error("--sets must be between 1 and --num_classes")
    random = random_checkpoint(options.model_name, num_classes=options.num_classes, readout="cls")
    checkpoint = deeper(random, options.prompt_layer)
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    worst = 0.0
    every = range(options.num_classes)
    sets = [tuple(p for p in every if p != gone) for gone in range(options.sets)]
    with tempfile.TemporaryDirectory() as folder:
        runners: dict[str, tuple[GraphRunner, Bundle]] = {}
        for name, form in (("whole", GraphForm()), ("split", GraphForm(split=True))):
            export_bundle(checkpoint, Path(folder) / name, form=form)
            bundle = Bundle.open(Path(folder) / name)
            runners[name] = GraphRunner(bundle, threads=options.threads, spin=False), bundle
        for batch_size in options.batch_sizes:
            inputs = runners["whole"][1].input.random(batch_size, np.random.default_rng(0))
            for name, (runner, bundle) in runners.items():

                def answer(
                    runner: GraphRunner = runner, bundle: Bundle = bundle, inputs: np.ndarray = inputs
                ) -> list[np.ndarray]:
                    tokens = runner.trunk(inputs)  # of the whole graph: the inputs
                    return [runner.head(bundle, tokens, [active] * len(inputs), active) for active in sets]

                calls[name, batch_size] = answer
            pairs = zip(calls["whole", batch_size](), calls["split", batch_size](), strict=True)  # type: ignore[call-overload]
            worst = max(worst, *(float(np.abs(a - b).max()) for a, b in pairs))
        samples = measure(calls, rounds=options.rounds, budget_s=options.seconds)
    cases = []
    for batch_size in options.batch_sizes:
        split, whole = ("split", batch_size), ("whole", batch_size)
        ratio = samples.ratio(split, whole)
        cases.append(
            {
                "batch_size": batch_size,
                "split_over_whole": {clock: found.to_dict() for clock, found in ratio.items()},
                "split": {**samples.percentiles(split).to_dict(), "latency_ms": samples.latency_ms[split]},
                "whole": {**samples.percentiles(whole).to_dict(), "latency_ms": samples.latency_ms[whole]},
            }
        )
        print(f"batch {batch_size}: {ratio['wall'].describe()} of whole passes")
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    facts = {"settings": settings, "rounds": samples.rounds, "host": host_facts(), "worst_difference": worst}
    write_json(options.out, {**facts, "cases": cases})
    print(f"answers differ by {worst:.1e} at most\nwrote {options.out}")


if __name__ == "__main__":
    main()
