"""A hub of our own on the loopback address, which the clients of this process ask instead of the real one."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import datasets
import datasets.config
import pytest
from huggingface_hub import constants

from making.commands import Refuse
from making.hub_repos import table_files, vit_files
from making.hub_server import Hub, Repo, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """With one ViT and one data set, and an empty cache; the clients read the constants when they are used."""
    home = tmp_path / "home"
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        hub.repos["some/vit"], hub.repos["datasets/some/colours"] = Repo(), Repo()
        hub.repos["some/vit"].commit(vit_files())
        hub.repos["datasets/some/colours"].commit(table_files())
        yield hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Does what HF_HUB_OFFLINE=1 does at the start of a process."""

    def leave() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    return leave


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients wait between tries; here they need not."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@contextmanager
def _small_disk(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """While its block runs, no file takes more than so many bytes: the system refuses them as on a full disk."""
    return _small_disk


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    return Refuse(capsys)
