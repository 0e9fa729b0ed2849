"""Bundles that differ in their manifest, and a command that a module of tests runs once."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from making.models import TINY
from pfm.backbones.family import PRESETS
from pfm.cli import pfm, run
from pfm_export.serving.manifest import MANIFEST, write_manifest


def copy_as(bundle: Path, folder: Path, **changes: Any) -> Path:
    """The same bundle with another manifest."""
    shutil.copytree(bundle, folder)
    write_manifest(folder, {**json.loads((bundle / MANIFEST).read_text()), **changes})
    return folder


@contextlib.contextmanager
def tiny_preset() -> Iterator[pytest.MonkeyPatch]:
    """`scratch:tiny`, for longer than a test; what is patched beside it goes with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
        yield patch


def run_bench(*words: object) -> str:
    """What `pfm bench …` says."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert run(pfm, ["bench", *map(str, words)]) == 0
    return said.getvalue()
