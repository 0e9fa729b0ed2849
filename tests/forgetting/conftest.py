"""Artifacts that a class was erased from, with the certificate of it."""

import shutil
from pathlib import Path

import pytest

from making.bundles import make_bundle
from making.checkpoints import trained_state
from pfm.cli import pfm, run
from pfm.model.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a bundle, a class erased from both, and the certificate of it."""
    folder = tmp_path_factory.mktemp("certified")
    save_checkpoint(folder / "run" / "model.pt", trained_state())
    make_bundle(folder / "bundle")
    arguments = ["--classes", "blue", "--in_place", "--reason", "request 7", "--requested_by", "ward 3"]
    out = ["--certificate", str(folder / "cert.json")]
    assert run(pfm, ["forget", *arguments, *out, str(folder / "run"), str(folder / "bundle")]) == 0
    return folder


@pytest.fixture
def folder(certified: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(certified, tmp_path / "certified"))
