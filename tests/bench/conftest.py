"""What several tests of the benches measure: one small bundle, exported once."""

from pathlib import Path
from typing import Any

import pytest

from making.models import tiny_model, tiny_spec
from pfm.data.images import ImagePreprocess
from pfm.model.checkpoint import Checkpoint, snapshot
from pfm_bench.targets import random_bundle
from pfm_bench.targets.random_bundle import ExportCost
from pfm_export.graph import export
from pfm_export.graph.form import GraphForm
from pfm_export.graph.tracing import export_graphs

PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))


@pytest.fixture(scope="session")
def state() -> Checkpoint:
    """Of a model whose weights are large enough that outputs differ."""
    return snapshot(tiny_model(), spec=tiny_spec(), preprocess=PREPROCESS, lora=None)


@pytest.fixture(scope="session")
def exported(state: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportCost]:
    """Its bundle, and what it cost; the graph is traced for the first of the two times that are measured."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    traced: list[dict[str, bytes]] = []

    def trace_once(*given: Any) -> dict[str, bytes]:
        if not traced:
            traced.append(export_graphs(*given))
        return traced[0]

    with pytest.MonkeyPatch.context() as patch:
        for module in (random_bundle, export):
            patch.setattr(module, "export_graphs", trace_once)
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
