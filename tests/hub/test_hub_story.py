"""One run as a user starts it: model and data of a hub, told of in checkpoint, manifest and `pfm show`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from huggingface_hub import constants

from making.hub_repos import table_files, vit_files
from making.hub_server import Hub
from making.launching import ROOT
from pfm.audit.comparisons.trained import recipe_of
from pfm.backbones.loading import frozen_sha256
from pfm.cli import pfm, run
from pfm.commands.options import data_of_run
from pfm.data.config import DataConfig
from pfm.model.checkpoint import load_checkpoint
from pfm_export.graph.accuracy import find_samples
from pfm_export.graph.form import GraphForm
from pfm_export.graph.manifest import describe


def train_here(hub: Hub, arguments: list[str]) -> None:
    del hub
    assert run(pfm, arguments) == 0


def train_apart(hub: Hub, arguments: list[str]) -> None:
    """In a process of its own, whose clients read HF_ENDPOINT and HF_HOME."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = str(Path(constants.HF_HUB_CACHE).parent)
    environment = {**inherited, "HF_ENDPOINT": hub.address, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from pfm.cli import pfm, run; sys.exit(run(pfm, {arguments!r}))"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def read_by(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Which data something wants to read."""

    class AskedError(Exception):
        pass

    def stop(config: DataConfig, *_: object, **__: object) -> None:
        raise AskedError(config)

    monkeypatch.setattr("pfm_export.graph.accuracy.load_data", stop)
    with pytest.raises(AskedError) as asked:
        act()
    return asked.value.args[0]


@pytest.mark.parametrize("train", [train_here, pytest.param(train_apart, marks=pytest.mark.slow)])
def test_a_run_from_the_hub_says_which_commits_it_was_of_and_keeps_to_them(
    train: Callable[[Hub, list[str]], None],
    hub: Hub,
    tmp_path: Path,
    offline: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = hub.repos["some/vit"].refs["main"]
    data = hub.repos["datasets/some/colours"].refs["main"]
    train(hub, ["train", "--dataset", "some/colours", "--model_name", "some/vit", "--epochs", "1",
                "--eval_every", "0", "--save_dir", str(tmp_path / "run"), "--cpu"])  # fmt: skip
    path = tmp_path / "run" / "some_colours_seed_42_1.pt"
    assert "model.safetensors" in hub.fetched()
    hub.repos["some/vit"].commit(vit_files(1))
    hub.repos["datasets/some/colours"].commit(table_files(7))
    hub.asked.clear()

    checkpoint = load_checkpoint(path)
    built = checkpoint.build_model()  # of the weights that it was trained on, which are in the cache
    assert (checkpoint.spec.commit, checkpoint.data_commit, hub.fetched()) == (model, data, [])
    assert frozen_sha256(built.backbone) == checkpoint.frozen_sha256
    with click.Context(click.Command("eval")):
        assert data_of_run(checkpoint, DataConfig()).data_revision == data
    recipe = recipe_of(checkpoint)  # of models to compare with, and of a scrub that retrains
    assert (recipe.backbone.revision, recipe.data.data_revision) == (model, data)
    assert read_by(lambda: find_samples(checkpoint, max_samples=1), monkeypatch).data_revision == data
    offline()
    checkpoint.build_model()

    manifest = json.loads(json.dumps(describe(checkpoint, built, GraphForm())))
    assert (manifest["backbone"]["commit"], manifest["training"]["data_commit"]) == (model, data)
    capsys.readouterr()
    assert run(pfm, ["show", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["backbone"]["commit"], shown["recipe"]["data_commit"]) == (model, data)
    assert run(pfm, ["show", str(path)]) == 0
    assert f"commit {model}" in capsys.readouterr().out
