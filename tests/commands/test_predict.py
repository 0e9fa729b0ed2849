"""`pfm predict`: files, folders, patterns and lists through a bundle or a checkpoint, an answer a line."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from making.checkpoints import image_checkpoint, sound_checkpoint
from making.commands import Refuse
from making.sounds import tone, write_wav
from pfm.cli import pfm, run
from pfm.errors import DataError
from pfm.model.checkpoint import save_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.predicting.files import Search
from pfm_export.predicting.pipeline import FileAnswer, Unreadable, predict_files
from pfm_export.serving.answers import ActiveSet
from pfm_export.serving.session import PromptSession

ROOT = Path(__file__).parent.parent.parent
COUNT = 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a bundle of images, the same of sounds, and a folder of each."""
    folder = tmp_path_factory.mktemp("predict")
    for name, checkpoint in (("image", image_checkpoint("prompt")), ("sound", sound_checkpoint("cls"))):
        save_checkpoint(folder / f"{name}.pt", checkpoint)
        export_bundle(checkpoint, folder / f"{name}_bundle")
    random = np.random.default_rng(0)
    inner = folder / "images" / "inner"
    inner.mkdir(parents=True)
    for number in range(COUNT):
        size = (12 + number % 2, 10, 3)
        where = inner if number % 3 == 2 else inner.parent
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(where / f"{number}[x].png")
        write_wav(folder / "sounds" / f"{number}.wav", tone(300 + 90 * number, 0.3 * (1 + number), rate=16000), 16000)
    (inner / "notes.txt").write_text("no picture")
    (inner / ".hidden.png").write_text("of a file system")
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def predict(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[list[dict[str, str]], str]:
    """The rows of the CSV by column, and what was said on standard error."""
    capsys.readouterr()
    assert run(pfm, ["predict", *arguments]) == code
    said = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(said.out))), said.err


@pytest.mark.parametrize("kind", ["image", "sound"])
def test_a_checkpoint_and_its_bundle_answer_as_the_session_does(
    here: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    session = PromptSession(f"{kind}_bundle", device="cpu")
    files = sorted(str(path) for path in Path(f"{kind}s").rglob("[0-9]*"))
    expected = session.predict_items(files, without=["red"])
    for artifact in (f"{kind}_bundle", f"{kind}.pt"):
        rows, _ = predict(capsys, artifact, f"{kind}s", "--without", "red", "--batch_size", "3", "--device", "cpu")
        by_path = {row["path"]: row for row in rows}
        assert sorted(by_path) == files
        for path, label, values in zip(files, expected.labels, expected.probabilities, strict=True):
            row = by_path[path]
            assert list(row) == ["path", "answer", "unknown", "p_green", "p_blue", "p_grey"]
            assert row["answer"] == label
            found = [float(row[f"p_{name}"]) for name in expected.classes]
            np.testing.assert_allclose(found, values, atol=2e-6)  # torch and ONNX Runtime, printed to six digits
            assert float(row["unknown"]) == pytest.approx(1 - values.sum(), abs=3e-6)


def test_json_lines_say_the_active_set_and_a_file_takes_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--out", "said.jsonl"], ["--format", "jsonl", "--out", "said"]):
        assert predict(capsys, "image_bundle", "images", "--active", "blue,0", *arguments)[0] == []
        lines = [json.loads(line) for line in (here / arguments[-1]).read_text().splitlines()]
        assert len(lines) == COUNT
        for line in lines:
            assert line["active"] == list(line["probabilities"]) == ["red", "blue"]
            assert line["answer"] in ("red", "blue", "unknown")
            assert line["unknown"] + sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_files_folders_patterns_and_a_list_name_the_same(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, said = predict(capsys, "image_bundle", "images")
    assert "1 .txt" in said
    names = [row["path"] for row in expected]
    assert len(names) == COUNT
    assert predict(capsys, "image_bundle", *names)[0] == expected  # brackets in a name are no pattern
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(names) + "\r\n\n"))
    assert predict(capsys, "image_bundle", "-")[0] == expected
    matched, _ = predict(capsys, "image_bundle", "images/**/*.png")
    assert sorted(row["path"] for row in matched) == sorted(names)


