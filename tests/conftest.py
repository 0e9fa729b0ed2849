"""Tiny real models and data, made on the spot; no downloads, no network."""

# ruff: noqa: E402  # what comes before the imports is for them

import functools
import gc
import os
import re
import shutil
import sys
from pathlib import Path

KEPT = Path(__file__).parent.parent / ".pytest_cache"  # for later runs
gc.disable()  # for as long as modules are loaded, of which nothing is garbage: a seventh of that time
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread each; models this small are all overhead
THREADS = int(os.environ["OMP_NUM_THREADS"])
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
if sys.dont_write_bytecode:  # each process would compile torch anew, for seconds; still nothing beside the sources
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = str(KEPT / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

from collections.abc import Iterator
from importlib.metadata import EntryPoints
from typing import TYPE_CHECKING

import pytest

from making.sources import sources_sha256

STATE = sources_sha256()  # before any of it is loaded

# what takes seconds to load is imported in the fixtures: the process that only shares out the tests needs none of it
if TYPE_CHECKING:
    from making.traces import Traces


def pytest_configure(config: pytest.Config) -> None:
    """A GPU that is there is for the tests of it alone: `-m gpu`."""
    if re.search(r"(?<!not )\bgpu\b", config.option.markexpr) is None:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left alone with one at the end; the others as they stand."""

    def seconds(item: pytest.Item) -> int:
        mark = item.get_closest_marker("slow")
        return mark.kwargs.get("seconds", 0) if mark else 0

    items.sort(key=seconds, reverse=True)


def pytest_collection_finish() -> None:
    """From here on there is garbage; what was loaded is not looked at again.

    Nor where a test measures, which would take it all back when it is done: from then on half a second a time.
    """
    gc.unfreeze = lambda: None
    gc.freeze()
    gc.enable()


def pytest_runtest_teardown() -> None:
    """A test that measures has torch compute with all cores; the processes of a test run have only one each."""
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def entry_points_read_once() -> Iterator[None]:
    """Every loading of data looks for plugins, in a file of each distribution that is installed: a twentieth of it all.

    A test that installs one puts its folder on the path, and then they are read anew.
    """
    from pfm import registry

    @functools.cache
    def read(path: tuple[str, ...], group: str) -> EntryPoints:
        return read_all(group=group)

    read_all = registry.entry_points
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda group: read(tuple(sys.path), group))
        yield


@pytest.fixture(scope="session", autouse=True)
def traces() -> "Iterator[Traces]":
    """Every model is traced once, whichever test, process and run of the same code is the first to need it."""
    import torch

    from making.traces import Traces

    folder = KEPT / "traces" / STATE
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)  # another process may do the same
    with pytest.MonkeyPatch.context() as patch:
        kept = Traces(folder, torch.onnx.export, is_current=lambda: sources_sha256() == STATE)
        patch.setattr(torch.onnx, "export", kept)
        yield kept


@pytest.fixture
def traced_anew(traces: "Traces", monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of tracing itself."""
    import torch

    monkeypatch.setattr(torch.onnx, "export", traces.export)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    from making.images import write_npz

    return write_npz(tmp_path / "colours.npz")


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    from making.sounds import write_tones

    return write_tones(tmp_path / "tones")


@pytest.fixture
def sound_preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset of sounds that trains in a moment."""
    from making.models import TINY_AST
    from pfm.backbones.family import PRESETS

    monkeypatch.setitem(PRESETS, "tiny_ast", TINY_AST)
    return "scratch:tiny_ast"


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset that trains in a moment."""
    from making.models import TINY
    from pfm.backbones.family import PRESETS

    monkeypatch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
    return "scratch:tiny"
