"""A file is the old one or the new one, whatever goes wrong in between."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from pfm import storage
from pfm.errors import StorageError
from pfm.locks import is_locked
from pfm.runlog import RunLog
from pfm.storage import (
    make_folder,
    parse_json,
    read_ordinary,
    replacing,
    sha256,
    sha256_bytes,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files included."""
    return sorted(os.listdir(folder))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "bank.safetensors"
    path.write_bytes(b"old")
    return path


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(old: Path) -> None:
    write_bytes(old, b"new")
    assert old.read_bytes() == b"new"
    assert names(old.parent) == [old.name]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "note.txt", "ü")
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "ü".encode()


def test_a_new_file_has_the_permissions_that_the_umask_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_no_other_thread_meets_a_umask_that_was_set_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", None)
    write_bytes(tmp_path / "file", b"")
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_file(old: Path, kind: type[BaseException]) -> None:
    def write_half() -> None:
        with replacing(old) as file:
            file.write(b"half of the new")
            raise kind

    with pytest.raises(kind):
        write_half()
    assert old.read_bytes() == b"old"
    assert names(old.parent) == [old.name]


def test_a_disk_that_fills_up_while_flushing_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match=r"bank\.safetensors.*No space left on device.*nothing was changed"):
        write_bytes(old, b"new")
    assert old.read_bytes() == b"old"
    assert names(old.parent) == [old.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_what_cannot_be_written_is_not_tried_again_when_the_file_is_closed() -> None:
    with Path("/dev/full").open("a+b") as file, pytest.raises(OSError, match="No space left"):
        write_whole(file.fileno(), b"new")
    with RunLog(Path("/dev/full")) as log, pytest.raises(StorageError, match="cannot write /dev/full: No space left"):
        log.write("start")


HALVES = [b"", b'{"event": "sta', b"x" * 200_000]


@pytest.mark.parametrize("left", [*HALVES, *(b'{"event": "step"}\n' + half for half in HALVES)])
def test_what_a_killed_run_left_of_a_line_does_not_spoil_the_next(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(left)
    with RunLog(path) as log:
        log.write("start", config={})
        log.write("end")
    whole = left[: left.rfind(b"\n") + 1]
    assert path.read_bytes().startswith(whole)
    found = [json.loads(line)["event"] for line in path.read_bytes().splitlines()]
    assert found == ["step"] * bool(whole) + ["start", "end"]


@pytest.mark.parametrize("is_held", [False, True], ids=["it has swept", "it sweeps"])
def test_a_sweep_that_is_quicker_than_the_lock_of_a_new_file_loses_nothing(
    old: Path, is_held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swept = storage.lock_file, list[Path]()

    def lock(file: BinaryIO, *, wait: bool) -> bool:
        if swept:
            return real(file, wait=wait)
        swept.extend(old.parent.glob(".*.part"))
        for part in swept:
            part.unlink()
        return not is_held

    monkeypatch.setattr(storage, "lock_file", lock)
    write_bytes(old, b"new")
    assert len(swept) == 1
    assert old.read_bytes() == b"new"
    assert not list(old.parent.glob(".*.part"))


def test_a_new_file_is_locked_until_it_is_in_place(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace(source: str, target: Path) -> None:
        assert is_locked(Path(source))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_bytes(old, b"new")
    assert old.read_bytes() == b"new"
    assert not is_locked(old)


def test_what_is_written_in_parts_is_whole(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(storage.os, "write", lambda descriptor, content: write(descriptor, content[:2]))
    with old.open("wb") as file:
        write_whole(file.fileno(), b"new ones")
    assert old.read_bytes() == b"new ones"


def test_a_file_that_hits_the_size_limit_leaves_the_old_one(old: Path) -> None:
    """The kernel refuses the bytes, in a process of its own."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pfm.errors import StorageError\n"
        "from pfm.storage import write_bytes\n"
        "try:\n"
        "    write_bytes(Path(sys.argv[1]), bytes(1 << 20))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    answer = subprocess.run(
        [sys.executable, "-B", "-c", program, str(old)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(storage.__file__).parent.parent,
    )
    assert f"cannot write {old}: File too large" in answer.stdout
    assert old.read_bytes() == b"old"
    assert names(old.parent) == [old.name]


def test_a_rename_that_fails_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(storage.os, "replace", refuse)
    with pytest.raises(StorageError, match="Read-only file system"):
        write_bytes(old, b"new")
    assert old.read_bytes() == b"old"
    assert names(old.parent) == [old.name]


def test_a_folder_that_takes_no_files_is_named(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may write everywhere, so the refusal is simulated
    def refuse(**_: object) -> tuple[int, str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(storage.tempfile, "mkstemp", refuse)
    with pytest.raises(StorageError, match=r"bank\.safetensors: Permission denied"):
        write_bytes(old, b"new")
    assert old.read_bytes() == b"old"


def test_a_path_below_a_file_is_named(old: Path) -> None:
    with pytest.raises(
        StorageError, match=r"cannot write .*bank\.safetensors/sub/file: a file stands where a folder is"
    ):
        write_bytes(old / "sub" / "file", b"new")
    with pytest.raises(StorageError, match=r"cannot write .*bank\.safetensors/file: a file stands where a folder is"):
        write_bytes(old / "file", b"new")
    assert old.read_bytes() == b"old"


def test_a_folder_of_the_same_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(StorageError, match="a folder of that name exists"):
        write_bytes(tmp_path / "model.pt", b"new")
    assert names(tmp_path) == ["model.pt"]


def test_a_file_that_was_replaced_is_not_reported_as_unchanged(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems refuse to flush a folder; the new file stands by then."""
    real = os.fsync

    def no_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(storage.os, "fsync", no_folders)
    write_bytes(old, b"new")
    assert old.read_bytes() == b"new"


def test_the_longest_file_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_bytes(path, b"new")
    assert names(tmp_path) == [path.name]


def test_json_turns_what_is_no_number_into_null(tmp_path: Path) -> None:
    content = {"nan": float("nan"), "list": [1.5, float("inf"), (float("-inf"), 2)], "deep": {"x": np.float64("nan")}}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"nan": None, "list": [1.5, None, [None, 2]], "deep": {"x": None}}
    assert text.endswith("}\n")


def test_json_of_half_a_character_is_read_as_it_was(tmp_path: Path) -> None:
    """A folder's name may be bytes of another encoding, and with it a class's."""
    storage.write_json(tmp_path / "x.json", {"b\udcff": "\udcff"})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"b\udcff": "\udcff"}


def test_json_that_cannot_be_written_leaves_the_old_file(old: Path) -> None:
    with pytest.raises(TypeError):
        write_json(old, {"a": object()})
    assert old.read_bytes() == b"old"


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert names(tmp_path / "a" / "b") == []
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_named(old: Path) -> None:
    for path in (old, old / "sub"):
        with pytest.raises(StorageError, match=r"cannot write into .*bank\.safetensors.*choose a folder"):
            make_folder(path)
    assert old.read_bytes() == b"old"


def test_hashes_are_those_of_the_bytes(old: Path) -> None:
    assert sha256(old) == sha256_bytes(b"old")
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file_that_is_written_again_may_be_read_by_whom_it_was(tmp_path: Path) -> None:
    private, copy = tmp_path / "private.pt", tmp_path / "copy.pt"
    private.write_bytes(b"old")
    private.chmod(0o600)
    write_bytes(private, b"new")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    write_bytes(copy, b"new", like=private)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    copy.chmod(0o640)
    write_bytes(copy, b"newer", like=private)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640


def test_json_of_strangers_is_standard_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_json(b'{"a": [1, 2.5, null, "x"]}') == {"a": [1, 2.5, None, "x"]}
    for content, expected in (
        (b"[" * 100_000, "nested too deeply"), (b'{"a":' * 100_000, "nested too deeply"), (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"), (b'{"a":1,"a":2}', "a key occurs twice"), (b"\xff", "decode"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=expected):
            parse_json(content)
    monkeypatch.setattr(storage, "LARGEST_JSON", 10)
    with pytest.raises(ValueError, match="are read"):
        parse_json(b"[1,2,3,4,5,6]")


def test_what_is_read_of_strangers_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name, expected in (
        ("pipe", "not an ordinary file"), ("zeros", "not an ordinary file"), ("large", "11 bytes, and 10 at most"),
        ("nothing", "No such file"),
    ):  # fmt: skip
        with pytest.raises(StorageError, match=expected):
            read_ordinary(tmp_path / name, 10)
