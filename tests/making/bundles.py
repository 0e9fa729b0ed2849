"""A bundle with everything but a graph that runs."""

from pathlib import Path

import numpy as np

from pfm_export.serving.bundle import write_bundle
from pfm_export.serving.signature import MODEL

NAMES = ("red", "green", "blue")
WIDTH = 6


def make_bundle(folder: Path, readout: str = "cls") -> Path:
    """Everything but a graph that runs: these tests never run it."""
    random = np.random.default_rng(0)
    bank: dict[str, np.ndarray] = {}
    for i in range(3):
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
        "classes": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "erased": [],
        "input": {"name": "pixel_values"},
        "preprocess": {},
    }
    write_bundle(folder, graphs={MODEL: b"a graph"}, bank=bank, manifest=manifest)
    return folder
