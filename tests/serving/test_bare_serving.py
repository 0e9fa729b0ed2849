"""Serving in an environment that has numpy, onnxruntime, safetensors and Pillow, and nothing else."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from making.checkpoints import image_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import PromptSession

ROOT = Path(__file__).parent.parent.parent
SERVING = ("numpy", "onnxruntime", "safetensors", "PIL")
ABSENT = ("torch", "click", "transformers", "onnx", "matplotlib", "accelerate", "peft", "datasets", "tqdm")
SERVE = """
import json, sys, importlib.util
import numpy as np
import pfm_export.serving.session
assert "PIL" not in sys.modules, "Pillow is for files"
there = [name for name in json.loads(sys.argv[3]) if importlib.util.find_spec(name)]
assert there == [], there
session = pfm_export.serving.session.PromptSession(sys.argv[1], device="cpu", warm_up=[1])
array = np.full((8, 8, 3), 9, np.uint8)
said = {
    "inputs": session.predict(np.zeros((2, 3, 8, 8), np.float32)).probabilities.tolist(),
    "array": session.predict_images([array]).labels,
}
if len(sys.argv) > 4:
    said["file"] = session.predict_images([sys.argv[2]], without=["red"]).labels
else:
    assert "PIL" not in sys.modules and not importlib.util.find_spec("PIL")
session.erase(["blue"])
said["after"] = session.predict_images([array]).classes
print(json.dumps(said))
"""


def make_environment(folder: Path, packages: Sequence[str]) -> Path:
    """An environment of its own, with links to a few packages of this one; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for name in packages:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        libraries = {"PIL": "pillow"}.get(name, name)
        for source in (package, *package.parent.glob(f"{libraries}.libs")):
            (site / source.name).symlink_to(source, target_is_directory=True)
    return python


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("bare")
    image = folder / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 9, 3), dtype=np.uint8)).save(image)
    return SimpleNamespace(folder=folder, image=image, python=make_environment(folder / "venv", SERVING))


def run(python: Path, *arguments: object, path: Sequence[Path] = ()) -> str:
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [str(part) for part in (python, *arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=python.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources(folder: Path) -> list[Path]:
    """`pfm` and `pfm_export`, with nothing else of this checkout beside them."""
    (folder / "sources").mkdir(exist_ok=True)
    for package in (ROOT / "pfm", ROOT / "export" / "pfm_export"):
        link = folder / "sources" / package.name
        if not link.exists():
            link.symlink_to(package, target_is_directory=True)
    return [folder / "sources"]


@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_a_session_serves_and_erases_where_there_is_no_torch(served: SimpleNamespace, readout: str) -> None:
    bundle = served.folder / readout
    export_bundle(image_checkpoint(readout), bundle)
    session = PromptSession(bundle, device="cpu")
    expected = {
        "inputs": session.predict(np.zeros((2, 3, 8, 8), np.float32)).probabilities.tolist(),
        "array": session.predict_images([np.full((8, 8, 3), 9, np.uint8)]).labels,
        "file": session.predict_images([served.image], without=["red"]).labels,
    }
    arguments = ("-c", SERVE, bundle, served.image, json.dumps(ABSENT), "with files")
    said = json.loads(run(served.python, *arguments, path=sources(served.folder)))
    assert said == {**expected, "after": ["red", "green", "grey"]}


def test_arrays_need_no_pillow(served: SimpleNamespace) -> None:
    python = make_environment(served.folder / "no-pillow", SERVING[:3])
    bundle = served.folder / "arrays"
    export_bundle(image_checkpoint("cls"), bundle)
    said = json.loads(run(python, "-c", SERVE, bundle, served.image, json.dumps(ABSENT), path=sources(served.folder)))
    assert said["after"] == ["red", "green", "grey"]


def test_the_example_needs_nothing_else(served: SimpleNamespace) -> None:
    bundle = served.folder / "example"
    export_bundle(image_checkpoint("cls"), bundle)
    said = run(served.python, ROOT / "examples" / "serve_onnxruntime.py", bundle, served.image, "--without", "red")
    answers = [line.rsplit(" ", 1)[1] for line in said.splitlines()]
    assert len(answers) == 1
    assert answers[0] in {"green", "blue", "grey"}


def test_the_environment_lacks_torch(served: SimpleNamespace) -> None:
    assert all(importlib.util.find_spec(name) for name in ABSENT)  # the control: they are there where the tests run
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        run(served.python, "-c", "import torch")
