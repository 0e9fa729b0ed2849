"""The walk over what can hold a class: by content, in any depth, through links; what it cannot see is said."""

import base64
import contextlib
import dataclasses
import gzip
import io
import json
import os
import random
import shutil
import tarfile
import textwrap
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from making.bundles import make_bundle
from making.checkpoints import BLUE, trained_state
from making.files import all_bytes
from pfm.classes import ClassList
from pfm.cli import pfm, run
from pfm.errors import CheckpointError, ClassNameError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.artifacts import Verdict
from pfm.forgetting.artifacts.walk import Walk, tell, walk
from pfm.forgetting.ledger import LEDGER
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm_export import erasing
from pfm_export.erasing import BEFORE, ERASED, NEVER, erase_everywhere
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import MANIFEST
from pfm_export.survey import survey


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "model.pt"
    save_checkpoint(path, trained_state())
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "top" / "bundle")


def secrets_of(bundle: Path) -> list[bytes]:
    """The bytes of the prompt and row of `blue`, as a bank has them."""
    rows = Bundle.open(bundle).rows([BLUE])
    assert rows.weight is not None
    return [rows.prompts.tobytes(), rows.weight.tobytes()]


def is_gone(path: Path) -> bool:
    return "blue" not in load_checkpoint(path).classes.names


# --- by content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.pt", "x.pt.bak", "X.PT", ".hidden", "x", "x.png", "x.onnx", "a b\n.pt", "x.jsonl"])
def test_a_checkpoint_is_found_whatever_it_is_called(checkpoint: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "deep" / "er" / name
    file.parent.mkdir(parents=True)
    shutil.copy(checkpoint, file)
    _, outcomes = erase_everywhere([tmp_path], "blue")
    assert [(outcome.path, outcome.what) for outcome in outcomes] == [(file, ERASED)]
    assert is_gone(file)


def test_a_file_that_torch_wrote_in_its_old_form_is_named_as_not_looked_into(checkpoint: Path, tmp_path: Path) -> None:
    """torch reads that form without bounds, so it is not opened; nor is it passed over."""
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content, tmp_path / "old", _use_new_zipfile_serialization=False)
    shutil.copy(checkpoint, tmp_path / "model.pt")
    found, _ = erase_everywhere([tmp_path], "blue")
    assert [seen.path.name for seen in found.closed] == ["old"]
    assert "torch wrote it" in found.closed[0].how
    assert is_gone(tmp_path / "model.pt")


@pytest.mark.parametrize(("question", "name"), [("is_file", "theirs/about.json"), ("is_dir", "theirs")])
def test_a_folder_that_may_not_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str, name: str
) -> None:
    """Tests may run as root, who may look into everything."""
    (tmp_path / "theirs").mkdir()
    answer = getattr(Path, question)

    def may_be_refused(path: Path) -> bool:
        if path == tmp_path / name:
            raise PermissionError(13, "Permission denied", str(path))
        return answer(path)

    monkeypatch.setattr(Path, question, may_be_refused)
    with pytest.raises(StorageError, match=r"cannot look into .*theirs: Permission denied; make it readable"):
        walk([tmp_path])


def test_a_bundle_in_a_bundle_and_a_checkpoint_in_both(bundle: Path, checkpoint: Path) -> None:
    secrets = secrets_of(bundle)
    inner = make_bundle(bundle / "inner")
    for folder in (bundle, inner):
        shutil.copy(checkpoint, folder / "model.ckpt")
    erase_everywhere([bundle], "blue")
    content = all_bytes(bundle)
    assert not any(secret in content for secret in secrets)
    for folder in (bundle, inner):
        assert Bundle.open(folder).classes.names == ("red", "green")  # whole, though others wrote into its ledger
        assert is_gone(folder / "model.ckpt")
    erase_everywhere([bundle], "green")
    for folder in (bundle, inner):
        assert Bundle.open(folder).classes.names == ("red",)
        assert load_checkpoint(folder / "model.ckpt").classes.names == ("red", "grey")


