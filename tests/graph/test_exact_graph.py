"""The exact readout's graph: integers bit for bit, in every form and precision."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from making.checkpoints import image_checkpoint
from making.exact import fit, image_data
from making.models import TINY
from pfm.backbones.family import PRESETS
from pfm.errors import BundleError, DeviceError
from pfm.forgetting import ledger
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving import runtime
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.session import ActiveSet, PromptSession


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return fit(image_data(), tmp_path_factory.mktemp("raw"), width=300)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
        made = fit(image_data(), tmp_path_factory.mktemp("vit"), model_name="scratch:tiny", width=300)
    return dataclasses.replace(made, spec=dataclasses.replace(made.spec, model_name="scratch:vit_digits"))


def test_raw_integers_are_the_models_bit_for_bit(raw: Checkpoint, tmp_path: Path) -> None:
    report = export_bundle(raw, tmp_path / "plain")
    assert report.parity.integers is not None
    assert (report.parity.integers.differ, report.parity.integers.compared > 0) == (0, True)
    export_bundle(raw, tmp_path / "b", form=GraphForm(uint8_input=True))
    session = PromptSession(tmp_path / "b", device="cpu")
    images = image_data().train.inputs.permute(0, 2, 3, 1).numpy()
    labels = [("red", "green", "blue", "grey")[i] for i in image_data().train.labels]
    assert session.predict(images[:40]).labels == labels[:40]
    assert "blue" not in session.predict(images, without=["blue"]).labels
    session.erase(["blue"])
    assert "blue" not in session.predict(images).labels


@pytest.mark.slow  # a trace with a trunk
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_projection_stays_out_of_every_precision(vit: Checkpoint, tmp_path: Path, precision: str) -> None:
    report = export_bundle(vit, tmp_path / "b", form=GraphForm(precision=precision))
    assert report.parity.integers is not None
    graph = onnx.load(tmp_path / "b" / "model.onnx").graph
    (projection,) = [entry for entry in graph.initializer if entry.name.endswith("projection")]
    assert projection.data_type == onnx.TensorProto.INT8
    assert set(onnx.numpy_helper.to_array(projection).ravel().tolist()) == {-1, 0, 1}
    assert [node.op_type for node in graph.node][-1] == "Gemm"
    assert {"Round", "Clip", "Floor", "Relu", "Cast", "MatMul"} <= {node.op_type for node in graph.node}


@pytest.mark.parametrize(
    "form",
    [
        GraphForm(split=True),
        pytest.param(GraphForm(per_request_prompts=True), marks=pytest.mark.slow),
        pytest.param(GraphForm(split=True, precision="fp16"), marks=pytest.mark.slow),
    ],
)
def test_every_form_answers_each_request_with_its_own_classes(raw: Checkpoint, tmp_path: Path, form: GraphForm) -> None:
    export_bundle(raw, tmp_path / "b", form=form)
    session = PromptSession(tmp_path / "b", device="cpu")
    pixels = raw.preprocess(image_data().train.inputs[:3]).numpy()
    sets = [ActiveSet(), ActiveSet(without=("green",)), ActiveSet(active=("grey",))]
    answers = session.predict_each(pixels, sets)
    assert [answer.labels[0] for answer in answers][::2] == ["red", "grey"]
    assert answers[1].labels[0] != "green"


def test_the_integers_of_equal_features_are_numpys(raw: Checkpoint, tmp_path: Path) -> None:
    from pfm.model.readouts.ridge import memory_of

    export_bundle(raw, tmp_path / "b")
    memory = memory_of(raw)
    assert memory.rows is not None
    runner = GraphRunner(Bundle.open(tmp_path / "b"))
    pixels = raw.preprocess(image_data().train.inputs).numpy()
    found = runner.read_integers(runner.trunk(pixels), 300)
    wanted = memory.projection.project(memory.rows.values, memory.recipe)[:, :-1]
    assert np.array_equal(np.unique(found, axis=0), np.unique(wanted, axis=0))


def test_a_bundle_with_sums_forgets_exactly_and_says_when(raw: Checkpoint, tmp_path: Path) -> None:
    export_bundle(raw, tmp_path / "b", with_sums=True)
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.is_exact
    weights = bundle.rows([0, 1, 2, 3]).weight
    assert weights is not None
    before = [row.tobytes()[:64] for row in weights]
    assert (tmp_path / "b" / "sums.2.bin").stat().st_mode & 0o777 == 0o600
    erased = bundle.erase(["blue"])
    assert (erased.is_exact, (tmp_path / "b" / "sums.2.bin").exists()) == (True, False)
    assert not (tmp_path / "b" / "exact.safetensors").exists()
    wanted = erase(raw, ["blue"])
    weight = erased.rows([0, 1, 2]).weight
    assert weight is not None
    assert np.array_equal(weight, wanted.tensors["ridge.weight"].numpy())
    assert erased.exact is not None
    assert erased.exact.digest == wanted.exact["digest"]
    for kept in before:  # no row of the solution that knew the class
        assert all(kept not in path.read_bytes() for path in (tmp_path / "b").iterdir())


def test_an_exact_erasure_that_was_killed_is_finished_with_the_same_bytes(raw: Checkpoint, tmp_path: Path) -> None:
    export_bundle(raw, tmp_path / "whole", with_sums=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    wanted = Bundle.open(tmp_path / "whole").erase(["blue"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bundle, "finish_pending", lambda bundle: bundle)
        Bundle.open(tmp_path / "killed").erase(["blue"])
    found = Bundle.open(tmp_path / "killed")
    assert (found.is_exact, "blue" in found.classes.names, len(found.pending)) == (False, False, 1)
    done = found.finish_pending()
    assert (done.is_exact, done.bank_sha256) == (True, wanted.bank_sha256)
    assert not (tmp_path / "killed" / "exact.safetensors").exists()


def test_a_class_that_is_leaving_is_not_answered_whatever_others_write(raw: Checkpoint, tmp_path: Path) -> None:
    """A suspension by another process, while rows are solved, lets a session read the files again."""
    export_bundle(raw, tmp_path / "b", with_sums=True)
    session, pixels = PromptSession(tmp_path / "b", device="cpu"), raw.preprocess(image_data().train.inputs[:4]).numpy()
    seen: list[tuple[tuple[str, ...], bool | None]] = []

    def erase_slowly(bundle: Bundle, *_: object, **__: object) -> Bundle:
        bundle.suspend("grey", profile="other")
        answer = session.predict(pixels)
        seen.append((answer.classes, answer.is_exact))
        raise BundleError("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bundle, "erase_and_look", erase_slowly)
        with pytest.raises(BundleError, match="full"):
            session.erase("blue")
    assert seen == [(("red", "green", "grey"), False)]
    assert "blue" in session.predict(pixels).classes  # nothing was erased, and that is said


def test_a_bundle_without_sums_says_what_exact_weights_need(raw: Checkpoint, tmp_path: Path) -> None:
    export_bundle(raw, tmp_path / "b")
    fast = Bundle.open(tmp_path / "b").erase(["blue"])
    assert not fast.is_exact
    with pytest.raises(BundleError, match="--with_sums"):
        fast.solve()


def test_damaged_sums_are_not_solved_from(raw: Checkpoint, tmp_path: Path) -> None:
    export_bundle(raw, tmp_path / "b", with_sums=True)
    file = tmp_path / "b" / "sums.0.bin"
    file.write_bytes(file.read_bytes()[:-8] + b"\1" * 8)
    fast = Bundle.open(tmp_path / "b").erase(["blue"])  # the class goes all the same
    assert (fast.is_exact, fast.classes.names) == (False, ("red", "green", "grey"))
    assert ledger.read(tmp_path / "b" / "ledger.jsonl")[-1]["exact"]["weights"].startswith("rows of the solution that")
    with pytest.raises(BundleError, match="was changed"):
        fast.solve()


def test_a_session_says_which_answers_are_exact(raw: Checkpoint, tmp_path: Path) -> None:
    export_bundle(raw, tmp_path / "b", with_sums=True)
    session = PromptSession(tmp_path / "b", device="cpu")
    pixels = raw.preprocess(image_data().train.inputs[:4]).numpy()
    assert session.predict(pixels).is_exact
    assert session.predict(pixels, without="blue").is_exact is False
    alone = session.predict(pixels, without="blue", exact=True)
    assert (alone.is_exact, alone.classes) == (True, ("red", "green", "grey"))
    wanted = (
        erase(raw, ["blue"])
        .build_model()
        .logits(raw.preprocess(image_data().train.inputs[:4]), torch.tensor([[0, 1, 2]] * 4))
    )
    found = session.scores(pixels, without="blue", exact=True)
    np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-4)
    mixed = session.predict_each(pixels[:2], [ActiveSet(without=("blue",), exact=True), ActiveSet(without=("blue",))])
    assert [answer.is_exact for answer in mixed] == [True, False]
    session.erase("blue")
    assert "blue" not in session.predict(pixels).classes
    assert session.settle()
    assert session.predict(pixels).is_exact
    np.testing.assert_allclose(session.scores(pixels), found, atol=1e-6)
    other = PromptSession(tmp_path / "b", device="cpu")  # another process, later
    assert other.predict(pixels).is_exact


def test_a_readout_that_was_trained_has_no_exact_answers(tmp_path: Path) -> None:
    made = image_checkpoint("cls")
    export_bundle(made, tmp_path / "b")
    session = PromptSession(tmp_path / "b", device="cpu")
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    assert session.predict(pixels).is_exact is None
    with pytest.raises(BundleError, match="not of an exact readout"):
        session.predict(pixels, exact=True)


def test_products_are_not_rounded_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[dict[str, dict[str, str]]] = []
    left_out: list[list[str] | None] = []

    class Loaded:
        def __init__(
            self, *_: object, providers: list[tuple[str, dict[str, str]]], disabled_optimizers: list[str] | None
        ) -> None:
            given.append(dict(providers))
            left_out.append(disabled_optimizers)

        def get_providers(self) -> list[str]:
            return list(given[-1])

    there = [runtime.TENSORRT, runtime.CUDA, runtime.CPU]
    monkeypatch.setattr(runtime.onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(
        runtime.onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9: gone"), raising=False
    )
    monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", Loaded)
    monkeypatch.setattr(runtime, "check_graph", lambda *_: None)

    def bundle(exact: object, precision: str = "fp32") -> Any:
        stated = SimpleNamespace(precision=precision)
        return SimpleNamespace(exact=exact, stated=stated, model_bytes=lambda _: b"")

    runtime.load_graph(bundle(exact="a state"), device="cuda")
    runtime.load_graph(bundle(exact=None), device="cuda")
    quick = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert [providers[runtime.CUDA] for providers in given] == [quick] * 2
    runtime.load_graph(bundle(exact=None, precision="fp16"), device="cuda")
    assert given[-1][runtime.CUDA] == {**quick, "sdpa_kernel": "19"}
    runtime.load_graph(bundle(exact=None), device="cpu")
    assert left_out == [runtime.REWRITES_LEFT_OUT[name] for name in (*[runtime.CUDA] * 3, runtime.CPU)]
    assert capsys.readouterr().out == ""  # what is printed of libraries is not among answers
    with pytest.raises(DeviceError, match="TensorRT rounds"):
        runtime.load_graph(bundle(exact="a state"), device="tensorrt")
