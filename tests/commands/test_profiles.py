"""`pfm suspend` and `pfm restore`: classes out of a profile's answers, with nothing removed."""

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


def call(command: str, *arguments: str | Path) -> int:
    return run(pfm, [command, *map(str, arguments)])


def test_a_class_is_suspended_and_restored_under_a_running_session(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = PromptSession(folder, device="cpu")
    held = {name: (folder / name).read_bytes() for name in ("bank.safetensors", "ledger.jsonl", "model.onnx")}
    assert call("suspend", folder, "--classes", "blue,red", "--profile", "ward-7") == 0
    said = capsys.readouterr().out
    assert "profile ward-7 leaves out red, blue" in said
    assert "no byte was removed" in said
    assert session.predict(INPUTS, profile="ward-7").classes == ("green", "grey")
    assert len(session.predict(INPUTS).classes) == 4
    assert call("restore", folder, "--classes", "red,blue", "--profile", "ward-7") == 0
    assert "leaves out nothing" in capsys.readouterr().out
    assert len(session.predict(INPUTS, profile="ward-7").classes) == 4
    assert held == {name: (folder / name).read_bytes() for name in held}
    assert call("suspend", folder, "--classes", "blue") == 0
    assert len(session.predict(INPUTS).classes) == 3  # whoever names no profile
    assert call("restore", folder, "--classes", "blue") == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("suspend --classes blue --in_place", "No such option '--in_place'"),
        ("forget --classes blue --in_place --profile a", "No such option '--profile'"),
        ("forget --classes blue --suspend", "No such option '--suspend'"),
        ("restore --classes blue --profile nobody", "no profile 'nobody'"),
        ("suspend --classes red,green,blue,grey", "no class would be left"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "manifest.json").read_bytes()
    assert call(*command.split(), folder) == 2
    assert message in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before


def test_a_suspension_needs_a_bundle_and_a_class_that_is_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("suspend", "--classes", "blue") == 2
    assert "Missing argument 'BUNDLES" in capsys.readouterr().err
    assert call("suspend", "--classes", "mauve", folder) == 2
    assert "mauve" in capsys.readouterr().err
    assert call("suspend", "--classes", "blue", folder, tmp_path) == 2  # the first is not changed either
    assert "not a complete bundle" in capsys.readouterr().err
    assert "blue" in PromptSession(folder, device="cpu").active()