@pytest.mark.parametrize("name", ["bank.safetensors.bak", ".bank", "old/bank.safetensors"])
def test_a_backup_of_a_bank_goes_with_its_bundle_or_is_not_looked_into(bundle: Path, name: str) -> None:
    secrets = secrets_of(bundle)
    backup = bundle / name
    backup.parent.mkdir(exist_ok=True)
    shutil.copy(bundle / BANK, backup)
    found, outcomes = erase_everywhere([bundle], "blue")
    if "/" in name:  # no manifest stands beside it
        assert [(seen.path, "a bank without a manifest" in seen.how) for seen in found.closed] == [(backup, True)]
        return
    assert {outcome.path for outcome in outcomes if outcome.what == ERASED} == {bundle, backup}
    assert not any(secret in all_bytes(bundle) for secret in secrets)
    assert set(safetensors.numpy.load_file(backup)) == {
        f"{k}.{i}" for k in ("prompt", "weight", "bias") for i in (0, 1)
    }
    _, outcomes = erase_everywhere([bundle], "blue")
    assert {outcome.what for outcome in outcomes} == {BEFORE}


def test_a_backup_from_before_an_earlier_erasure_is_found_by_the_same_command(bundle: Path) -> None:
    secrets, backup = secrets_of(bundle), bundle.parent / "backup"
    shutil.copy(bundle / BANK, backup)
    erase_everywhere([bundle], "blue")
    shutil.move(backup, bundle / "bank.old")
    assert any(secret in all_bytes(bundle) for secret in secrets)
    erase_everywhere([bundle], "blue")
    assert not any(secret in all_bytes(bundle) for secret in secrets)


def test_the_bank_of_another_bundle_is_not_taken_for_its_neighbours(bundle: Path) -> None:
    tensors = {f"{kind}.{i}": np.full(shape, i, np.float32)
               for i in range(3) for kind, shape in (("prompt", (2, 6)), ("weight", (6,)), ("bias", ()))}  # fmt: skip
    (bundle / "other").write_bytes(safetensors.numpy.save(tensors))
    found, _ = erase_everywhere([bundle], "blue")
    assert "the bank of another bundle" in found.closed[0].how


def test_a_class_that_only_some_artifacts_have_goes_from_those(checkpoint: Path, bundle: Path) -> None:
    file = bundle.parent / "model.pt"
    shutil.copy(checkpoint, file)
    _, outcomes = erase_everywhere([bundle.parent], ["blue", "grey"])  # the bundle has no class grey
    assert {outcome.what for outcome in outcomes} == {ERASED}
    assert load_checkpoint(file).classes.names == ("red", "green")
    _, outcomes = erase_everywhere([bundle.parent], "grey")
    assert {outcome.path: outcome.what for outcome in outcomes} == {bundle: NEVER, file: BEFORE}


# --- what is clean, and what is not looked into -------------------------------------------------------


