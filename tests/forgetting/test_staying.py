"""What stays as it is may not hold a row of what goes, whatever it is taken for."""

import base64
import json
import shutil
import struct
import wave
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from making.bundles import make_bundle
from making.checkpoints import BLUE, trained_state
from pfm.cli import pfm, run
from pfm.errors import StorageError
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm_export.erasing import erase_everywhere
from pfm_export.serving.manifest import MANIFEST, read_manifest, write_manifest

Floats = np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and the same with the class erased."""
    folder = tmp_path_factory.mktemp("made")
    save_checkpoint(folder / "whole.pt", trained_state())
    save_checkpoint(folder / "erased.pt", erase(trained_state(), "blue"))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copy(made / "whole.pt", tmp_path / "model.pt")
    return tmp_path


def prompt() -> Floats:
    return trained_state().tensors["bank.prompts"][BLUE, 0].numpy()


def graph(path: Path, row: Floats, where: str) -> None:
    """One that takes its classes as inputs, and has a row somewhere."""
    shape = ["K", len(row)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("prompts", "scores")]
    nodes = [helper.make_node("Identity", ["prompts"], ["scores"])]
    stored = [numpy_helper.from_array(row, "scale")] if where == "initializer" else []
    if where == "constant":
        nodes.append(helper.make_node("Constant", [], ["scale"], value=numpy_helper.from_array(row)))
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], stored))
    if where == "remark":
        model.doc_string = base64.b64encode(row.tobytes()).decode()
    if where == "properties":
        helper.set_model_props(model, {"a": json.dumps({f"w{i}": float(value) for i, value in enumerate(row)})})
    onnx.save(model, str(path))


def checkpoint(path: Path, made: Path, name: str, place: str, value: object) -> None:
    content = torch.load(made / name, weights_only=True)
    content[place]["note"] = value
    torch.save(content, path)


def picture(path: Path, row: Floats) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"tEXt", b"a\0" + row.tobytes()), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def sound(path: Path, row: Floats) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(4)
        file.setframerate(8000)
        file.writeframes(row.tobytes())


def renamed(path: Path, made: Path) -> None:
    content = torch.load(made / "whole.pt", weights_only=True)
    names = content["classes"]["names"]
    content["classes"]["names"] = ["bleu" if name == "blue" else name for name in names]
    torch.save(content, path)


Maker = Callable[[Path, Path, Floats], object]
HELD: dict[str, Maker] = {
    **{
        f"{where} of a graph": lambda path, _, row, where=where: graph(path, row, where)
        for where in ("initializer", "constant", "remark", "properties")
    },
    "another name for the class": lambda path, made, _: renamed(path, made),
    "a tensor of an erased checkpoint": lambda path, made, row: checkpoint(
        path, made, "erased.pt", "model_state_dict", torch.tensor(row)
    ),
    "numbers in an erased checkpoint": lambda path, made, row: checkpoint(
        path, made, "erased.pt", "run", row.tolist()
    ),
    "letters in an erased checkpoint": lambda path, made, row: checkpoint(
        path, made, "erased.pt", "run", base64.b64encode(row.tobytes()).decode()
    ),
    "named numbers": lambda path, _, row: path.write_text(json.dumps({f"w{i}": float(v) for i, v in enumerate(row)})),
    "rounded lines": lambda path, _, row: path.write_text("\n".join(f"weight{i}: {v:.4f}" for i, v in enumerate(row))),
    "numbers without signs": lambda path, _, row: path.write_text(json.dumps((row - row.min()).round(6).tolist())),
    "a data set": lambda path, _, row: np.savez(path.with_suffix(".npz"), train_images=row.view(np.int32)),
    "a picture": lambda path, _, row: picture(path, row),
    "a sound": lambda path, _, row: sound(path, row),
}  # fmt: skip


@pytest.mark.parametrize("how", HELD)
def test_an_erasure_is_refused_where_something_that_stays_holds_a_row(folder: Path, made: Path, how: str) -> None:
    HELD[how](folder / "other", made, prompt())
    with pytest.raises(StorageError, match=r"other(\.npz)? would go on holding the class: it holds .* of model\.pt as"):
        erase_everywhere([folder], "blue")
    assert "blue" in load_checkpoint(folder / "model.pt").classes.names  # nothing was changed


def test_a_graph_without_a_row_is_clean(folder: Path) -> None:
    graph(folder / "other", prompt(), "nowhere")
    found, _ = erase_everywhere([folder], "blue")
    assert not found.traces
    assert not found.closed


def test_the_manifest_of_a_bundle_that_is_erased_from_is_searched_for_the_rows_of_its_neighbours(folder: Path) -> None:
    bundle = make_bundle(folder / "bundle")
    document = {**read_manifest(bundle).document, "note": prompt().tolist()}
    write_manifest(bundle, document)
    with pytest.raises(StorageError, match=f"{MANIFEST} would go on holding the class"):
        erase_everywhere([folder], "blue")


def test_what_is_left_is_named_and_the_exit_code_is_three(
    folder: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph(folder / "other", prompt(), "constant")
    asked = ["forget", "--in_place", "--class", "blue", str(folder)]
    assert run(pfm, asked) == 2
    assert run(pfm, [*asked, "--allow_unknown"]) == 3
    assert "still there: " in capsys.readouterr().out
    assert "blue" not in load_checkpoint(folder / "model.pt").classes.names


def test_a_run_lock_is_known_by_what_is_in_it(folder: Path) -> None:
    (folder / ".run.lock").write_bytes(b"\x93NUMPY" + prompt().tobytes())
    found, _ = erase_everywhere([folder], "blue")
    assert [seen.path.name for seen in found.closed] == [".run.lock"]
