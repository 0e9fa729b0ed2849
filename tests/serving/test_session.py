"""Serving without torch: any active set, images of any kind, erasing while it runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession, OrtValue
from PIL import Image

from making.checkpoints import PREPROCESS, image_checkpoint
from pfm.errors import BundleError, ClassNameError, DataError, DeviceError, NotLookedIntoError
from pfm_export.graph.export import export_bundle
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.images import ImageSettings, preprocess
from pfm_export.serving.manifest import write_manifest
from pfm_export.serving.runtime import Graph, Tensor
from pfm_export.serving.session import ActiveSet, PromptSession
from pfm_export.serving.signature import MODEL

INPUTS = np.random.default_rng(0).standard_normal((5, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("cls", "prompt"):
        export_bundle(image_checkpoint(name), folder / name)
    return {name: folder / name for name in ("cls", "prompt")}


@pytest.fixture(params=["cls", "prompt"])
def folder(request: pytest.FixtureRequest, bundles: dict[str, Path], tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(bundles[request.param], tmp_path / "bundle"))


def test_only_active_classes_are_answered(folder: Path) -> None:
    session = PromptSession(folder, device="cpu")
    for active in (["red"], ["grey", "green"], [0, 1, 2]):
        prediction = session.predict(INPUTS, active)
        assert set(prediction.labels) <= {*prediction.classes, "unknown"}
        assert len(prediction.classes) == len(active)
        assert prediction.probabilities.shape == (5, len(active))
    everything = session.predict(INPUTS)
    assert everything.classes == ("red", "green", "blue", "grey")
    without = session.predict(INPUTS, without=["blue"])
    assert "blue" not in without.labels
    assert session.predict(INPUTS).labels == everything.labels  # suspending lasts one call


def test_probabilities_sum_to_one_less_the_share_of_unknown(folder: Path) -> None:
    session = PromptSession(folder, device="cpu")
    prediction = session.predict(INPUTS)
    sums = prediction.probabilities.sum(axis=1)
    if session.manifest["readout"] == "cls":
        np.testing.assert_allclose(sums, 1, rtol=1e-6)
    else:
        assert (sums < 1).all()
    for label, row in zip(prediction.labels, prediction.probabilities, strict=True):
        best = prediction.classes[int(row.argmax())]
        assert label == (best if row.max() > 1 - row.sum() else "unknown")


def test_an_erased_class_is_never_answered_again(folder: Path) -> None:
    session = PromptSession(folder, device="cpu")
    session.erase(["blue"], reason="request 7")
    assert session.classes.names == ("red", "green", "grey")
    assert "blue" not in session.predict(INPUTS).labels
    with pytest.raises(ClassNameError, match="no class 'blue'"):
        session.predict(INPUTS, ["blue"])
    again = PromptSession(folder, device="cpu")
    assert again.classes == session.classes
    np.testing.assert_array_equal(again.predict(INPUTS).probabilities, session.predict(INPUTS).probabilities)


def test_an_erasure_beside_a_backup_of_the_bank_is_done_and_says_so(folder: Path) -> None:
    backup = folder / "bank.safetensors.bak"
    backup.write_bytes((folder / "bank.safetensors").read_bytes())
    session = PromptSession(folder, device="cpu")
    with pytest.raises(NotLookedIntoError, match=r"blue: erased .*bank\.safetensors\.bak may hold it"):
        session.erase("blue")
    assert "blue" not in session.predict(INPUTS).labels
    session.erase("grey", allow_unknown=True)
    assert session.classes.names == ("red", "green")


def test_preprocessing_gives_the_numbers_of_training(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for shape in ((8, 8, 3), (8, 8), (19, 13, 3), (5, 7), (64, 64, 3)):
        image = random.integers(0, 256, shape, dtype=np.uint8)
        stored = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None]
        expected = PREPROCESS(stored).numpy()
        path = tmp_path / "image.png"
        Image.fromarray(image).save(path)
        for source in (image, Image.fromarray(image), path, str(path)):
            found = preprocess([source], ImageSettings.of(PREPROCESS.to_dict()))
            # two float32 implementations of one resampling: 1e-4 of a grey level in units of the deviation
            np.testing.assert_allclose(found, expected, atol=2e-5)


def test_what_is_not_an_image_is_refused(folder: Path, tmp_path: Path) -> None:
    session = PromptSession(folder, device="cpu")
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    for bad in (text, tmp_path / "missing.png", np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), np.float32)):
        with pytest.raises(DataError):
            session.predict_images([bad])


def test_inputs_of_another_shape_are_refused(folder: Path) -> None:
    session = PromptSession(folder, device="cpu")
    for shape in ((1, 3, 9, 8), (1, 1, 8, 8), (3, 8, 8)):
        with pytest.raises(DataError, match="does not fit the graph"):
            session.predict(np.zeros(shape, np.float32))
    with pytest.raises(ClassNameError, match="no class is active"):
        session.predict(INPUTS, [])
    with pytest.raises(ClassNameError, match="at least one active"):
        session.predict(INPUTS, without=["red", "green", "blue", "grey"])


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DeviceError, match="use --device cpu"):
        PromptSession(folder, device="cuda")
    with pytest.raises(DeviceError, match="choose auto, cpu, cuda, tensorrt, openvino or openvino-bf16"):
        PromptSession(folder, device="tpu")


def test_a_file_that_is_not_a_graph_is_refused_before_any_prediction(folder: Path) -> None:
    import json

    from pfm.storage import sha256

    (folder / MODEL).write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="was changed"):
        PromptSession(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][MODEL]["sha256"] = sha256(folder / MODEL)  # even if its hash is right
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match="is refused: it is not an ONNX graph"):
        PromptSession(folder)


def test_serving_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys, numpy as np; from pfm_export.serving.session import PromptSession\n"
        "session = PromptSession(sys.argv[1], device='cpu')\n"
        "session.predict_images([np.zeros((8, 8, 3), np.uint8)])\n"
        "session.erase(['blue'])\n"
        "heavy = {'torch', 'transformers', 'onnx', 'peft', 'accelerate', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(__file__).parent.parent.parent
    path = ":".join(str(root / part) for part in (".", "export"))
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env={"PYTHONPATH": path, "PATH": ""})


def test_plain_onnxruntime_and_safetensors_serve_a_bundle(folder: Path) -> None:
    """What docs/serving.md shows, with nothing of ours."""
    import json

    import onnxruntime
    from safetensors.numpy import load_file

    manifest = json.loads((folder / "manifest.json").read_text())
    bank = load_file(folder / "bank.safetensors")
    ids = [entry["id"] for entry in manifest["classes"] if entry["name"] != "blue"]
    feed = {"pixel_values": INPUTS, "prompts": np.concatenate([bank[f"prompt.{i}"] for i in ids])}
    if manifest["readout"] == "cls":
        feed["class_weight"] = np.stack([bank[f"weight.{i}"] for i in ids])
        feed["class_bias"] = np.stack([bank[f"bias.{i}"] for i in ids])
    scores = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"]).run(None, feed)[0]
    session = PromptSession(folder, device="cpu")
    np.testing.assert_array_equal(scores, session.scores(INPUTS, without=["blue"]))


def test_a_mixed_batch_is_answered_row_by_row(folder: Path) -> None:
    session = PromptSession(folder, device="cpu")
    sets = [ActiveSet(("red",)), ActiveSet(), ActiveSet(("grey", "green")), ActiveSet(), ActiveSet((3, 1))]
    for row, answer in enumerate(session.predict_each(INPUTS, sets)):
        alone = session.predict(INPUTS[row : row + 1], sets[row].active)
        assert (answer.labels, answer.classes) == (alone.labels, alone.classes)
        np.testing.assert_allclose(answer.probabilities, alone.probabilities, atol=1e-6)


def test_a_suspended_class_is_out_of_its_profile_until_it_is_restored(folder: Path) -> None:
    session, other = (PromptSession(folder, device="cpu") for _ in range(2))
    bank = (folder / "bank.safetensors").read_bytes()
    session.suspend(["blue", "red"], profile="ward-7")
    for each in (session, other):  # another session takes notice too
        assert each.predict(INPUTS, profile="ward-7").classes == ("green", "grey")
        assert each.predict(INPUTS).classes == ("red", "green", "blue", "grey")
        with pytest.raises(ClassNameError, match="suspended in profile 'ward-7': blue"):
            each.predict(INPUTS, ["blue", "green"], profile="ward-7")
        with pytest.raises(ClassNameError, match="no profile 'ward-8'; the bundle's profiles: ward-7"):
            each.predict(INPUTS, profile="ward-8")
    answers = other.predict_each(INPUTS[:2], [ActiveSet(profile="ward-7"), ActiveSet()])
    assert [len(answer.classes) for answer in answers] == [2, 4]
    session.restore(["red"], profile="ward-7")
    assert other.active(profile="ward-7") == ("red", "green", "grey")
    assert (folder / "bank.safetensors").read_bytes() == bank  # no byte of a class went


def test_rows_stay_gathered_while_classes_are_suspended_and_go_with_an_erased_one(folder: Path) -> None:
    session, other = PromptSession(folder, device="cpu"), Bundle.open(folder)
    rows = session._runner._rows_of
    before = session.bundle
    gathered = rows(before, [0, 2])
    other.suspend(["blue"], profile="ward-7")
    now = session.bundle
    assert now is not before
    assert rows(now, [0, 2]) is rows(before, [0, 2]) is gathered  # a pass that runs has the bundle as it was
    with session.leaving(("red",)):
        assert not session.bundle.has_rows_of(before)
        assert rows(session.bundle, [0, 2]) is not gathered
    rows(session.bundle, [0, 2])
    other.erase(["red"])
    assert session.classes.names == ("green", "blue", "grey")
    assert session._runner._gathered is None


def test_what_changes_during_a_pass_is_answered_once_more_only_where_it_matters(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = (PromptSession(folder, device="cpu") for _ in range(2))
    other.suspend(["grey"], profile="ward-7")
    scores, passes = session._runner.scores, list[int]()

    def disturbed(bundle: Bundle, inputs: np.ndarray, actives: list[tuple[int, ...]]) -> list[np.ndarray]:
        found = scores(bundle, inputs, actives)
        passes.append(len(inputs))
        if len(passes) == 1:
            other.suspend(["blue"], profile="ward-7")
        if len(passes) == 2:
            other.erase(["red"])
        return found

    monkeypatch.setattr(session._runner, "scores", disturbed)
    sets = [ActiveSet(), ActiveSet(profile="ward-7"), ActiveSet(("green", "blue")), ActiveSet(profile="ward-7")]
    answers = session.predict_each(INPUTS[:4], sets)
    assert passes == [4, 2, 4]  # all, those of the profile, and all since an erasure moves the rows that are left
    assert [answer.classes for answer in answers] == [
        ("green", "blue", "grey"), ("green",), ("green", "blue"), ("green",)
    ]  # fmt: skip
    monkeypatch.undo()
    for place, answer in enumerate(answers):
        alone = session.predict_each(INPUTS[place : place + 1], [sets[place]])[0]
        np.testing.assert_allclose(answer.probabilities, alone.probabilities, atol=1e-6)


def test_the_profile_default_counts_where_none_is_named(folder: Path) -> None:
    session = PromptSession(folder, device="cpu")
    session.suspend(["blue"])
    assert session.predict(INPUTS).classes == ("red", "green", "grey")
    assert session.active(without=["red"]) == ("green", "grey")
    with pytest.raises(ClassNameError, match="suspended in profile 'default': blue"):
        session.predict(INPUTS, ["blue"])
    with pytest.raises(ClassNameError, match="no class would be left in profile 'default'"):
        session.suspend(["red", "green", "grey"])
    assert session.active() == ("red", "green", "grey")  # nothing of that was done
    session.erase(["blue"])
    assert Bundle.open(folder).stated.profiles == {"default": ()}  # an erased class is in no profile
    session.suspend(["red"])
    session.erase(["green"])
    assert session.predict(INPUTS).classes == ("grey",)
    session.restore(["red"])
    assert session.predict(INPUTS).classes == ("red", "grey")


class Recording(Graph):
    """As on a GPU with CUDA graphs: one thread makes all passes. They are computed on the CPU."""

    def __init__(self, session: InferenceSession, *, keeps_output: bool, captures: bool) -> None:
        assert not captures
        super().__init__(session, keeps_output=keeps_output, captures=True)
        self.device = "cuda"

    def put(self, array: np.ndarray) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(array)

    def _replay(self, feed: Mapping[str, Tensor]) -> OrtValue:
        return self._run(feed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_session_on_a_gpu_says_in_a_fork_that_it_is_of_another_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = PromptSession(folder, device="cpu").predict(INPUTS).labels
    monkeypatch.setattr("pfm_export.serving.runner.Graph", Recording)
    session = PromptSession(folder, device="cpu")
    assert session.predict(INPUTS).labels == expected
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # what it would wait for for ever
        try:
            session.predict(INPUTS)
        except DeviceError as error:
            os._exit(0 if "before this process was forked" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session.predict(INPUTS).labels == expected  # the other side goes on
    assert PromptSession(**session.__getstate__()).predict(INPUTS).labels == expected  # type: ignore[arg-type]  # by name


def test_cuda_graphs_are_for_cuda(folder: Path) -> None:
    with pytest.raises(DeviceError, match="CUDA graphs need --device cuda"):
        PromptSession(folder, device="cpu", cuda_graphs=True)
    with pytest.raises(DeviceError, match="use --device cpu"):
        PromptSession(folder, device="tensorrt")