def write_archive(kind: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        inside = b"a checkpoint"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("model.pt", inside)
        elif kind == "tar":
            with tarfile.open(path, "w") as archive:
                archive.addfile(tarfile.TarInfo("model.pt"), io.BytesIO())
        elif kind == "gz":
            path.write_bytes(gzip.compress(inside))
        else:
            path.write_bytes({"7z": b"7z\xbc\xaf\x27\x1c", "xz": b"\xfd7zXZ\x00"}[kind] + inside)

    return write


def picture_with_an_archive_behind(path: Path) -> None:
    Image.new("L", (4, 4)).save(path, "png")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.pt", b"x")


CLOSED: dict[str, Callable[[Path], object]] = {
    **{f"a.{kind}": write_archive(kind) for kind in ("zip", "tar", "gz", "7z", "xz")},
    "tensors.npz": lambda path: np.savez(path, prompt=np.ones(3)),
    "array.npy": lambda path: np.save(path, np.ones(3)),
    "other.safetensors": lambda path: path.write_bytes(safetensors.numpy.save({"weight": np.ones(3, np.float32)})),
    "list.pkl": lambda path: path.write_bytes(b"\x80\x04]\x94."),
    "torch.pt": lambda path: torch.save({"a": torch.ones(3)}, path),
    "noise.bin": lambda path: path.write_bytes(np.random.default_rng(0).bytes(500)),
    "picture.png": picture_with_an_archive_behind,
    "rows.json": lambda path: path.write_text(str(np.random.default_rng(0).standard_normal(32).tolist())),
    "word.txt": lambda path: path.write_text("QUJD" * 300),
    "database": lambda path: path.write_bytes(b"SQLite format 3\x00" + bytes(9)),
}
CLEAN: dict[str, Callable[[Path], object]] = {
    "log.jsonl": lambda path: path.write_text('{"event": "step", "loss": 0.5}\n' * 50),
    "accuracies.json": lambda path: path.write_text(str({"full_bank": [0.5, 0.25] * 40})),
    "umlaut.txt": lambda path: path.write_text("ä" * 3000),
    "empty.pt": lambda path: path.touch(),
    "picture.png": lambda path: Image.new("L", (4, 4)).save(path),
    "photo.jpg": lambda path: Image.new("L", (4, 4)).save(path),
    "sound.wav": lambda path: path.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(20)),
    "colours.npz": lambda path: np.savez_compressed(
        path, train_images=np.ones((3, 8, 8), np.uint8), train_labels=np.ones((3, 1), np.int64)
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_may_hold_a_class_and_cannot_be_looked_into_is_named_and_the_exit_code_is_three(
    bundle: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle.parent / "sub" / name
    path.parent.mkdir()
    CLOSED[name](path)
    before = path.read_bytes()
    arguments = ["forget", "--class", "blue", "--in_place", str(bundle.parent)]
    assert run(pfm, arguments) == 3
    said = capsys.readouterr()
    assert f"not looked into: {path}: " in said.out
    assert len(said.err.splitlines()) == 1
    assert "was not looked into" in said.err
    assert path.read_bytes() == before
    assert Bundle.open(bundle).classes.names == ("red", "green")
    assert list(ledger.read(bundle / LEDGER)[-1]["looked"]["not_looked_into"]) == [str(path)]
    assert run(pfm, [*arguments, "--allow_unknown"]) == 0


@pytest.mark.parametrize("name", CLEAN)
def test_what_holds_no_class_is_listed_as_clean_with_the_reason(
    bundle: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle.parent / name
    CLEAN[name](path)
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(bundle.parent)]) == 0
    assert f"clean              {path}: " in capsys.readouterr().out


def test_many_clean_files_of_one_kind_are_counted(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(50):
        (bundle.parent / f"{number}.txt").write_text("text")
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(bundle.parent)]) == 0
    said = capsys.readouterr().out
    assert said.count(".txt: text") == 19
    assert f"{bundle.parent}: 31 more of them: text" in said
    assert ledger.read(bundle / LEDGER)[-1]["looked"]["clean"]


def test_a_pipe_is_not_opened(bundle: Path) -> None:
    os.mkfifo(bundle.parent / "pipe")
    assert survey([bundle.parent]).closed[0].how == "a pipe, socket or device"
    (bundle / ".lock").unlink(missing_ok=True)
    os.mkfifo(bundle / ".lock")
    with pytest.raises(StorageError, match="not a regular file"):
        erase_everywhere([bundle], "blue")


def test_a_file_named_by_itself_that_is_no_artifact_is_refused(bundle: Path) -> None:
    for name, make in CLOSED.items():
        path = bundle.parent / name
        make(path)
        with pytest.raises(CheckpointError, match=name):
            erase_everywhere([path, bundle], "blue")
    assert Bundle.open(bundle).classes.names == ("red", "green", "blue")


# --- links and copies ---------------------------------------------------------------------------------


def test_a_bundle_of_links_into_a_store_is_erased_in_the_store(bundle: Path, tmp_path: Path) -> None:
    """As huggingface_hub lays out its cache: the links were replaced, and the blobs kept everything."""
    secrets, blobs, snapshot = secrets_of(bundle), tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(bundle.iterdir())):
        shutil.copy(file, blobs / f"{number:064}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064}")
    assert any(secret in all_bytes(blobs) for secret in secrets)
    found, _ = erase_everywhere([snapshot], "blue")
    assert found.closed == []
    assert not any(secret in all_bytes(tmp_path / "hub") for secret in secrets)
    assert (snapshot / BANK).is_symlink()
    assert not (snapshot / LEDGER).is_symlink()  # the empty file in the store is everybody's
    assert (blobs / f"{sorted(file.name for file in bundle.iterdir()).index(LEDGER):064}").read_bytes() == b""
    assert Bundle.open(snapshot).classes.names == ("red", "green")
    assert survey([tmp_path / "hub"]).closed == []  # the blobs are known to be the bundle's


