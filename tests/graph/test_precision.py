"""Each precision keeps the answers, the operators it is meant to have, and holds no row of a class."""

import collections
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from making.checkpoints import PREPROCESS, image_checkpoint
from making.images import coloured_images
from pfm_export.graph import export as graph_module
from pfm_export.graph import parity
from pfm_export.graph.accuracy import Accuracies, TestSamples, precision_warnings
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.fusion import fuse, fuse_attention
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.graph.precisions.int8 import Int8, embed_by_product
from pfm_export.graph.tracing import export_graphs
from pfm_export.serving.signature import MODEL

BLOCKS = 2
LOW = [name for name in PRECISIONS.names() if name != "fp32"]


@pytest.fixture(scope="module", params=["cls", "prompt"])
def fp32(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    model = image_checkpoint(request.param).build_model()
    return request.param, export_graphs(model, GraphForm(), PREPROCESS)[MODEL]


def convert(content: bytes, precision: str) -> onnx.ModelProto:
    return PRECISIONS.get(precision).convert(onnx.load_from_string(content))


def class_rows(name: str) -> np.ndarray:
    tensors = image_checkpoint(name).tensors
    rows = [tensors["bank.prompts"].flatten(0, 1), *([tensors["classifier.weight"]] if name == "cls" else [])]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("precision", PRECISIONS.names())
def test_no_operator_is_lost(fp32: tuple[str, bytes], precision: str) -> None:
    """A new exporter that takes LayerNorm or GELU apart, or a quantiser that skips a product, shows here."""
    _, content = fp32
    graph = PRECISIONS.get(precision).convert(onnx.load_from_string(content), portable=True).graph
    counted = collections.Counter(node.op_type for node in graph.node)
    assert counted["LayerNormalization"] == 2 * BLOCKS  # fp16 would lose its numbers in a decomposed one
    assert counted["Gelu"] == BLOCKS
    assert counted["Softmax"] == BLOCKS
    products = counted["MatMul"] + counted["Gemm"]
    # q, k, v, o, fc1, fc2; scores and values; classifier or scorer
    weights, attention, read = 6 * BLOCKS, 2 * BLOCKS, 1
    if precision == "int8":
        assert counted["Conv"] == 0  # the patch embedding is a product too
        assert counted["MatMulInteger"] == weights + 1
        assert products == attention + read
        # one for q, k, v of a block, which share their input; in the last block q reads fewer tokens
        assert counted["DynamicQuantizeLinear"] == 4 * BLOCKS + 1 + 1
    else:
        assert counted["Conv"] == 1
        assert products == weights + attention + read
        assert counted["DynamicQuantizeLinear"] == 0
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}  # TensorRT parses no others


def test_attention_is_one_operator_in_int8(fp32: tuple[str, bytes]) -> None:
    graph = convert(fp32[1], "int8").graph
    counted = collections.Counter(node.op_type for node in graph.node)
    assert counted["MultiHeadAttention"] == BLOCKS
    assert counted["Softmax"] == 0
    assert counted["MatMulInteger"] == 6 * BLOCKS + 1
    assert counted["MatMul"] + counted["Gemm"] == 1  # the readout
    assert counted["DynamicQuantizeLinear"] == 4 * BLOCKS + 1 + 1


def test_every_block_is_fused_in_half_precision(fp32: tuple[str, bytes]) -> None:
    """A new exporter whose patterns the rewriter does not know shows here."""
    graph = convert(fp32[1], "fp16").graph
    counted = collections.Counter(node.op_type for node in graph.node)
    # in the last block the queries are of the readout's tokens only, and not projected with keys and values
    assert (counted["Attention"], counted["MultiHeadAttention"]) == (BLOCKS - 1, 1)
    assert counted["SkipLayerNormalization"] == 2 * BLOCKS - 1  # the first has nothing to add
    assert counted["LayerNormalization"] == 1
    assert counted["BiasGelu"] == BLOCKS
    assert (counted["Softmax"], counted["Gelu"], counted["Erf"]) == (0, 0, 0)
    # o, fc1, fc2; the last block's q, k, v; the readout
    assert counted["MatMul"] + counted["FusedMatMul"] + counted["Gemm"] == 3 * BLOCKS + 3 + 1
    assert counted["Cast"] == len(graph.input) + len(graph.output)  # nothing in between is float32
    by_name = {initializer.name: list(initializer.dims) for initializer in graph.initializer}
    (attention,) = (node for node in graph.node if node.op_type == "Attention")
    assert by_name[attention.input[1]] == [32, 3 * 32]  # one weight in the file, not joined at each load


