"""The small pretrained ViT: what the library computes with it, and whether recorded figures come out again.

    python bench/small_vit.py --vit PATH/vit_cifar32 --mednist PATH/mednist_64.npz \\
        --out bench/pfm_bench/results/small_vit.json

Three checks, each written when it is done; what the file has is not done again:

- `parity`: all tokens of MedNIST's first test images, ours and the library's, at two input sizes;
- `ridge`: the exact readout on its features, once more, beside `ridge.json`: accuracies, and both digests, of a recipe
  that is described as it was then;
- `lora`: one model with LoRA of `starts.json`, trained, evaluated and attacked once more.

Recorded and repeated figures must be the same digit for digit; the exit code is 1 where one is not, or parity is worse
than 1e-5. About ten minutes on one core.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import ridge_table
import starts_table
from pfm.backbones.backbone import SUMMARY
from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone
from pfm.data.config import DataConfig
from pfm.data.loading import load_data
from pfm.exact.memory import digest_of
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.readouts.ridge import memory_of
from pfm.storage import Json, write_json
from pfm_bench.reports.header import host_facts

RESULTS = Path(__file__).parent / "pfm_bench" / "results"
LORA_RUN = "lora_mednist_cls_seed42_seed"
RIDGE = ("full_bank", "retain_k1", "retain_k1_exact", "forget_k1", "digest", "digest_without_first_class")
LATER = ("fit", "keep")  # what a recipe says of its input since then; decoding had "fit" before
TOLERANCE = 1e-5  # of float32, through six blocks
IMAGES = 256


def check_parity(vit: str, mednist: str) -> Json:
    """The worst difference to the library, of all tokens and of CLS, at the size of the weights and at twice that."""
    from transformers import ViTModel

    library = ViTModel.from_pretrained(vit, add_pooling_layer=False).eval()
    found: dict[str, Any] = {"images": IMAGES, "sizes": {}}
    own = describe_backbone(BackboneConfig(model_name=vit)).config["image_size"]
    for size in (own, 2 * own):
        spec = describe_backbone(BackboneConfig(model_name=vit, image_size=size))
        assert spec.preprocess is not None
        inputs = spec.preprocess(load_data(DataConfig(dataset=mednist), spec.storage).test.inputs[:IMAGES])
        backbone = build_backbone(spec, seed=0).eval()
        with torch.inference_mode():
            expected = library(inputs, interpolate_pos_encoding=True).last_hidden_state
            tokens = backbone.embed(inputs)
            outputs = backbone.normalise(backbone.readout(tokens, 0, slice(0, None)))
            summary = backbone.read(tokens, 0, SUMMARY, is_normalised=True)[:, 0]
        found["sizes"][str(size)] = {
            "tokens": float((outputs - expected).abs().max()),
            "cls": float((summary - expected[:, 0]).abs().max()),
            "largest_value": float(expected.abs().max()),
        }
    found["is_same"] = all(max(each["tokens"], each["cls"]) <= TOLERANCE for each in found["sizes"].values())
    return found


def repeat_ridge(vit: str, mednist: str) -> Json:
    """Seed 42 of `ridge.json`, with the width and penalty that were chosen then."""
    ((name, case),) = ((n, c) for n, c in ridge_table.cases(mednist, "", vit).items() if c.features == "backbone")
    section = json.loads((RESULTS / "ridge.json").read_text())[name]
    recorded = next(run for run in section["runs"] if run["seed"] == 42)
    data = case.load()
    with tempfile.TemporaryDirectory() as folder:
        config = case.config(section["width"], section["alpha"], 42, Path(folder))
        checkpoint = load_checkpoint(
            ridge_table.train(config, ridge_table.HERE.device, lambda _: None, data=data).checkpoint
        )
    again = ridge_table.figures(checkpoint, data, 42)
    without = ridge_table.erase(checkpoint, [data.classes.names[0]])
    again |= {"digest": earlier_digest(checkpoint), "digest_without_first_class": earlier_digest(without)}
    return compared({key: recorded[key] for key in RIDGE}, {key: again[key] for key in RIDGE})


def earlier_digest(checkpoint: Checkpoint) -> str:
    """The digest as it was when `ridge.json` was made, before the recipe said how images are cropped (`LATER`)."""
    memory = memory_of(checkpoint)
    recipe = memory.recipe.to_dict()
    given = {key: value for key, value in recipe["features"]["input"].items() if key not in LATER}
    given["decoding"] = {key: value for key, value in given["decoding"].items() if key != "keep"}
    recipe["features"] = {**recipe["features"], "input": given}
    classes = zip(memory.classes, memory.counts, memory.hashes, strict=True)
    return digest_of(recipe, memory.projection.sha256(), classes)


def repeat_lora(vit: str, mednist: str) -> Json:
    """One run of `starts.json`."""
    (run,) = (run for run in starts_table.list_runs() if run.name == LORA_RUN)
    recorded = json.loads((RESULTS / "starts.json").read_text())["runs"][LORA_RUN]
    places = {"mednist": str(Path(mednist).resolve()), "backbone": str(Path(vit).resolve())}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = starts_table.trained(run, places, Path(folder) / run.name)
    command = " ".join(["pfm", "train", *run.options(starts_table.SHOWN)])
    again = {"start": run.start, "command": command, **starts_table.measure(run, checkpoint)}
    return compared(recorded, json.loads(json.dumps(again)))


def compared(recorded: Json, again: Json) -> Json:
    """Both, and where they differ."""
    differing = [f"{where}: {old} then, {new} now" for where, old, new in differences(recorded, again)]
    return {"recorded": recorded, "again": again, "differing": differing, "is_same": not differing}


def differences(recorded: Any, again: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Places where two JSON documents differ, with what each has there."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        for key in recorded.keys() | again.keys():
            yield from differences(recorded.get(key), again.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for place, (old, new) in enumerate(zip(recorded, again, strict=True)):
            yield from differences(old, new, f"{where}[{place}]")
    elif recorded != again:
        yield where, recorded, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vit", required=True, help="PATH/vit_cifar32")
    parser.add_argument("--mednist", required=True, help="PATH/mednist_64.npz")
    parser.add_argument("--only", nargs="+", choices=("parity", "ridge", "lora"), default=["parity", "ridge", "lora"])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    checks: dict[str, Callable[[str, str], Json]] = {
        "parity": check_parity, "ridge": repeat_ridge, "lora": repeat_lora,
    }  # fmt: skip
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for name in options.only:
        if name not in results:
            results[name] = checks[name](options.vit, options.mednist)
            write_json(options.out, {**results, "host": host_facts()})
        found = results[name]
        print(f"{name}: {'the same' if found['is_same'] else 'DIFFERS'}", *found.get("differing", []), sep="\n  ")
        print(json.dumps(found.get("sizes", {})), flush=True)
    sys.exit(0 if all(results[name]["is_same"] for name in options.only) else 1)


if __name__ == "__main__":
    main()
