"""`pfm show`: what an artifact is, as a table and as JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from making.bundles import make_bundle
from making.checkpoints import image_checkpoint, trained_state
from making.commands import Refuse
from making.paper_tool import paper_file
from pfm.classes import ClassList
from pfm.cli import pfm, run
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER
from pfm.holding import RUN
from pfm.model.checkpoint import save_checkpoint
from pfm.storage import sha256
from pfm_export.erasing import erase_everywhere
from pfm_export.serving.bundle import Bundle

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    def show(*arguments: str | Path) -> Any:
        assert run(pfm, ["show", *map(str, arguments)]) == 0
        said = capsys.readouterr().out
        return json.loads(said) if "--json" in arguments else said

    return show


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint and a bundle that `blue` was erased from, and a profile without `green`."""
    save_checkpoint(tmp_path / "run" / "model.pt", trained_state())
    make_bundle(tmp_path / "run" / "bundle")
    erase_everywhere([tmp_path / "run"], ["blue"], reason="request 7", requested_by="ward 3")
    Bundle.open(tmp_path / "run" / "bundle").suspend(["green"], profile="ward-7")
    return tmp_path / "run"


def test_a_checkpoint_is_shown_with_its_classes_numbers_and_ledger(shown: Any, folder: Path) -> None:
    path = folder / "model.pt"
    found = shown(path, "--json")
    assert found["kind"] == "checkpoint"
    assert found["classes"] == [
        {"position": 0, "name": "red"},
        {"position": 1, "name": "green"},
        {"position": 3, "name": "grey"},
    ]
    assert found["erased"] == [{"position": 2, "name": "blue"}]
    assert (found["readout"], found["target"]) == ("cls", "uniform")
    assert (found["sha256"], found["size_bytes"]) == (sha256(path), path.stat().st_size)
    assert found["holds"] == ["averaged copies"]
    assert not found["can_be_resumed"]
    assert [line["action"] for line in found["ledger"]] == ["erase-begin", "erase"]
    assert found["recipe"]["seed"] == 42
    said = shown(path)
    assert "       3  grey" in said
    assert "  erased      2 blue" in said
    assert f"SHA-256     {sha256(path)}" in said
    assert "erase blue, reason 'request 7', by 'ward 3'" in said


def test_a_bundle_is_shown_with_its_profiles_and_files(shown: Any, folder: Path) -> None:
    bundle = folder / "bundle"
    found = shown(bundle, "--json")
    assert [item["name"] for item in found["classes"]] == ["red", "green"]
    assert found["erased"] == [{"position": 2, "name": "blue"}]
    assert found["profiles"] == {"ward-7": ["green"]}
    assert found["files"]["model.onnx"]["sha256"] == sha256(bundle / "model.onnx")
    assert "ward-7 leaves out green" in shown(bundle)
    (bundle / "model.onnx").write_bytes(b"another")
    assert "(NOT what the manifest states)" in shown(bundle)
    assert not shown(bundle, "--json")["files"]["model.onnx"]["is_as_stated"]


def test_a_ledger_and_a_folder_are_shown(shown: Any, folder: Path) -> None:
    assert [line["line"] for line in shown(folder / LEDGER, "--json")["lines"]] == [1, 2]
    assert "line 2" in shown(folder / LEDGER)
    (folder / "stranger.pt").write_bytes(b"\x80x")
    save_checkpoint(folder / "deep" / "copy", trained_state())
    found = shown(folder, "--json")
    assert [entry["kind"] for entry in found["artifacts"]] == ["bundle", "checkpoint", "ledger", "checkpoint"]
    assert [entry["path"] for entry in found["not_looked_into"]] == [str(folder / "stranger.pt")]
    said = shown(folder)
    assert "model.pt: 3 classes, readout cls" in said
    assert "erased: blue" in said
    assert "not looked into  stranger.pt: nothing tells what it is" in said
    assert "checkpoint  deep/copy: 4 classes" in said


def test_a_ledger_that_pfm_did_not_write_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.append(tmp_path / LEDGER, {"action": "erase-begin", "files": 7})
    assert run(pfm, ["show", str(tmp_path / LEDGER)]) == 2
    assert "a line that pfm did not write" in capsys.readouterr().err


def test_the_recipe_of_a_run_is_shown(shown: Any) -> None:
    old = ROOT / "tests" / "old"
    recipe = shown(old / "cls.pt", "--json")["recipe"]
    assert recipe | {"dataset": "colours.npz", "epochs": 40, "seed": 7, "model_name": "scratch:tiny"} == recipe
    assert "dataset colours.npz, model_name scratch:tiny, epoch 40, epochs 40" in shown(old / "cls.pt")
    assert "written by  pfm 0.1.0 (torch" in shown(old / "cls")


def test_a_file_of_the_papers_tool_is_shown(shown: Any, tmp_path: Path) -> None:
    path, _, _ = paper_file(tmp_path / "model.pt", num_classes=4)
    said = shown(path)
    assert "written by  the paper's tool" in said
    assert "note        the file says nothing of the backbone's configuration" in said


def test_a_run_that_ends_while_its_folder_is_shown_is_no_error(
    shown: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / RUN).write_bytes(b"{}")

    def ends(place: Path) -> ClassList:
        (place / RUN).unlink()
        return ClassList.from_names(["red"])

    monkeypatch.setattr("pfm.forgetting.artifacts.runs.run_in", ends)
    assert f"{RUN}: 1 classes" in shown(folder)


def test_what_cannot_be_shown_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    refuse = Refuse(capsys)
    (tmp_path / "empty").mkdir()
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n')
    (tmp_path / "cert.json").write_text('{"format": "pfm-certificate"}')
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "text.pt").write_text("text")
    for name, message in (
        ("nothing", "there is no checkpoint, bundle, ledger or folder"),
        ("empty", "holds no checkpoint, bundle or ledger"),
        ("log.jsonl", "is not a ledger"),
        ("cert.json", "is a certificate; pfm verify"),
        ("other.json", "is not a checkpoint, bundle, ledger or folder"),
        ("text.pt", "is not a checkpoint"),
    ):
        assert message in refuse("show", tmp_path / name)
    ledger = folder / LEDGER
    ledger.write_bytes(ledger.read_bytes().replace(b"request 7", b"request 8"))
    assert "line 1: the record was changed" in refuse("show", ledger)
    assert "line 1: the record was changed" in refuse("show", folder / "model.pt")


def test_bundles_and_ledgers_are_shown_without_torch(folder: Path) -> None:
    program = "import sys\nfrom pfm.cli import pfm, run\ncode = run(pfm, sys.argv[1:])\n"
    program += "assert 'torch' not in sys.modules\nsys.exit(code)"
    path = os.pathsep.join(str(ROOT / part) for part in (".", "export"))
    for artifact in (folder / "bundle", folder / LEDGER):
        subprocess.run(
            [sys.executable, "-c", program, "show", str(artifact)], check=True, env={**os.environ, "PYTHONPATH": path}
        )


def test_a_checkpoint_with_adapters_names_its_frozen_backbone(shown: Any, tmp_path: Path) -> None:
    checkpoint = image_checkpoint("cls-lora-norm-tokens")
    save_checkpoint(tmp_path / "model.pt", checkpoint)
    assert f"frozen      SHA-256 {checkpoint.frozen_sha256}" in shown(tmp_path / "model.pt")
