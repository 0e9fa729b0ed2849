"""A bundle with a file that is not what its manifest states: taking away goes on and says so, serving is refused."""

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from making.checkpoints import image_checkpoint
from making.commands import Refuse
from pfm.cli import pfm, run
from pfm.errors import BundleError, StorageError
from pfm_export.graph.export import export_bundle
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession
from pfm_export.serving.signature import MODEL

HUB = "config.json"  # of an exported bundle, beside its graph
CHANGED = "was changed: it is not the file that the manifest states"
UNSERVED = "the bundle is not served until it is put back, or exported again"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def other(path: Path) -> None:
    path.write_bytes(b"another")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, CHANGED), "missing": (Path.unlink, "is missing"), "other": (other, CHANGED),
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "bundle"
    export_bundle(image_checkpoint("cls"), folder)
    return folder


@pytest.fixture
def whole(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(params=[(name, how) for name in (MODEL, HUB) for how in DAMAGES], ids="-".join)
def damaged(request: pytest.FixtureRequest, whole: Path) -> tuple[Path, str]:
    """A bundle with such a file, and what is to be said of it."""
    name, how = request.param
    damage, said = DAMAGES[how]
    damage(whole / name)
    return whole, f"{name} {said}"


def call(*arguments: str | Path) -> int:
    return run(pfm, [str(argument) for argument in arguments])


def test_a_class_is_suspended_restored_and_erased_and_the_damage_is_said(
    damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = damaged
    for command in ("suspend", "restore"):
        assert call(command, folder, "--class", "red") == 0
        assert f"damaged: {folder}: {said}; {UNSERVED}" in capsys.readouterr().out
    assert call("forget", "--in_place", folder, "--class", "red", "--certificate", folder.parent / "cert.json") == 2
    told = capsys.readouterr()
    assert f"damaged: {folder}: {said}; {UNSERVED}" in told.out
    assert f"cannot be certified: {said}; put that right" in told.err
    assert "red" not in Bundle.open(folder).classes.names


def test_a_graph_cut_past_recognition_is_said_not_to_have_been_looked_into(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (whole / MODEL).write_bytes((whole / MODEL).read_bytes()[:1000])
    assert call("forget", "--in_place", whole, "--class", "red") == 3
    told = capsys.readouterr().out
    assert f"damaged: {whole}: {MODEL} {CHANGED}; {UNSERVED}" in told
    assert f"not looked into: {whole / MODEL}: nothing tells what it is" in told
    assert "red" not in Bundle.open(whole).classes.names


def test_a_class_whose_erasure_could_not_be_certified_is_certified_when_the_file_is_back(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = (whole / MODEL).read_bytes()
    (whole / MODEL).unlink()
    again = ("forget", "--in_place", whole, "--class", "red", "--certificate", whole.parent / "cert.json")
    assert call(*again) == 2
    (whole / MODEL).write_bytes(graph)
    assert call(*again) == 0
    assert call("verify", whole.parent / "cert.json", whole) == 3  # without a key to compare
    assert f"agrees  {whole}" in capsys.readouterr().out
    cut(whole / MODEL)
    assert call("verify", whole.parent / "cert.json", whole) == 2
    assert f"BROKEN  {whole}: {MODEL} {CHANGED}" in capsys.readouterr().out


def test_it_is_not_served(damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, _ = damaged
    with pytest.raises(BundleError, match=r"model\.onnx|config\.json"):
        PromptSession(folder, device="cpu")
    (tmp_path / "a.png").touch()
    refuse = Refuse(capsys)
    assert "json" in (said := refuse("predict", folder, tmp_path / "a.png", "--device", "cpu")) or "onnx" in said


def test_it_is_shown_with_what_is_wrong(damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", damaged[0]) == 0
    assert "(NOT what the manifest states)" in capsys.readouterr().out


def test_a_damaged_bundle_beside_others_does_not_keep_a_class_in_them(
    whole: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = Path(shutil.copytree(exported, whole.parent / "sound"))
    cut(whole / BANK)
    assert call("forget", "--in_place", whole.parent, "--class", "red") == 3
    told = capsys.readouterr()
    assert f"not looked into: {whole}: " in told.out
    assert f"{whole} may hold the class" in told.err
    assert "red" not in Bundle.open(sound).classes.names
    assert call("forget", "--in_place", whole, "--class", "red") == 2  # named by itself, and nothing can be done


def test_a_class_is_erased_by_a_session_whose_graph_is_gone_since(whole: Path) -> None:
    session = PromptSession(whole, device="cpu")
    (whole / MODEL).unlink()
    session.erase(["red"])
    assert "red" not in Bundle.open(whole).classes.names


def test_a_bundle_is_opened_and_answers_where_nothing_can_be_written(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    opened = io.open

    def reading(file: object, mode: str = "r", *rest: Any, **named: Any) -> Any:
        return opened(file, mode, *rest, **named) if not {*mode} & {*"wax+"} else refused()  # type: ignore[arg-type]

    monkeypatch.setattr(io, "open", reading)
    for name in ("mkdir", "replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, refused)
    session = PromptSession(whole, device="cpu")
    assert len(session.predict(np.zeros((1, 3, 8, 8), np.float32)).labels) == 1
    with pytest.raises(StorageError, match="Read-only file system"):
        session.erase(["red"])
