"""The threshold for `unknown` of a solved head is a function of the samples that are there, and of nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from making.exact import fit, image_data, only
from pfm.device import Processes
from pfm.errors import ConfigError
from pfm.exact.recipe import SHARPNESS
from pfm.exact.threshold import leave_one_out_threshold
from pfm.forgetting.erase import erase
from pfm.forgetting.samples import Removal, remove
from pfm.model.checkpoint import Checkpoint
from pfm.model.readouts.ridge import memory_of
from pfm.training.learning import learn_on
from pfm_export.graph.export import export_bundle

DATA = image_data()
SHARE = 0.2


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return fit(DATA, tmp_path_factory.mktemp("full"), abstain=SHARE)


def test_it_is_the_quantile_of_what_fits_without_each_sample_answer(full: Checkpoint) -> None:
    """The slow way: one solve for each sample, with the weights and the penalty of all."""
    memory = memory_of(full)
    rows = memory.rows
    assert rows is not None
    inputs = memory.projection.project(rows.values, memory.recipe).astype(np.float64)  # (N, E)
    targets = SHARPNESS * np.eye(len(memory.classes))[rows.labels]
    weights = np.array([len(rows) / (len(memory.classes) * n) for n in memory.counts])[rows.labels]
    penalty = memory.recipe.alpha * np.trace(inputs.T @ (weights[:, None] * inputs)) * np.eye(inputs.shape[1])
    largest = []
    for gone in range(len(rows)):
        kept = np.arange(len(rows)) != gone
        weighed = (weights[:, None] * inputs)[kept]
        solved = np.linalg.solve(inputs[kept].T @ weighed + penalty, weighed.T @ targets[kept])
        scores = np.exp(inputs[gone] @ solved - (inputs[gone] @ solved).max())
        largest.append(scores.max() / scores.sum())
    assert full.unknown_below == pytest.approx(np.quantile(largest, SHARE), abs=1e-6)  # a solve against an update


def test_it_follows_what_is_forgotten_and_learned_to_the_last_bit(full: Checkpoint, tmp_path: Path) -> None:
    erased = erase(full, ["blue"])
    without = fit(only(DATA, DATA.train.labels != 2), tmp_path / "class", abstain=SHARE)
    assert (erased.unknown_below, erased.unknown_below != full.unknown_below) == (without.unknown_below, True)
    removed = remove(full, Removal(groups=["camera2"], samples=["image9.png"])).checkpoint
    is_left = torch.tensor([g != "camera2" and i != 9 for i, g in enumerate(DATA.train.groups or ())])
    assert removed.unknown_below == fit(only(DATA, is_left), tmp_path / "samples", abstain=SHARE).unknown_below
    again = learn_on(erased, only(DATA, DATA.train.labels == 2), Processes(device=torch.device("cpu"))).checkpoint
    assert again.unknown_below == full.unknown_below


def test_no_sample_is_held_out_for_it_and_the_model_answers_unknown(full: Checkpoint) -> None:
    assert sum(memory_of(full).counts) == len(DATA.train)
    assert full.build_model().unknown_below == full.unknown_below > 0
    assert full.build_model().can_abstain


def test_sums_give_no_threshold(full: Checkpoint, tmp_path: Path) -> None:
    for memory in ("sums", "none"):
        with pytest.raises(ConfigError, match=f"--memory {memory}: the threshold .* --memory features"):
            fit(DATA, tmp_path, memory=memory, abstain=SHARE)
    with pytest.raises(ConfigError, match="--memory sums: the threshold"):
        leave_one_out_threshold(memory_of(full).kept_as("sums"), SHARE)
    with pytest.raises(ConfigError, match="which sums do not give"):
        export_bundle(full, tmp_path / "b", with_sums=True)
