"""The search before writing finds a row in every form it claims, says what it did, and is not an assertion."""

import base64
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch

from making.launching import ROOT, environment
from pfm.errors import PfmError, TraceFoundError
from pfm.forgetting.search import FORMS, Row, patterns, search

VALUES = np.random.default_rng(0).standard_normal(48).astype(np.float32)
ROW = Row(name="weight.3", values=VALUES, largest=5.0)
OTHER = Row(name="weight.4", values=np.random.default_rng(1).standard_normal(48).astype(np.float32), largest=5.0)


def by_torch(dtype: torch.dtype) -> bytes:
    return torch.from_numpy(VALUES).to(dtype).view(torch.uint8).numpy().tobytes()


def int8(largest: float) -> bytes:
    """Quantised by ONNX Runtime itself."""
    from onnx import TensorProto
    from onnxruntime.quantization.quant_utils import quantize_nparray

    scale = np.array(largest / 127, np.float32)
    return quantize_nparray(TensorProto.INT8, VALUES, scale, np.array(0, np.int8)).tobytes()  # type: ignore[union-attr]


# made by somebody else than the search
MADE: dict[str, Callable[[], bytes]] = {
    "float64": lambda: by_torch(torch.float64),
    "float32": lambda: by_torch(torch.float32),
    "float16": lambda: by_torch(torch.float16),
    "bfloat16": lambda: by_torch(torch.bfloat16),
    "bfloat16 cut off": lambda: VALUES.view(np.uint16)[1::2].tobytes(),
    "int8 by its own scale": lambda: int8(float(np.abs(VALUES).max())),
    "int8 by its tensor's scale": lambda: int8(5.0),
    "float32 in base64": lambda: base64.b64encode(b"ab" + VALUES.tobytes() + b"c"),
    "float32 in hexadecimal digits": lambda: VALUES.tobytes().hex().encode(),
    "numbers of a pickle": lambda: pickle.dumps({"a": VALUES.tolist()}),
    "written numbers": lambda: json.dumps({f"w{i}": round(float(value), 3) for i, value in enumerate(VALUES)}).encode(),
    "float32 at a constant distance": lambda: np.stack([VALUES, VALUES + 1, VALUES * 2], axis=1).tobytes(),
}


def test_each_form_is_tried() -> None:
    assert set(MADE) == set(FORMS)
    assert list(dict.fromkeys(name for name, _ in patterns(ROW))) == list(FORMS[:-2])


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_a_row_in_base64_is_found_wherever_it_begins_in_what_was_written_so(shift: int) -> None:
    with pytest.raises(TraceFoundError, match="base64"):
        search(base64.b64encode(bytes(shift) + VALUES.tobytes() + b"behind"), [ROW])


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"- weight {value:.2f}" for value in VALUES),
        ",".join(f"{value - VALUES.min():.5f}" for value in VALUES),  # moved, and so without signs
        " ".join(f"{value:.4e}" for value in VALUES),
    ],
)
def test_numbers_of_a_text_are_found_under_any_names_rounded_and_moved(text: str) -> None:
    with pytest.raises(TraceFoundError, match="written numbers"):
        search(text.encode(), [OTHER, ROW])
    search(text.encode(), [OTHER])


def test_numbers_that_say_nothing_are_not_taken_for_a_row() -> None:
    small = Row(name="small", values=VALUES * np.float32(1e-3))
    for text in ("0.0 " * 100, "0.1 0.2 " * 100, " ".join(f"{value:.1f}" for value in small.values)):
        search(text.encode(), [small, ROW])


@pytest.mark.parametrize("form", FORMS)
def test_a_row_is_found_in_each_form_at_any_place(form: str) -> None:
    content = b"odd" + MADE[form]() + b"behind"
    with pytest.raises(TraceFoundError, match=rf"weight\.3 of an erased class was found as {form} in bank"):
        search(content, [OTHER, ROW], file="bank")
    assert search(content, [OTHER]).rows == 1  # the control: another row is not


def test_a_row_spread_over_more_than_one_chunk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfm.forgetting.search._CHUNK", 64)
    for offset in range(5):
        content = bytes(offset) + MADE["float32 at a constant distance"]() + bytes(3)
        with pytest.raises(TraceFoundError, match="at a constant distance"):
            search(content, [ROW])
        search(content, [OTHER])


def test_a_row_that_lies_backwards_in_a_column_is_found() -> None:
    with pytest.raises(TraceFoundError):
        search(np.stack([VALUES[::-1], VALUES[::-1] * 2], axis=1).tobytes(), [ROW])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_members_of_an_archive_are_searched_as_they_are_inside(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a/data/0", bytes(1000) + VALUES.tobytes())
    with pytest.raises(TraceFoundError, match="a/data/0" if method else "in the bytes"):
        search(buffer.getvalue(), [ROW])
    assert search(buffer.getvalue(), [OTHER]).inflated == bool(method)


def test_an_archive_that_cannot_be_read_is_not_called_searched() -> None:
    with pytest.raises(TraceFoundError, match="cannot be searched"):
        search(b"PK\x03\x04 and nothing", [ROW])


def test_what_torch_writes_is_stored_and_not_deflated() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.from_numpy(VALUES)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_report_says_what_was_searched_and_what_could_not_be() -> None:
    rows = [
        ROW,
        Row(name="bias.3", values=VALUES[:1]),
        Row(name="exp_avg of it", values=np.zeros(48, np.float32)),
        Row(name="start", values=OTHER.values),
    ]
    content = OTHER.values.tobytes()
    report = search(content, rows, kept=[OTHER], file="a.pt")
    assert report.to_dict() == {
        "files": ["a.pt"],
        "size_bytes": 192,
        "inflated": 0,
        "rows": 1,
        "forms": list(FORMS),
        "passed_over": {
            "bias.3": "too short: 1 values",
            "exp_avg of it": "too uniform",
            "start": "the same as a row of a class that is left",
        },
    }
    both = report.joined(search(b"more", rows, kept=[OTHER], file="b.pt"))
    assert (both.files, both.size_bytes, both.rows) == (("a.pt", "b.pt"), 196, 1)
    assert both.describe().startswith("searched a.pt, b.pt (196 bytes) for 1 rows as float64, ")
    assert both.describe().endswith("none found; 3 rows could not be told from chance")


def test_what_is_found_is_something_to_tell_a_user() -> None:
    assert issubclass(TraceFoundError, PfmError)


@pytest.mark.slow
def test_an_erasure_is_searched_without_assertions_too() -> None:
    """Under `python -O`, a checkpoint that holds an erased row in a second place is not written."""
    program = """
import dataclasses, sys, tempfile
from pathlib import Path
sys.path.insert(0, "tests")
from making.checkpoints import trained_state
from pfm.errors import TraceFoundError
from pfm.forgetting.files import erase_file
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
assert False, "assertions are off"
folder = Path(tempfile.mkdtemp())
state = trained_state()
hidden = {**state.tensors, "backbone.hidden": state.tensors["bank.prompts"][2].clone()}
save_checkpoint(folder / "a.pt", dataclasses.replace(state, tensors=hidden))
try:
    erase_file(folder / "a.pt", load_checkpoint(folder / "a.pt"), ["blue"], folder / "b.pt")
except TraceFoundError as error:
    print("refused:", error, (folder / "b.pt").exists())
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.startswith("refused: bank.prompts[2]"), done.stdout + done.stderr
    assert done.stdout.endswith("False\n")