def test_two_bundles_of_links_to_the_same_files_are_refused(bundle: Path) -> None:
    for name in ("first", "second"):
        (bundle.parent / name).mkdir()
        for file in bundle.iterdir():
            (bundle.parent / name / file.name).symlink_to(file)
    before = all_bytes(bundle.parent)
    with pytest.raises(StorageError, match="are links to the same"):
        erase_everywhere([bundle.parent / "first", bundle.parent / "second"], "blue")
    assert all_bytes(bundle.parent) == before


def test_links_to_folders_are_followed_once_and_loops_end(checkpoint: Path, tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    for folder in (top / "a", elsewhere):
        folder.mkdir(parents=True)
    shutil.copy(checkpoint, elsewhere / "model.pt")
    (top / "a" / "linked").symlink_to(elsewhere)
    (top / "again").symlink_to(elsewhere)
    (top / "a" / "loop").symlink_to(top)
    (elsewhere / "back").symlink_to(top / "a")
    (top / "self").symlink_to("self")
    found, outcomes = erase_everywhere([top], "blue")
    assert [outcome.path for outcome in outcomes] == [elsewhere / "model.pt"]
    assert is_gone(elsewhere / "model.pt")
    assert [(seen.path, seen.how) for seen in found.closed] == [(top / "self", "a link that leads nowhere")]


def test_a_link_to_a_folder_around_the_named_one_does_not_widen_the_erasure(checkpoint: Path, tmp_path: Path) -> None:
    top = tmp_path / "runs" / "one"
    top.mkdir(parents=True)
    shutil.copy(checkpoint, top / "model.pt")
    shutil.copy(checkpoint, tmp_path / "runs" / "other.pt")
    (top / "up").symlink_to(tmp_path / "runs")
    found, _ = erase_everywhere([top], "blue")
    assert "name that" in found.closed[0].how
    assert not is_gone(tmp_path / "runs" / "other.pt")


def test_a_hard_link_outside_is_refused_and_one_inside_is_erased_under_both_names(
    bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    secrets, top, outside = secrets_of(bundle), bundle.parent, tmp_path / "backup"
    shutil.copy(checkpoint, top / "one.pt")
    os.link(top / "one.pt", top / "two.pt")
    shutil.copytree(bundle, outside, copy_function=os.link)
    before = all_bytes(tmp_path)
    with pytest.raises(StorageError, match="another name on its disk"):
        erase_everywhere([top], "blue")
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(top)]) == 2
    assert all_bytes(tmp_path) == before
    erase_everywhere([top, outside], "blue")
    assert is_gone(top / "one.pt")
    assert is_gone(top / "two.pt")
    assert not any(secret in all_bytes(tmp_path) for secret in secrets)


def test_a_hard_link_outside_is_said_and_counts_as_not_looked_into(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.link(bundle / BANK, tmp_path / "kept")
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(bundle), "--allow_unknown"]) == 0
    assert f"still there: {bundle} has another name" in capsys.readouterr().out


