"""An exact fit on a GPU beside the CPU: samples a second, digests, and how many feature integers differ.

python bench/gpu_fit.py --data mednist_64.npz --model_name scratch:vit_base_patch16_224 --out gpu_fit.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pfm.backbones.config import BackboneConfig
from pfm.backbones.spec import describe_backbone
from pfm.data.config import AugmentConfig, DataConfig
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData
from pfm.device import DeviceConfig, resolve_device
from pfm.evaluation.config import EvalConfig
from pfm.exact.memory import Memory
from pfm.model.checkpoint import load_checkpoint
from pfm.model.config import LoraSettings, ModelConfig
from pfm.model.readouts.ridge import memory_of
from pfm.seeds import make_generator
from pfm.storage import Json, write_json
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.run import train
from pfm_bench.reports.header import host_facts

RAW = "scratch:raw_pixels"
PREFIX = 256  # numbers of a sample by which its like is found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="An .npz in MedMNIST's layout.")
    parser.add_argument("--model_name", default="scratch:vit_base_patch16_224")
    parser.add_argument("--count", type=int, default=2048, help="Training images.")
    parser.add_argument("--on_cpu", type=int, default=64, help="Of them, those that the CPU computes too.")
    parser.add_argument("--width", type=int, default=2048, help="Columns of the projection.")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    data = load_data(
        DataConfig(dataset=given.data), describe_backbone(BackboneConfig(model_name=given.model_name)).storage
    )
    fits: Json = {}
    document: Json = {
        "command": f"bench/gpu_fit.py --model_name {given.model_name}",
        "host": host_facts(),
        "fits": fits,
    }
    for name, model_name, count in (("raw", RAW, given.count), ("backbone", given.model_name, given.on_cpu)):
        part = some(data, count)
        there, there_s = fitted(part, model_name, given.width, cpu=False)
        here, here_s = fitted(part, model_name, given.width, cpu=True)
        fits[name] = {
            "model_name": model_name, "samples": count, "gpu_s": round(there_s, 2), "cpu_s": round(here_s, 2),
            "digests": [there.digest, here.digest], **differing(there, here),
        }  # fmt: skip
        save(document, given.out)
    _, seconds = fitted(some(data, given.count), given.model_name, given.width, cpu=False)
    document["all_on_gpu"] = {"samples": given.count, "seconds": round(seconds, 2), "per_s": given.count / seconds}
    save(document, given.out)


def save(document: Json, path: Path) -> None:
    write_json(path, document)
    print(json.dumps(document, indent=1))


def some(data: ClassificationData, count: int) -> ClassificationData:
    """As many training images, drawn from all."""
    chosen = torch.randperm(len(data.train), generator=make_generator(0, "some"))[:count].sort().values
    return ClassificationData(data.name, data.classes, data.train.subset(chosen), data.test.subset(torch.arange(8)))


def fitted(data: ClassificationData, model_name: str, width: int, *, cpu: bool) -> tuple[Memory, float]:
    """What a fit remembers, and how long it took, with the model built."""
    features = "raw" if model_name == RAW else "backbone"
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            data=DataConfig(dataset="digits"),
            backbone=BackboneConfig(model_name=model_name),
            model=ModelConfig(readout="ridge", features=features, width=width, memory="features"),
            lora=LoraSettings(),
            train=TrainConfig(seed=0, save_dir=folder, eval_every=0),
            augment=AugmentConfig(),
            evaluation=EvalConfig(),
            device=DeviceConfig(cpu=cpu),
        )
        device = resolve_device(config.device, gpu_was_asked_for=False)
        started = time.perf_counter()
        result = train(config, device, lambda _: None, data=data)
        return memory_of(load_checkpoint(result.checkpoint)), time.perf_counter() - started


def differing(there: Memory, here: Memory) -> Json:
    """Feature integers that are not equal, of each sample beside its like: each fit orders them by a key of its own."""
    assert there.rows is not None
    assert here.rows is not None
    first, second = (torch.from_numpy(rows.values.astype(np.float32)) for rows in (there.rows, here.rows))
    apart = (first - second[torch.cdist(first[:, :PREFIX], second[:, :PREFIX], p=1).argmin(dim=1)]).abs().numpy()
    return {"integers": apart.size, "differing": int((apart > 0).sum()), "worst": int(apart.max(initial=0))}


if __name__ == "__main__":
    main()
