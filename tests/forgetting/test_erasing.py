"""One erasure over many artifacts: gone from every byte, nothing else touched, whenever it is killed."""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from making.bundles import make_bundle
from making.checkpoints import BLUE, trained_state
from making.files import all_bytes, files, full_disk
from pfm.cli import pfm, run
from pfm.errors import CheckpointError, ClassNameError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.centring import centred
from pfm.forgetting.erase import class_rows
from pfm.forgetting.files import erase_file, finish
from pfm.forgetting.keys import load_key
from pfm.forgetting.ledger import LEDGER, LOCK
from pfm.forgetting.search import Row
from pfm.locks import locked
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.model.classifier import BANK, class_row_names
from pfm_export.erasing import erase_everywhere
from pfm_export.serving.bundle import Bundle
from pfm_export.survey import survey

KILLS = int(os.environ.get("PFM_KILLS", "20"))


def in_every_form(rows: list[Row]) -> list[bytes]:
    """The bytes of rows as float32, float16 and bfloat16, in pieces of 16 values; flat ones tell nothing."""
    found = []
    for row in rows:
        for form in (torch.float32, torch.float16, torch.bfloat16):
            for piece in torch.from_numpy(row.values).to(form).split(16):
                if len(piece) == 16 and piece.unique().numel() > 8:
                    found.append(piece.contiguous().view(torch.uint8).numpy().tobytes())
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of eight checkpoints in two folders, two bundles among them: ten artifacts."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(4):
        save_checkpoint(folder / "run" / f"colours_seed_0_{number + 1}.pt", trained_state(number))
    save_checkpoint(folder / "run" / "colours_seed_0_resume.pt", trained_state(5))
    save_checkpoint(folder / "run" / "colours_seed_0_best.pt", trained_state(6))
    for number in range(2):
        save_checkpoint(folder / "other" / f"{number}.pt", trained_state(10 + number, "prompt"))
    make_bundle(folder / "bundle_a")
    make_bundle(folder / "run" / "bundle_b", "prompt")
    return folder