def test_a_bad_file_stops_or_is_skipped_and_the_exit_code_says_so(
    here: Path, capsys: pytest.CaptureFixture[str], refuse: Refuse
) -> None:
    bad = ["images/inner/notes.txt", "missing.png"]
    good = "images/0[x].png"
    assert "cannot read missing.png: it is not there" in refuse("predict", "image_bundle", good, *bad)
    error = refuse("predict", "image_bundle", good, bad[0], "--out", "never.csv")
    assert "cannot read images/inner/notes.txt: it is not an image of a known kind" in error
    assert "--skip_bad" in error
    assert not (here / "never.csv").exists()
    rows, said = predict(capsys, "image_bundle", bad[0], good, bad[1], "--skip_bad", code=3)
    assert [row["path"] for row in rows] == [good]
    assert "skipped: cannot read images/inner/notes.txt" in said
    assert "missing.png: No such file or directory" in said
    assert "1 answered, 2 skipped" in said
    assert predict(capsys, "image_bundle", bad[1], "--skip_bad", code=3)[0] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["image_bundle", "nothing*.png"], "nothing fits nothing*.png"),
        (["images", "images"], "is a folder, and not a bundle"),
        (["nothing.pt", "images"], "nothing.pt is not there"),
        (["image_bundle", "images", "--active", "mauve"], "no class 'mauve'"),
        (["image_bundle", "images", "--profile", "ward"], "no profile 'ward'"),
        (["image.pt", "images", "--profile", "ward"], "--profile is of bundles"),
        (["image.pt", "images", "--device", "tensorrt"], "tensorrt is for bundles"),
        (["image_bundle", "images", "--model_name", "here"], "--model_name is for checkpoints"),
        (["image_bundle", "-", "-"], "give - once"),
        (["image_bundle", "sounds"], "the model takes images"),
        (["image_bundle", "images", "--format", "csv", "--out", "a.jsonl"], "ends in .jsonl"),
        (["image_bundle", "images", "--without", "red,green,blue,grey"], "leave at least one active"),
    ],
)
def test_what_cannot_be_asked_is_one_line(here: Path, refuse: Refuse, arguments: list[str], says: str) -> None:
    assert says in refuse("predict", *arguments)


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    return Refuse(capsys)


def start(made: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    code = (
        "import signal, sys; from pfm.cli import pfm, run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background is started without
        "code = run(pfm, sys.argv[1:])\n"
        "assert not {'torch', 'onnx', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "export"))
    return subprocess.Popen(
        [sys.executable, "-c", code, "predict", *arguments],
        cwd=made, env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_bundle_needs_no_torch_and_an_interrupt_is_one_line(made: Path) -> None:
    process = start(made, "image_bundle", "images", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()  # of the head: it has begun, and waits for its list
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 130, error
    assert error.decode().strip().splitlines() == ["pfm: interrupted; files written so far are whole"]


def test_who_has_read_enough_closes_the_pipe(made: Path) -> None:
    process = start(made, "image_bundle", *["images"] * 400)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    assert b"Traceback" not in error


def test_names_are_taken_one_after_another_and_no_more_of_them_than_are_needed(here: Path) -> None:
    session = PromptSession("image_bundle", device="cpu")
    taken = 0

    def names() -> Iterator[str]:
        nonlocal taken
        while True:  # there is no end of them
            taken += 1
            yield "images/0[x].png" if taken % 5 else "missing.png"

    answers = predict_files(session, names(), ActiveSet(), batch_size=4, num_workers=2)
    found = [next(answers) for _ in range(50)]
    answers.close()
    assert [type(answer) for answer in found[:5]] == [FileAnswer] * 4 + [Unreadable]
    assert taken <= 50 + 4 + 2 * 2 + 4


def test_memory_does_not_grow_with_the_number_of_files(here: Path) -> None:
    session = PromptSession("image_bundle", device="cpu")

    def peak(count: int) -> int:
        names = iter(["images/0[x].png"] * count)
        tracemalloc.start()
        for _ in predict_files(session, names, ActiveSet(), batch_size=8, num_workers=2):
            pass
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    peak(20)  # what is loaded once
    assert peak(200) < 2 * peak(40) + 200_000


def test_a_pattern_that_fits_nothing_is_named_when_its_turn_comes(here: Path) -> None:
    files = Search((".png",)).files(["images/0[x].png", "nothing/*"])
    assert next(files) == "images/0[x].png"
    with pytest.raises(DataError, match="nothing fits"):
        next(files)


def test_brackets_of_a_pattern_that_fits_nothing_are_part_of_a_name(tmp_path: Path) -> None:
    for folder in ("bird [1]", "bird 1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").touch()
    (tmp_path / "owl [2]").mkdir()
    (tmp_path / "owl [2]" / "y.png").touch()
    assert list(Search((".png",)).files([f"{tmp_path}/bird [1]/*"])) == [f"{tmp_path}/bird 1/x.png"]
    assert list(Search((".png",)).files([f"{tmp_path}/owl [2]/*.png"])) == [f"{tmp_path}/owl [2]/y.png"]


def test_a_list_with_the_mark_and_line_ends_of_windows_is_read() -> None:
    listed = ["\ufeffa.png\r\n", "\r\n", "b.png\r\n"]
    assert list(Search((".png",)).files(["-"], listed)) == ["a.png", "b.png"]
