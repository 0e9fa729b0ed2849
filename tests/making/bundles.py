"""A bundle with everything but a graph that runs, and a graph that runs but is wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from pfm_export.serving.signature import MODEL
from pfm_export.serving.writing import write_bundle

NAMES = ("red", "green", "blue")
WIDTH = 6


def make_bundle(folder: Path, readout: str = "cls", names: Sequence[str] = NAMES) -> Path:
    """Everything but a graph that runs: these tests never run it."""
    random = np.random.default_rng(0)
    bank: dict[str, np.ndarray] = {}
    for i in range(len(names)):
        bank[f"prompt.{i}"] = random.standard_normal((2, WIDTH), dtype=np.float32)
        if readout == "cls":
            bank[f"weight.{i}"] = random.standard_normal(WIDTH, dtype=np.float32)
            bank[f"bias.{i}"] = np.array(i, np.float32)
    folder.mkdir(parents=True)
    manifest = {
        "readout": readout,
        "wrong_target": "uniform",
        "prompt_tokens": 2,
        "hidden_size": WIDTH,
        "classes": [{"id": i, "name": name} for i, name in enumerate(names)],
        "erased": [],
        "input": {"name": "pixel_values"},
        "preprocess": {},
    }
    write_bundle(folder, graphs={MODEL: b"a graph"}, bank=bank, manifest=manifest)
    return folder


def spoiled(graph: bytes) -> bytes:
    """The graph of another model: one bias of its last block is all ones."""
    proto = onnx.load_model_from_string(graph)
    (bias,) = (entry for entry in proto.graph.initializer if entry.name.endswith("layers.1.mlp.fc2.bias"))
    before = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(np.ones_like(before), bias.name))
    return proto.SerializeToString()