@pytest.fixture
def ten(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ten"))


def check_erased(folder: Path, original: Path) -> None:
    """Every artifact is whole and without the class, its record holds, and what stays is bit-identical or centred."""
    for file in sorted(original.rglob("*.pt")):
        before, after = load_checkpoint(file), load_checkpoint(folder / file.relative_to(original))
        assert after.classes.names == ("red", "green", "grey")
        assert after.erased == ((BLUE, "blue"),)
        assert after.progress == {}
        kept = torch.tensor([0, 1, 3])
        for old, new in ((before.tensors, after.tensors), (before.averaged, after.averaged)):
            assert old.keys() == new.keys()
            for name, tensor in old.items():
                if name in class_row_names() and name != BANK:
                    assert torch.equal(new[name], torch.from_numpy(centred(tensor[kept].numpy())))
                else:
                    assert torch.equal(new[name], tensor[kept] if name == BANK else tensor)
        assert after.moments == {}
        records = ledger.read((folder / file.relative_to(original)).parent / LEDGER)
        assert records[-1]["action"] == "erase"
        assert after.ledger_head in {record["hash"] for record in records}
    for name in ("bundle_a", "run/bundle_b"):
        before, after = Bundle.open(original / name), Bundle.open(folder / name)
        assert after.pending == ()
        assert after.classes.names == ("red", "green" if "green" in after.classes.names else "blue")
        for number, old in enumerate([p for p, n in enumerate(before.classes.names) if n in after.classes.names]):
            np.testing.assert_array_equal(after.rows([number]).prompts, before.rows([old]).prompts)
    assert not list(folder.rglob(".*.part"))


def test_every_copy_of_a_class_goes_from_ten_artifacts(ten: Path, made: Path) -> None:
    rows = [row for file in made.rglob("*.pt") for row in class_rows(load_checkpoint(file), [BLUE])]
    assert len(rows) == 6 * (3 + 3 + 6) + 2 * (1 + 1 + 2)
    pieces = in_every_form(rows)
    for name in ("bundle_a", "run/bundle_b"):
        values = torch.from_numpy(Bundle.open(made / name).rows([BLUE]).prompts.copy())
        pieces += [values.numpy().tobytes(), values.half().numpy().tobytes()]
    content = all_bytes(made)
    found = sum(piece in content for piece in pieces)
    assert found * 3 >= len(pieces)  # the control: the float32 form of each is there
    (ten / "run" / ".colours_seed_0_9.pt.x1abcdef.part").write_bytes(pieces[0])  # a killed training left it
    erase_everywhere([ten / "run", ten / "other" / "0.pt", ten / "other" / "1.pt", ten / "bundle_a"], ["blue"])
    content = all_bytes(ten)
    assert not [piece for piece in pieces if piece in content]
    check_erased(ten, made)


def test_a_second_erasure_changes_nothing_and_another_class_adds_to_the_record(ten: Path) -> None:
    erase_everywhere([ten], ["blue"])
    before = all_bytes(ten)
    _, outcomes = erase_everywhere([ten], ["blue"])
    assert {outcome.what for outcome in outcomes} == {"was erased before"}
    assert all_bytes(ten) == before
    erase_everywhere([ten], ["red", "blue"])
    assert load_checkpoint(ten / "other" / "0.pt").erased == ((2, "blue"), (0, "red"))
    assert [record["action"] for record in ledger.read(ten / "other" / LEDGER)] == ["erase-begin", "erase"] * 2


def test_a_link_leads_to_the_file_behind_it_and_a_second_name_is_reported(ten: Path) -> None:
    best = ten / "best.pt"
    best.symlink_to(ten / "other" / "0.pt")
    os.link(ten / "other" / "1.pt", ten / "copy.pt")
    with pytest.raises(StorageError, match=r"1\.pt has another name on its disk .* outside of what you named"):
        erase_everywhere([best, ten / "other" / "1.pt"], ["blue"])
    assert load_checkpoint(best).erased == ()
    found, _ = erase_everywhere([best, ten / "other" / "1.pt"], ["blue"], allow_unknown=True)
    assert found.linked == [(ten / "other" / "1.pt").resolve()]
    assert best.is_symlink()
    assert load_checkpoint(ten / "other" / "0.pt").classes.names == ("red", "green", "grey")


def test_nothing_changes_where_one_artifact_is_refused(ten: Path) -> None:
    before = all_bytes(ten)
    with pytest.raises(ClassNameError, match=r"0\.pt: no class 'pink'"):
        erase_everywhere([ten / "other" / "0.pt"], ["pink"])
    erase_everywhere([ten / "other" / "0.pt"], ["red", "green", "grey"])  # only blue is left there
    middle = all_bytes(ten)
    assert middle != before
    with pytest.raises(ClassNameError, match="would leave no class"):
        erase_everywhere([ten / "run", ten / "other"], ["blue"])
    with pytest.raises(CheckpointError, match="no checkpoint, bundle or folder"):
        erase_everywhere([ten / "run", ten / "nothing"], ["blue"])
    (ten / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint and no bundle"):
        survey([ten / "empty"])
    assert all_bytes(ten) == middle


def test_a_file_of_a_folder_that_never_had_the_class_is_passed_over(ten: Path) -> None:
    state = load_checkpoint(ten / "other" / "0.pt")
    classes = dataclasses.replace(state.classes, ids=(5, 6, 7, 8), names=("a", "b", "c", "d"))
    save_checkpoint(ten / "other" / "0.pt", dataclasses.replace(state, classes=classes))
    content = (ten / "other" / "0.pt").read_bytes()
    _, outcomes = erase_everywhere([ten / "other"], ["blue"])
    assert {outcome.path.name: outcome.what for outcome in outcomes} == {"0.pt": "never had it", "1.pt": "erased"}
    assert (ten / "other" / "0.pt").read_bytes() == content


def test_a_ledger_that_lost_its_last_lines_is_noticed(ten: Path) -> None:
    file, record = ten / "other" / "0.pt", ten / "other" / LEDGER
    erase_everywhere([file], ["blue"])
    erase_everywhere([file], ["red"])
    lines = record.read_bytes().splitlines(keepends=True)
    assert len(ledger.read(record)) == 4
    record.write_bytes(b"".join(lines[:2]))
    assert len(ledger.read(record)) == 2  # the chain alone cannot tell
    with pytest.raises(StorageError, match=r"lacks the record .* of 0\.pt: its last lines were removed"):
        erase_everywhere([file], ["green"])
    record.unlink()
    with pytest.raises(StorageError, match="its last lines were removed"):
        erase_everywhere([file], ["green"])


def test_an_erasure_that_was_announced_is_finished_by_the_next_one(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pfm.forgetting import files as forgetting

    file = ten / "other" / "0.pt"
    before = file.read_bytes()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "write_bytes", die)
        with pytest.raises(KeyboardInterrupt):
            erase_everywhere([file], ["blue"])
    assert file.read_bytes() == before
    erase_everywhere([ten / "other" / "1.pt"], ["red"])  # of another file in the folder
    assert load_checkpoint(file).erased == ((BLUE, "blue"),)
    assert load_checkpoint(ten / "other" / "1.pt").erased == ((0, "red"),)


# of six: of the folder's ledger, checkpoint and ledger, of the bundle's ledger, bank and manifest
@pytest.mark.parametrize("last", [1, 4, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 2, 3, 5))])
def test_a_disk_that_fills_up_at_any_write_loses_nothing_and_the_same_command_completes_it(
    last: int, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "bundle_a", tmp_path / "bundle")
    shutil.copy(made / "other" / "0.pt", tmp_path / "0.pt")
    before = {file: file.read_bytes() for file in files(tmp_path)}
    replace, wrote = os.replace, 0

    def fill_up(source: str, target: Path) -> None:
        nonlocal wrote
        wrote += 1
        if wrote > last:
            full_disk()
        replace(source, target)

    command = ["forget", "--class", "blue", "--in_place", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fill_up)
        assert run(pfm, command) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "No space left on device; nothing was changed there" in said
    assert sum(file.read_bytes() != old for file, old in before.items()) <= last
    assert not list(tmp_path.rglob(".*.part"))
    assert run(pfm, command) == 0
    assert load_checkpoint(tmp_path / "0.pt").erased == ((BLUE, "blue"),)
    assert "blue" not in Bundle.open(tmp_path / "bundle").classes.names