def test_copies_of_the_same_bytes_are_reported_and_erased(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.pt", "b.bak"):
        shutil.copy(checkpoint, tmp_path / name)
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(tmp_path)]) == 0
    assert f"from  checkpoint  {tmp_path / 'b.bak'}, a copy of {tmp_path / 'a.pt'}\n" in capsys.readouterr().out
    assert is_gone(tmp_path / "a.pt")
    assert is_gone(tmp_path / "b.bak")


# --- anything ------------------------------------------------------------------------------------------


PLANTS = ("checkpoint", "checkpoint", "bundle", "backup", "link", "clean", "closed", "folder", "folder")


def plant(folder: Path, draw: random.Random, checkpoint: Path, depth: int = 0) -> None:
    """A random tree of artifacts, backups, links, clean files and files that cannot be looked into."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(draw.randint(1, 4)):
        name = draw.choice(["x.pt", ".hidden", "X.PT.bak", "data", "notes.txt", "ü"]) + str(number)
        kind = draw.choice(
            ["checkpoint", "checkpoint", "bundle", "backup", "link", "clean", "closed", "folder", "folder"]
        )
        path = folder / name
        if kind == "checkpoint":
            shutil.copy(checkpoint, path)
        elif kind == "bundle" and depth < 4:
            make_bundle(path)
            plant(path, draw, checkpoint, depth + 1)
        elif kind == "backup" and (folder / BANK).exists():
            shutil.copy(folder / BANK, path)
        elif kind == "link":
            around = [place for place in folder.parent.rglob("*") if not place.is_symlink() and place != folder]
            path.symlink_to(draw.choice(around or [folder]))
        elif kind == "clean":
            clean = draw.choice(list(CLEAN))
            CLEAN[clean](folder / clean)
        elif kind == "closed":
            CLOSED["noise.bin"](path)
        elif kind == "folder" and depth < 4:
            plant(path, draw, checkpoint, depth + 1)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_nothing_of_a_class_is_left_in_any_tree_and_every_file_is_accounted_for(
    checkpoint: Path, tmp_path: Path, seed: int
) -> None:
    top = tmp_path / "top"
    shutil.copy(checkpoint, tmp_path / "model.pt")
    make_bundle(top)
    secrets = [*secrets_of(top), trained_state().tensors["bank.prompts"][BLUE].numpy().tobytes()]
    plant(top, random.Random(seed), tmp_path / "model.pt")
    everything = {Path(os.path.realpath(path)) for path in top.rglob("*") if path.is_file()}
    found, _ = erase_everywhere([top], "blue", allow_unknown=True)
    for file in top.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(secret in content for secret in secrets), file
    again = walk([top])
    members = {member for files in again.kept.values() for member in files}
    assert everything <= {*again.seen, *members}
    assert {outcome.what for outcome in erase_everywhere([top], "blue", allow_unknown=True)[1]} == {BEFORE}
    assert all(seen.how for seen in found.others)


def test_a_graph_that_takes_its_classes_is_clean_and_one_with_them_inside_is_not(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def write(path: Path, inputs: list[str], stored: list[str], outputs: list[str]) -> None:
        graph = helper.make_graph(
            [helper.make_node("Identity", [(inputs + stored)[0]], outputs)],
            "graph",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in outputs],
            [helper.make_tensor(name, TensorProto.FLOAT, [1, 4], [0.5] * 4) for name in stored],
        )
        onnx.save(helper.make_model(graph), path)

    for number, (inputs, stored, outputs, verdict) in enumerate(
        [
            (["pixel_values", "prompts"], ["kernel"], ["scores"], Verdict.CLEAN),
            (["pixel_values"], ["kernel"], ["tokens"], Verdict.CLEAN),
            (["pixel_values"], ["kernel"], ["scores"], Verdict.CLOSED),
            (["pixel_values", "prompts"], ["prompts"], ["scores"], Verdict.CLOSED),
            (["tokens", "prompts"], ["class_weight"], ["logits"], Verdict.CLOSED),
        ]
    ):
        path = tmp_path / f"{number}.bin"
        write(path, inputs, stored, outputs)
        assert tell(path).verdict is verdict, (inputs, stored)
        path.write_bytes(path.read_bytes()[:-3])
        assert tell(path).verdict is Verdict.CLOSED


def test_old_bundles_graphs_are_not_flagged() -> None:
    old = Path(__file__).parent.parent / "old"
    assert survey([old]).closed == []
    assert MANIFEST not in {seen.path.name for seen in survey([old]).others}


# --- what others wrote -------------------------------------------------------------------------------


def announce(folder: Path, **entry: str) -> None:
    """A ledger, made by hand, that announces an erasure of `blue`."""
    file = {"kind": "checkpoint", "sha256_before": "0" * 64, **entry}
    begun = {"action": "erase-begin", "request": "1", "classes": [{"id": BLUE, "name": "blue"}], "files": [file]}
    told = {"erased": [], "changed": [], "remains": [], "reason": "", "requested_by": ""}
    ledger.write(folder / LEDGER, [ledger.seal([], {**begun, **told})])


@pytest.mark.parametrize("name", ["../other/y.pt", "link.pt"])
def test_a_ledger_cannot_lead_an_erasure_out_of_its_folder(tmp_path: Path, checkpoint: Path, name: str) -> None:
    for place in ("given/x.pt", "other/y.pt"):
        (tmp_path / place).parent.mkdir()
        shutil.copy(checkpoint, tmp_path / place)
    (tmp_path / "given" / "link.pt").symlink_to(tmp_path / "other" / "y.pt")
    announce(tmp_path / "given", file=name, source=name)
    with pytest.raises(StorageError):
        erase_everywhere([tmp_path / "given" / "x.pt"], "green")
    assert (tmp_path / "other" / "y.pt").read_bytes() == checkpoint.read_bytes()


def test_a_ledger_that_announces_an_erasure_from_a_picture_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "x.pt")
    announce(tmp_path, file="x.pt", source="x.pt", kind="picture")
    with pytest.raises(StorageError, match="from a picture, which holds no class"):
        erase_everywhere([tmp_path], "green")


def test_a_number_is_one_class_over_several_artifacts_or_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "x.pt")
    state = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "y.pt", dataclasses.replace(state, classes=ClassList.from_names(["a", "b", "c", "d"])))
    with pytest.raises(ClassNameError, match="number 2 is not the same class everywhere"):
        erase_everywhere([tmp_path], BLUE)
    assert not is_gone(tmp_path / "x.pt")


def test_a_folder_that_appears_while_another_goes_is_locked_too(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look finds other folders than the first, and no fewer and no more of them."""
    shutil.copytree(checkpoint.parent, tmp_path / "top" / "a")
    held: list[set[Path]] = []
    looked = erasing.look_at

    def look(*given: Any) -> Walk:
        if len(held) == 1 and (tmp_path / "top" / "a").exists():
            (tmp_path / "top" / "a").rename(tmp_path / "top" / "b")
        return looked(*given)

    @contextlib.contextmanager
    def note(folders: Any) -> Generator[None]:
        held.append(set(folders))
        yield

    monkeypatch.setattr(erasing, "look_at", look)
    monkeypatch.setattr(erasing, "_locked", note)
    erase_everywhere([tmp_path / "top"], "blue")
    assert held[-1] == {tmp_path / "top" / "b"}


