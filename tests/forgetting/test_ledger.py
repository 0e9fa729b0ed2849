"""The chain of erasures holds, and says where it was broken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pfm.errors import StorageError
from pfm.forgetting import ledger
from pfm.storage import sha256_bytes

Lines = list[bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of four records."""
    path = tmp_path / "ledger.jsonl"
    for name in ("cat", "dog", "horse", "Mäuse"):
        ledger.append(path, {"action": "erase", "classes": [{"id": 0, "name": name}], "reason": "GDPR, art. 17"})
    return path


def test_there_is_no_record_where_there_is_no_file(tmp_path: Path) -> None:
    assert ledger.read(tmp_path / "ledger.jsonl") == []
    assert ledger.head([]) == ledger.START == "0" * 64


def test_the_chain_holds_after_several_appends(path: Path) -> None:
    records = ledger.read(path)
    assert [record["classes"][0]["name"] for record in records] == ["cat", "dog", "horse", "Mäuse"]
    previous = "0" * 64
    for record in records:
        assert record["previous"] == previous
        previous = record["hash"]
    assert ledger.head(records) == previous
    assert all({"time", "pfm", "action"} <= record.keys() for record in records)


def test_a_hash_can_be_recomputed_from_the_line_by_anyone(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        claimed = record.pop("hash")
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert sha256_bytes(text.encode()) == claimed


def test_an_append_returns_what_it_wrote_and_keeps_the_lines_before(path: Path) -> None:
    before = path.read_bytes()
    record = ledger.append(path, {"action": "erase"})
    assert path.read_bytes().startswith(before)
    assert ledger.read(path)[-1] == record


def changed(lines: Lines) -> Lines:
    return [lines[0], lines[1].replace(b'"dog"', b'"cow"'), *lines[2:]]


def changed_and_sealed_again(lines: Lines) -> Lines:
    """What someone does who knows how a line is hashed; the next line still names the old hash."""
    record = json.loads(lines[1])
    del record["hash"]
    record["reason"] = "another"
    record["hash"] = sha256_bytes(ledger.canonical(record))
    return [lines[0], ledger.canonical(record), *lines[2:]]


def with_an_entry_added(lines: Lines) -> Lines:
    return [*lines[:2], b'{"added":true,' + lines[2][1:], lines[3]]


def truncated(lines: Lines) -> Lines:
    return [*lines[:3], lines[3][: len(lines[3]) // 2]]


@pytest.mark.parametrize(
    ("tamper", "number"),
    [
        (changed, 2),
        (changed_and_sealed_again, 3),
        (with_an_entry_added, 3),
        (truncated, 4),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
        (lambda lines: [*lines, lines[3]], 5),
        (lambda lines: [*lines[:2], b"", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"[1, 2]", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"\xff\xfe", *lines[2:]], 3),
        (lambda lines: [b"{}", *lines], 1),
        (lambda lines: [b"null", *lines], 1),
    ],
    ids=[
        "changed", "changed-and-sealed-again", "entry-added", "truncated", "first-removed", "second-removed",
        "swapped", "repeated", "blank", "no-object", "no-text", "empty-object", "null",
    ],
)  # fmt: skip
def test_a_broken_chain_is_reported_with_its_line(path: Path, tamper: Callable[[Lines], Lines], number: int) -> None:
    broken = b"\n".join(tamper(path.read_bytes().splitlines())) + b"\n"
    path.write_bytes(broken)
    with pytest.raises(StorageError, match=rf"ledger\.jsonl, line {number}: the record was changed"):
        ledger.read(path)
    with pytest.raises(StorageError, match=f"line {number}"):
        ledger.append(path, {"action": "erase"})
    assert path.read_bytes() == broken  # an append mends nothing in silence


def test_a_reason_that_is_no_valid_text_is_recorded_all_the_same(tmp_path: Path) -> None:
    """A byte of another encoding on the command line reaches us as a lone surrogate."""
    path = tmp_path / "ledger.jsonl"
    record = ledger.append(path, {"reason": "M\udce4use"})
    assert ledger.read(path) == [record]
    ledger.append(path, {"reason": "more"})
    assert len(ledger.read(path)) == 2


def test_two_halves_of_a_character_are_that_character_and_break_no_chain(tmp_path: Path) -> None:
    """As two escapes of JSON they would be read as one, and the line would not be what was written."""
    path = tmp_path / "ledger.jsonl"
    for _ in range(2):
        ledger.append(path, {"reason": "a\ud83d\ude00b \ude00\ud83d"})
    assert [record["reason"] for record in ledger.read(path)] == ["a\U0001f600b \ude00\ud83d"] * 2


@pytest.mark.parametrize("text", ["two\nlines", "a\u2028b\x85c", 'a "quoted" \\ word', "\x00"])
def test_a_reason_of_any_characters_stays_on_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, {"reason": text})
    ledger.append(path, {"reason": "more"})
    assert [record["reason"] for record in ledger.read(path)] == [text, "more"]


def test_a_ledger_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*ledger\.jsonl"):
        ledger.read(tmp_path / "ledger.jsonl")


ANNOUNCED = {"file": "x.pt", "source": "x.pt", "kind": "checkpoint", "sha256_before": "0" * 64}


@pytest.mark.parametrize("change", [
    {"files": [{**ANNOUNCED, "file": "../x.pt"}]}, {"files": [{**ANNOUNCED, "source": "/x.pt"}]},
    {"files": [{**ANNOUNCED, "file": ".."}]}, {"files": [{**ANNOUNCED, "file": "x\0"}]},
    {"files": [{**ANNOUNCED, "file": 3}]}, {"files": [{"file": "x.pt"}]}, {"files": 7}, {"files": ["x.pt"]},
    {"files": [{**ANNOUNCED, "kind": []}]}, {"classes": 3}, {"classes": [{"id": "0", "name": "cat"}]}, {"request": 1},
])  # fmt: skip
def test_an_announcement_that_pfm_did_not_write_is_not_acted_on(tmp_path: Path, change: dict[str, object]) -> None:
    record = {"action": "erase-begin", "request": "1", "classes": [{"id": 0, "name": "cat"}], "files": [ANNOUNCED]}
    ledger.check_announced(ledger.seal([], record), tmp_path)
    with pytest.raises(StorageError, match="is not one that pfm wrote; nothing was done"):
        ledger.check_announced(ledger.seal([], {**record, **change}), tmp_path)