def test_a_key_that_cannot_be_written_is_not_left_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfm.forgetting.keys.write_whole", full_disk)
    with pytest.raises(StorageError, match=r"cannot use the key file .*No space left"):
        load_key(tmp_path / "signing.key")
    assert files(tmp_path) == []


def test_a_copy_that_was_killed_can_be_asked_for_again(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pfm.forgetting import files as forgetting

    source, target = ten / "other" / "0.pt", ten / "copies" / "less.pt"
    state = load_checkpoint(source)
    real = ledger.append

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the file was written
        patch.setattr(ledger, "append", die)
        with pytest.raises(KeyboardInterrupt):
            erase_file(source, state, ["blue"], target)
    assert target.exists()
    record = erase_file(source, state, ["blue"], target)
    assert record["files"][0]["file"] == "less.pt"
    target.unlink()
    with monkeypatch.context() as patch:  # before
        patch.setattr(forgetting, "write_bytes", die)
        with pytest.raises(KeyboardInterrupt):
            erase_file(source, state, ["blue"], target)
    assert finish(target.parent) is not None
    assert [r["action"] for r in ledger.read(target.parent / LEDGER)][-2:] == ["erase-begin", "abandoned"]
    erase_file(source, state, ["blue"], target)
    assert real is ledger.append


def test_an_erasure_waits_for_another_one(ten: Path) -> None:
    """Two at once on the same artifacts: one after the other, and both classes are gone."""
    paths = [ten / "run", ten / "other"]
    with ThreadPoolExecutor(2) as lanes:
        held = {}
        with contextlib.ExitStack() as stack:
            for folder in paths:
                stack.enter_context(locked(folder / LOCK))
            for name in ("blue", "red"):
                held[name] = lanes.submit(erase_everywhere, [paths[0], paths[1]], [name])
            time.sleep(0.3)
            assert not any(future.done() for future in held.values())
        for future in held.values():
            future.result(timeout=600)
    for file in ten.rglob("*.pt"):
        assert {name for _, name in load_checkpoint(file).erased} == {"blue", "red"}


def test_the_command_wants_in_place_to_be_said(ten: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ten / "other" / "0.pt")
    for arguments, message in (
        ([file], "add --in_place"),
        ([], "name a checkpoint with --ckpt"),
        (["--in_place"], "wants artifacts"),
        (["--in_place", "--ckpt", file], "--ckpt is copied, and --in_place changes what it is given for good: to"),
        (["--in_place", "--ckpt", file, str(ten / "run")], f"to erase from {file} itself, name it without --ckpt"),
        (["--ckpt", file, "--key", file], "--key signs a certificate"),
    ):
        assert run(pfm, ["forget", "--classes", "blue", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert load_checkpoint(Path(file)).erased == ()
    assert run(pfm, ["forget", "--classes", "blue", "--in-place", str(ten)]) == 0
    told = capsys.readouterr().out
    assert told.count("erased ") >= 10
    assert "cannot be undone" in told
    assert "the shared weights" in told
    assert "backups" in told


@pytest.mark.slow(seconds=35)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_erasure_killed_at_any_moment_is_completed_by_the_next(made: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of an erasure over ten artifacts."""
    draw = random.Random(0)
    paths = ["run", "other", "bundle_a"]

    def erase(folder: Path) -> None:
        erase_everywhere([folder / name for name in paths], ["blue"], reason="request 7")

    shutil.copytree(made, tmp_path / "timed")
    started = time.perf_counter()
    erase(tmp_path / "timed")
    duration = time.perf_counter() - started
    original = {f.relative_to(made): f.read_bytes() for f in made.rglob("*") if f.is_file()}
    num_killed, num_partial = 0, 0
    for number in range(5 * KILLS):
        if num_killed == KILLS:
            break
        folder = Path(shutil.copytree(made, tmp_path / str(number)))
        child = os.fork()
        if child == 0:
            erase(folder)
            os._exit(0)
        time.sleep(draw.uniform(0.2, 1) * duration)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        was_killed = os.WIFSIGNALED(status)
        num_killed += was_killed
        duration *= 1 if was_killed else 0.9  # the timed one was the slower
        changed = [name for name, old in original.items() if (folder / name).read_bytes() != old]
        num_partial += 0 < len([name for name in changed if name.name != LEDGER]) < 10
        erase(folder)
        check_erased(folder, made)
        assert ledger.read(folder / "run" / LEDGER)[-1]["reason"] == "request 7"
        shutil.rmtree(folder)
    assert num_killed == KILLS
    assert num_partial > 0  # some files erased, others not yet
