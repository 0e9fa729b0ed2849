"""Data sets by name, through `datasets` and medmnist's own client, from a server on the loopback address."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import medmnist
import pytest
import torch
from huggingface_hub import constants

from making.commands import Refuse
from making.hub_repos import medmnist_file, table_files
from making.hub_server import TOKEN, Hub
from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData
from pfm.errors import ConfigError, DataError, StorageError

pytestmark = pytest.mark.slow
STORAGE = ImageStorage(8)
FILES = ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"]


def load(revision: str = "", name: str = "some/colours") -> ClassificationData:
    return load_data(DataConfig(dataset=name, data_revision=revision), STORAGE)


def problem(revision: str = "", name: str = "some/colours") -> str:
    with pytest.raises(DataError) as error:
        load(revision, name)
    return str(error.value)


def sums(data: ClassificationData) -> tuple[int, int]:
    """What tells one state of the data from another."""
    return int(data.train.inputs.sum(dtype=torch.int64)), int(data.test.inputs.sum(dtype=torch.int64))


@pytest.fixture
def commit(hub: Hub) -> str:
    return hub.repos["datasets/some/colours"].refs["main"]


def test_a_data_set_is_downloaded_once(hub: Hub, commit: str) -> None:
    data = load()
    assert (data.commit, data.classes.names) == (commit, ("red", "green", "blue", "grey"))
    assert (len(data.train), len(data.test), data.notes) == (32, 32, ())
    assert sorted(hub.fetched()) == sorted(["README.md", *FILES])
    hub.asked.clear()
    assert sums(load()) == sums(data)
    assert hub.fetched() == []


def test_a_repository_without_a_card_is_known_by_its_commit_too(hub: Hub, offline: Callable[[], None]) -> None:
    commit = hub.repos["datasets/some/colours"].commit(table_files(2, card=False))
    assert load().commit == commit
    offline()
    assert load().commit == load("main").commit == load(commit).commit == commit


@pytest.mark.parametrize("how", ["asked for", "out of reach"])
def test_without_the_hub_the_cache_serves_and_a_note_says_what(
    hub: Hub, commit: str, offline: Callable[[], None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    before = load()
    hub.asked.clear()
    if how == "asked for":
        offline()
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    data = load()
    assert (data.commit, sums(data), hub.asked) == (commit, sums(before), [])
    assert data.notes == (f"the hub was not asked; its cache has commit {commit}",)


@pytest.mark.usefixtures("hub")
def test_without_the_hub_and_without_a_cache_the_line_says_both(offline: Callable[[], None]) -> None:
    offline()
    assert re.search(r"unknown data set 'some/colours' .*: it is not in the cache \(.*HF_HUB_OFFLINE is set", problem())
    assert "HF_HUB_OFFLINE is set" in problem("v1")
    assert "HF_HUB_OFFLINE is set" in problem("0" * 40)


def test_a_revision_is_kept_to_whatever_main_becomes(hub: Hub, commit: str, offline: Callable[[], None]) -> None:
    repo, old = hub.repos["datasets/some/colours"], load()
    new = repo.commit(table_files(7), "v2")
    repo.refs["v1"] = commit
    assert (load().commit, load("v2").commit, load("v1").commit, load(commit).commit) == (new, new, commit, commit)
    assert sums(load("v1")) == sums(load(commit)) == sums(old) != sums(load())
    offline()
    assert sums(load("v1")) == sums(load(commit)) == sums(old) != sums(load("v2"))
    assert load("v2").commit == new


def test_a_revision_that_is_not_there_is_refused(hub: Hub) -> None:
    load()
    assert "cannot load data set 'some/colours': some/colours has no revision 'v3' on the hub" in problem("v3")
    assert "0" * 40 in problem("0" * 40)
    assert hub.repos


@pytest.mark.parametrize("name", ["digits", "bloodmnist", "imagefolder:pictures", "some.npz"])
def test_a_revision_is_only_for_data_sets_of_the_hub(name: str) -> None:
    with pytest.raises(ConfigError, match="--data_revision is for data sets of the hub"):
        DataConfig(dataset=name, data_revision="v1")


def test_a_gated_data_set_is_refused_until_there_is_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["datasets/some/colours"].is_gated = True
    assert "cannot load data set 'some/colours': some/colours is gated: accept its terms" in problem()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert len(load().train) == 32


def test_a_data_set_that_is_not_there_is_unknown_with_and_without_a_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"and of the hub: {hub.address} has no data set some/other, or it is private"
    assert expected in problem(name="some/other")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert expected in problem(name="some/other")


def test_a_download_that_breaks_off_is_fetched_again(hub: Hub, commit: str, at_once: None) -> None:
    del at_once
    hub.broken[FILES[0]] = 2
    assert load().commit == commit
    assert hub.fetched().count(FILES[0]) == 3


def test_a_download_that_keeps_breaking_off_is_one_line(hub: Hub, at_once: None) -> None:
    del at_once
    hub.broken[FILES[0]] = 1000
    assert "cannot load data set 'some/colours': the download broke off (" in problem()
    hub.broken.clear()
    assert len(load().train) == 32


def test_a_file_without_the_stated_checksum_is_refused_and_not_kept_prepared(hub: Hub) -> None:
    hub.spoilt.add(FILES[1])
    said = problem()
    assert f"{FILES[1]} does not have the checksum that the hub states; delete " in said
    assert problem() == said
    hub.spoilt.clear()
    Path(said.partition("delete ")[2].partition(" and try again")[0]).unlink()
    assert len(load().train) == 32


def test_a_full_disk_is_one_line(
    hub: Hub, commit: str, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    size = len(hub.repos["datasets/some/colours"].commits[commit][f"data/{FILES[0]}"])
    with small_disk(size // 2):
        said = problem()
    assert "cannot load data set 'some/colours': File too large: " in said
    assert "free some space there, or set HF_HOME to another folder" in said
    assert load().commit == commit


def test_a_hub_that_fails_does_not_give_another_commit_than_asked_for(hub: Hub, commit: str, at_once: None) -> None:
    del at_once
    load()
    hub.repos["datasets/some/colours"].commit(table_files(7), "v2")
    for file in FILES:
        hub.failing[file] = 500
    said = problem("v2")
    assert "some/colours" in said
    assert f"at commit {commit}, not at" in said or "answers 500" in said
    assert load(commit).commit == commit


# --- MedMNIST ---------------------------------------------------------------------------------------


@pytest.fixture
def blood(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a small file that MedMNIST's table names for bloodmnist at 28 pixels."""
    content, checksum = medmnist_file()
    path = "/records/1/files/bloodmnist.npz"
    hub.plain[path] = content
    monkeypatch.setitem(medmnist.INFO["bloodmnist"], "url", hub.address + path)
    monkeypatch.setitem(medmnist.INFO["bloodmnist"], "MD5", checksum)
    return path


