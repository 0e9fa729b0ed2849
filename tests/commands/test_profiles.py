"""`pfm forget --suspend`: classes out of a profile's answers, with nothing removed."""

from pathlib import Path

import numpy as np
import pytest

from making.checkpoints import image_checkpoint
from pfm.cli import pfm, run
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import PromptSession

INPUTS = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("profiles") / "bundle"
    export_bundle(image_checkpoint("cls"), target)
    return target


def forget(*arguments: str | Path) -> int:
    return run(pfm, ["forget", *map(str, arguments)])


def test_a_class_is_suspended_and_restored_under_a_running_session(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = PromptSession(folder, device="cpu")
    held = {name: (folder / name).read_bytes() for name in ("bank.safetensors", "ledger.jsonl", "model.onnx")}
    assert forget("--classes", "blue,red", "--suspend", "--profile", "ward-7", folder) == 0
    said = capsys.readouterr().out
    assert "profile ward-7 leaves out red, blue" in said
    assert "no byte was removed" in said
    assert session.predict(INPUTS, profile="ward-7").classes == ("green", "grey")
    assert len(session.predict(INPUTS).classes) == 4
    assert forget("--classes", "red,blue", "--restore", "--profile", "ward-7", folder) == 0
    assert "leaves out nothing" in capsys.readouterr().out
    assert len(session.predict(INPUTS, profile="ward-7").classes) == 4
    assert held == {name: (folder / name).read_bytes() for name in held}
    assert forget("--classes", "blue", "--suspend", folder) == 0
    assert len(session.predict(INPUTS).classes) == 3  # whoever names no profile
    assert forget("--classes", "blue", "--restore", folder) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suspend", "--in_place"], "and nothing else"),
        (["--suspend", "--restore"], "and nothing else"),
        (["--suspend", "--reason", "request 7"], "and nothing else"),
        (["--in_place", "--profile", "a"], "--profile belongs to --suspend or --restore"),
        (["--restore", "--profile", "nobody"], "no profile 'nobody'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "manifest.json").read_bytes()
    assert forget("--classes", "blue", *arguments, folder) == 2
    assert message in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before


def test_a_suspension_needs_a_bundle_and_a_class_that_is_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forget("--classes", "blue", "--suspend") == 2
    assert "name the bundles" in capsys.readouterr().err
    assert forget("--classes", "mauve", "--suspend", folder) == 2
    assert "mauve" in capsys.readouterr().err
    assert forget("--classes", "blue", "--suspend", folder, tmp_path) == 2  # the first is not changed either
    assert "not a complete bundle" in capsys.readouterr().err
    assert "blue" in PromptSession(folder, device="cpu").active()
