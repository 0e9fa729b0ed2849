"""What several tests of the benches measure: one small bundle, exported once."""

from pathlib import Path

import pytest

from making.checkpoints import image_checkpoint
from pfm.model.checkpoint import Checkpoint
from pfm_bench.targets import random_bundle
from pfm_bench.targets.random_bundle import ExportCost
from pfm_export.graph import export
from pfm_export.graph.form import GraphForm


@pytest.fixture(scope="session")
def state() -> Checkpoint:
    """Of a model whose weights are large enough that outputs differ."""
    return image_checkpoint("cls")


@pytest.fixture(scope="session")
def exported(state: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportCost]:
    """Its bundle, and what it cost."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    return folder, random_bundle.write_random_bundle(state, folder)


@pytest.fixture(scope="session")
def bundle(exported: tuple[Path, ExportCost]) -> Path:
    return exported[0]


@pytest.fixture(scope="session")
def uint8_bundle(state: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, taking images as they are."""
    folder = tmp_path_factory.mktemp("bundles") / "uint8"
    export.export_bundle(state, folder, form=GraphForm(uint8_input=True))
    return folder