def load_blood(folder: Path) -> ClassificationData:
    return load_data(DataConfig(dataset="bloodmnist", size=28, data_dir=str(folder)), ImageStorage(28))


def blood_problem(folder: Path) -> str:
    with pytest.raises((DataError, StorageError)) as error:
        load_blood(folder)
    assert list(folder.iterdir()) == []
    return str(error.value)


def test_a_medmnist_set_is_downloaded_once(hub: Hub, blood: str, tmp_path: Path) -> None:
    folder = tmp_path / "medmnist"
    data = load_blood(folder)
    assert (len(data.train), len(data.test), len(data.classes)) == (64, 16, 8)
    assert [file.name for file in folder.iterdir()] == ["bloodmnist.npz"]
    assert set(hub.asked) == {f"GET {blood}"}
    hub.asked.clear()
    assert sums(load_blood(folder)) == sums(data)
    assert hub.asked == []


def test_a_medmnist_set_that_does_not_come_is_one_line(
    hub: Hub, blood: str, tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "medmnist"
    by_hand = f"try again, or put bloodmnist.npz into {folder} by hand, from {hub.address}{blood}"
    hub.failing["bloodmnist.npz"] = 404
    assert "bloodmnist could not be downloaded (HTTP Error 404: Not Found); " + by_hand in blood_problem(folder)
    hub.failing.clear()
    not_whole = "bloodmnist could not be downloaded (what came is not whole, or does not have the checksum that"
    hub.broken["bloodmnist.npz"] = 2  # it asks twice
    assert not_whole in blood_problem(folder)
    hub.broken.clear()
    hub.spoilt.add("bloodmnist.npz")
    assert not_whole in blood_problem(folder)
    hub.spoilt.clear()
    with small_disk(len(hub.plain[blood]) // 2):
        assert f"cannot write {folder / 'bloodmnist.npz'}: File too large; free some space" in blood_problem(folder)
    assert len(load_blood(folder).train) == 64


def test_a_medmnist_set_without_a_network_is_one_line(
    blood: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(medmnist.INFO["bloodmnist"], "url", f"http://127.0.0.1:9{blood}")
    assert "bloodmnist could not be downloaded (<urlopen error" in blood_problem(tmp_path / "medmnist")


# --- at the command line ----------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["gated", "missing", "revision", "broken", "spoilt", "failing", "offline"])
def test_at_the_command_line_each_is_one_line_and_exit_code_2(
    hub: Hub, refuse: Refuse, preset: str, tmp_path: Path, offline: Callable[[], None], how: str
) -> None:
    arguments = ["train", "--dataset", "some/colours", "--model_name", preset, "--save_dir", str(tmp_path / "out")]
    if how == "gated":
        hub.repos["datasets/some/colours"].is_gated = True
    elif how == "missing":
        del hub.repos["datasets/some/colours"]
    elif how == "revision":
        arguments += ["--data_revision", "v3"]
    elif how == "broken":
        hub.broken[FILES[0]] = 1000
    elif how == "spoilt":
        hub.spoilt.add(FILES[0])
    elif how == "failing":
        hub.failing["README.md"] = 503
    else:
        offline()
    assert "'some/colours'" in refuse(*arguments, "--cpu")
    assert not (tmp_path / "out").exists()