# --- text --------------------------------------------------------------------------------------------

PROMPT = [float(value) for value in np.random.default_rng(0).standard_normal(64).astype(np.float32)]
BYTES = np.random.default_rng(0).standard_normal(400).astype(np.float32).tobytes()
WRITTEN = {
    "a list of JSON": json.dumps({"a": PROMPT}, indent=2),
    "an object of JSON": json.dumps({str(number): value for number, value in enumerate(PROMPT)}),
    "YAML": "prompt:\n" + "".join(f"    - {value}\n" for value in PROMPT),
    "CSV with numbers of rows": "".join(f"{number},{value}\n" for number, value in enumerate(PROMPT)),
    "CSV in quotes": ",".join(f'"{value}"' for value in PROMPT),
    "scaled to whole numbers": str([int(value * 1e6) for value in PROMPT]),
    "bits of floats": str(np.frombuffer(BYTES, "<u4").tolist()),
    "base64": base64.b64encode(BYTES).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(BYTES).decode(),
    "base64 in lines": base64.encodebytes(BYTES).decode(),
    "base64 in lines, in JSON": json.dumps({"a": base64.encodebytes(BYTES).decode()}),
    "base85": base64.b85encode(BYTES).decode(),
    "hexadecimal in lines": textwrap.fill(BYTES.hex(), 64),
    "hexadecimal in groups": BYTES.hex(" "),
    "a dump": "\n".join(f"{at:08x}: {BYTES[at : at + 16].hex(' ', 2)}  ................" for at in range(0, 1600, 16)),
}
PLAIN = {
    "a log": '{"epoch": 1, "loss": -0.25, "lr": 1e-05, "class_1": 0.5}\n' * 100,
    "pixels": "\n".join(",".join(str((17 * at) % 256) for at in range(64)) for _ in range(64)),
    "measures without a sign": " ".join(f"{value % 1:.4f}" for value in PROMPT),
    "a page": ("# Title\n\n" + "-" * 500 + "\n| a | 0.5 | -0.25 |\n" + "word " * 200 + "\n") * 20,
    "dates": "2026-11-26 10:11:12\n" * 100,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_that_may_hold_a_prompt_is_not_taken_for_harmless(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text(f"notes\n{WRITTEN[name]}\n")
    assert tell(tmp_path / "notes.txt").verdict is Verdict.CLOSED


@pytest.mark.parametrize("name", PLAIN)
def test_other_text_is_harmless(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text(PLAIN[name])
    assert tell(tmp_path / "notes.txt").verdict is Verdict.CLEAN


def noise(side: int, kind: str = "PNG") -> bytes:
    """A picture in which every byte occurs."""
    drawn = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(drawn, kind)
    return drawn.getvalue()


def page(*contents: bytes, kind: str = "png") -> str:
    parts = (f'<img src="data:image/{kind};base64,{base64.b64encode(content).decode()}">' for content in contents)
    return f"<!doctype html><h1>Measures</h1>{''.join(parts)}"


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif"])
def test_a_page_with_pictures_in_it_is_harmless_if_they_are_whole(tmp_path: Path, kind: str) -> None:
    whole, path = noise(300, kind), tmp_path / "page.html"
    path.write_text(page(whole, whole, kind=kind))
    assert tell(path).verdict is Verdict.CLEAN
    for content in (BYTES, whole + BYTES, whole[:-9], whole[:9] + BYTES):
        path.write_text(page(content, whole, kind=kind))
        assert tell(path).verdict is Verdict.CLOSED


def test_a_picture_of_a_page_may_be_longer_than_what_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = noise(40), tmp_path / "page.html"
    path.write_text(page(*[whole] * 3))
    for size in (100, 1009, 5000, 6641):
        monkeypatch.setattr("pfm.forgetting.artifacts.text._PIECE", size)
        assert tell(path).verdict is Verdict.CLEAN
    path.write_text(page(whole, whole[:-9]))
    assert tell(path).verdict is Verdict.CLOSED


def test_a_picture_or_sound_with_something_behind_it_is_not_taken_for_harmless(tmp_path: Path, bundle: Path) -> None:
    picture, sound = io.BytesIO(), b"RIFF" + (36).to_bytes(4, "little") + b"WAVE" + bytes(32)
    Image.new("L", (4, 4)).save(picture, "PNG")
    for content in (picture.getvalue(), sound):
        (tmp_path / "x").write_bytes(content)
        assert tell(tmp_path / "x").verdict is Verdict.CLEAN
        (tmp_path / "x").write_bytes(content + (bundle / BANK).read_bytes())
        assert tell(tmp_path / "x").verdict is Verdict.CLOSED