@pytest.mark.parametrize("change", [embed_by_product, fuse_attention, fuse])
def test_what_is_done_before_a_conversion_changes_no_number(
    fp32: tuple[str, bytes], change: Callable[[onnx.ModelProto], onnx.ModelProto | None]
) -> None:
    before, after = (onnx.load_from_string(fp32[1]) for _ in range(2))
    after = change(after) or after
    assert collections.Counter(n.op_type for n in after.graph.node) != collections.Counter(
        n.op_type for n in before.graph.node
    )
    random = np.random.default_rng(0)
    feed = {"pixel_values": random.standard_normal((3, 3, 8, 8), dtype=np.float32)}
    feed["prompts"] = random.standard_normal((2, 32), dtype=np.float32)
    if fp32[0] == "cls":
        feed |= {"class_weight": feed["prompts"][:, ::-1], "class_bias": np.ones(2, np.float32)}
    answers: list[Any] = [
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for proto in (before, after)
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)  # rounding


@pytest.mark.parametrize("precision", LOW)
def test_a_lower_precision_is_smaller(fp32: tuple[str, bytes], precision: str) -> None:
    before = sum(i.ByteSize() for i in onnx.load_from_string(fp32[1]).graph.initializer)
    after = sum(i.ByteSize() for i in convert(fp32[1], precision).graph.initializer)
    assert after < (0.8 if precision == "int8" else 0.65) * before  # tiny weights: scales and names count here


