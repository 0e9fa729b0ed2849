"""Files that were made to do harm are refused in one line, nothing of them is executed, and memory is bounded."""

import io
import json
import os
import random
import re
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from making.hostile import MARK, Hostile, hostile_files
from pfm.cli import pfm, run
from pfm.errors import PfmError

HOSTILE = hostile_files()
MOST_MEMORY = 1 << 30  # bytes above what is taken once everything is imported


def test_there_are_as_many_as_the_page_says() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"more than (\d+) hostile", page)
    assert int(stated) < len(HOSTILE) < int(stated) + 100


def refusals(hostile: Hostile, folder: Path) -> list[tuple[int, str]]:
    """Exit code and standard error of each command that reads a hostile file."""
    path = hostile.write(folder)
    found = []
    for command in hostile.commands:
        arguments = [part.replace("{folder}", str(folder)).replace("{}", str(path)) for part in command]
        errors = io.StringIO()
        with redirect_stderr(errors), redirect_stdout(io.StringIO()):
            code = serve(path) if arguments[0] == "serve" else run(pfm, arguments)
        found.append((code, errors.getvalue()))
    return found


def serve(path: Path) -> int:
    from pfm_export.serving.session import PromptSession

    try:
        PromptSession(path, device="cpu")
    except PfmError as error:
        print(f"pfm: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    return 0


def problem(hostile: Hostile, folder: Path) -> str:
    """What went wrong with it; "" where a command refused it as it should, and the others did it no harm."""
    try:
        found = refusals(hostile, folder)
    except BaseException as error:  # anything that gets out would have been a traceback
        return f"{hostile.name}: {type(error).__name__}: {str(error)[:200]}"
    if all(code == 0 for code, _ in found):
        return f"{hostile.name}: nothing refuses it"
    for code, text in found:
        lines = text.splitlines()
        if code not in (0, 2, 3) or (code and (len(lines) != 1 or not lines[0].startswith("pfm: "))):
            return f"{hostile.name}: exit code {code}, {text[-300:]!r}"
        if len(text) > 1500:
            return f"{hostile.name}: a line of {len(text)} characters"
    if os.environ.get(MARK) and Path(os.environ[MARK]).exists():
        return f"{hostile.name}: its code was executed"
    return ""


def test_there_are_two_hundred_of_them_and_each_has_its_name() -> None:
    assert len(HOSTILE) >= 200
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)


# one of each kind, and none that takes long
QUICK = [
    hostile for hostile in random.Random(7).sample(HOSTILE, len(HOSTILE))
    if not any(command[0] in ("train", "eval") for command in hostile.commands)
    and not any(word in hostile.name for word in ("MiB", "bomb", "million"))
][:20]  # fmt: skip


@pytest.mark.parametrize("hostile", QUICK, ids=lambda hostile: hostile.name)
def test_a_hostile_file_is_refused_in_one_line(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path / "executed"))
    (tmp_path / "files").mkdir()
    assert problem(hostile, tmp_path / "files") == ""


REMARKED = ("checkpoint with a sparse tensor", "checkpoint of a zip with a pickle")


@pytest.mark.parametrize("name", REMARKED)
def test_what_torch_remarks_of_a_hostile_file_is_not_printed(name: str, tmp_path: Path) -> None:
    hostile = next(hostile for hostile in HOSTILE if hostile.name == name)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        assert problem(hostile, tmp_path) == ""
    assert remarks == []


CHILD = """
import json, resource, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from commands.test_hostile_files import HOSTILE, problem
import torch, datasets, transformers, onnxruntime, medmnist
from pfm_export.serving.session import PromptSession

def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

for hostile in HOSTILE:
    with tempfile.TemporaryDirectory() as folder:
        open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
        before = now()
        found = problem(hostile, Path(folder))
        lines = open("/proc/self/status").read().splitlines()
        high = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"name": hostile.name, "problem": found, "bytes": high - before}), flush=True)
"""


@pytest.mark.slow(seconds=50)
def test_no_hostile_file_brings_a_traceback_or_takes_a_gibibyte(tmp_path: Path) -> None:
    """All of them, one after another in one process that answers yes to whatever it is asked."""
    mark = tmp_path / "executed"
    tests = Path(__file__).parent.parent
    (tmp_path / "answers").write_bytes(b"yes\n" * 100_000)
    with (tmp_path / "answers").open("rb") as answers:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(tests)],
            stdin=answers, capture_output=True, text=True, timeout=1500, check=False,
            env={**os.environ, MARK: str(mark), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    assert len(results) == len(HOSTILE), done.stderr[-2000:]
    assert [result["problem"] for result in results if result["problem"]] == []
    assert max(result["bytes"] for result in results) < MOST_MEMORY
    assert "Traceback" not in done.stderr
    assert not mark.exists()