@pytest.mark.parametrize("precision", PRECISIONS.names())
def test_no_row_of_a_class_is_in_the_graph_in_any_form(fp32: tuple[str, bytes], precision: str) -> None:
    name, content = fp32
    rows = class_rows(name)
    proto = convert(content, precision)
    bytes_of_graph = proto.SerializeToString()
    bank = b"".join(row.tobytes() for row in rows)
    for row in rows:
        assert row.tobytes() in bank  # the control of the byte search
        for form in (row, row.astype(np.float16), torch.from_numpy(row).bfloat16().view(torch.int16).numpy()):
            assert form.tobytes() not in bytes_of_graph
    assert closest_to(rows, proto) < 0.9
    # the control: the same search finds rows that are in a graph, in this precision
    weight = numpy_helper.from_array(np.ascontiguousarray(np.tile(rows, (16, 1)).T), "weight")  # (D, 16 · rows)
    ends = [helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None) for end in ("x", "y")]
    ends[0] = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", rows.shape[1]])
    product = helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")
    baked = helper.make_graph([product], "baked", ends[:1], ends[1:], [weight])
    leaky = helper.make_model(baked, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert closest_to(rows, PRECISIONS.get(precision).convert(leaky)) > 0.99


def closest_to(rows: np.ndarray, proto: onnx.ModelProto) -> float:
    """Largest |cosine| between a row (D) and any vector of D numbers in the graph's weights, whatever their scale."""
    width, largest = rows.shape[1], 0.0
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for initializer in proto.graph.initializer:
        array = numpy_helper.to_array(initializer).astype(np.float32)
        for axis in (axis for axis, size in enumerate(array.shape) if size == width):
            vectors = np.moveaxis(array, axis, -1).reshape(-1, width)
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            largest = max(largest, float(np.abs(vectors / np.maximum(norms, 1e-9) @ rows.T).max()))
    return largest


def share_the_trace(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Tracing is most of an export; the precisions start from one trace."""
    monkeypatch.setattr("pfm_export.graph.tracing._trace", lambda *_: onnx.load_from_string(content))


@pytest.mark.parametrize("precision", LOW)
def test_the_manifest_says_what_a_precision_costs(
    fp32: tuple[str, bytes], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = fp32
    share_the_trace(monkeypatch, content)
    images, labels = coloured_images(40)
    samples = TestSamples(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels[:, 0]).long())
    export_bundle(image_checkpoint(name), tmp_path / "b", form=GraphForm(precision=precision), samples=samples)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["form"]["precision"] == precision
    assert manifest["parity"]["tolerance"] >= PRECISIONS.get(precision).tolerance
    assert manifest["parity"]["worst_difference"] > 1e-6  # the control: it is another precision
    accuracy = manifest["accuracy"]
    assert accuracy["num_samples"] == 40
    assert set(accuracy["fp32"]) == set(accuracy["bundle"]) == {"accuracy", "forget_k1", "retain_k1"}
    if name == "prompt":
        assert accuracy["bundle"]["forget_k1"] == 0
    assert accuracy["worst_difference"] <= manifest["parity"]["tolerance"]
    assert not any(colour in json.dumps(accuracy) for colour in ("red", "green", "blue", "grey"))


def test_the_accuracies_of_the_model_are_those_of_the_evaluator(
    fp32: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pfm.data.splits import Split
    from pfm.device import Processes
    from pfm.evaluation.config import EvalConfig
    from pfm.evaluation.evaluator import make_evaluator

    name, content = fp32
    share_the_trace(monkeypatch, content)
    images, labels = coloured_images(39)
    split = Split(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels[:, 0]).long())
    checkpoint = image_checkpoint(name)
    export_bundle(checkpoint, tmp_path / "b", samples=TestSamples(split.inputs, split.labels))
    accuracy = json.loads((tmp_path / "b" / "manifest.json").read_text())["accuracy"]
    evaluator = make_evaluator(
        split,
        torch.arange(4),
        PREPROCESS,
        Processes(device=torch.device("cpu")),
        EvalConfig(eval_batch_size=16),
        seed=0,
    )
    expected = evaluator.evaluate(checkpoint.build_model(), ks=[1])
    subsets = expected.subsets[0].summary()
    for found in (accuracy["fp32"], accuracy["bundle"]):  # float32: the graph answers as the model does
        assert found["accuracy"] == pytest.approx(expected.modes["full_bank"])
        assert found["forget_k1"] == pytest.approx(subsets["forget_mean"])
        assert found["retain_k1"] == pytest.approx(subsets["retain_mean"])
    assert accuracy["warnings"] == []


def test_a_precision_that_spoils_the_model_is_warned_of() -> None:
    fp32 = Accuracies(accuracy=0.95, forget_k1=0.08, retain_k1=0.95)
    assert precision_warnings(dataclasses.replace(fp32, accuracy=0.946, forget_k1=0.089), fp32) == []
    assert "0.6 points below" in precision_warnings(dataclasses.replace(fp32, accuracy=0.944), fp32)[0]
    assert "1.2 points more often" in precision_warnings(dataclasses.replace(fp32, forget_k1=0.092), fp32)[0]


def test_a_precision_that_breaks_the_graph_is_refused(
    tmp_path: Path, fp32: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    share_the_trace(monkeypatch, fp32[1])
    monkeypatch.setattr(Int8, "tolerance", 1e-6)
    with pytest.raises(parity.ParityError, match="off, more than"):
        export_bundle(image_checkpoint(fp32[0]), tmp_path / "b", form=GraphForm(precision="int8"))
    assert not (tmp_path / "b").exists()


def test_what_was_not_measured_is_said(
    tmp_path: Path, fp32: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    share_the_trace(monkeypatch, fp32[1])
    export_bundle(image_checkpoint(fp32[0]), tmp_path / "b", form=GraphForm(precision="int8"))
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["accuracy"] == graph_module.NOT_MEASURED
