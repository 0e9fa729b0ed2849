"""A bundle in ONNX Runtime on CUDA beside the CPU: every form, CUDA graphs, tensors that stay there, erasing."""

import collections
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from making.checkpoints import image_checkpoint
from making.exact import fit, image_data
from making.served import FORMS, opened
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving import runtime
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.session import ActiveSet, PromptSession

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
Forms = Callable[[str], Path]
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "fp16-portable": {"precision": "fp16", "portable": True},
    "fp16-requests": {"precision": "fp16", "per_request_prompts": True},
}
# how far probabilities may be from the CPU's: sums in another order; factors of 11 bits; values on the border of two
# integers of 8 bits, of inputs and of the layers behind
TOLERANCES = {"fp16": 0.01, "int8": 0.05, "": 1e-4}
HEAVY = {"MatMul", "Gemm", "FusedMatMul", "Conv", "Attention", "MultiHeadAttention", "LayerNormalization", "Softmax"}


@pytest.fixture(scope="module")
def bundle(forms: Forms, tmp_path_factory: pytest.TempPathFactory) -> Forms:
    """A bundle by the name of its form or precision; not to be changed."""
    folder = tmp_path_factory.mktemp("precisions")

    def exported(name: str) -> Path:
        if name in FORMS:
            return forms(name)
        made = image_checkpoint("prompt-tokens" if "requests" in name else "cls")
        if not (folder / name).exists():
            export_bundle(made, folder / name, form=GraphForm(**PRECISIONS[name]))
        return folder / name

    return exported


def some_inputs(session: PromptSession, count: int, seed: int = 0) -> np.ndarray:
    return session.input.random(count, np.random.default_rng(seed))


def placed(folder: Path) -> dict[str, dict[str, collections.Counter[str]]]:
    """Graph -> execution provider -> how many nodes of each kind it runs."""
    bundle, found = Bundle.open(folder), {}
    for name in bundle.stated.signatures.files:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        settings = runtime.provider_settings(is_half=False, cuda_graphs=False)
        session = onnxruntime.InferenceSession(
            bundle.model_bytes(name), options, providers=[(p, settings[p]) for p in (runtime.CUDA, runtime.CPU)]
        )
        kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for part in session.get_provider_graph_assignment_info():
            kinds[part.ep_name].update(node.op_type for node in part.get_nodes())
        found[name] = dict(kinds)
    return found


@pytest.mark.parametrize("name", [*FORMS, *PRECISIONS])
def test_a_bundle_answers_as_on_the_cpu(
    ort_device: str, bundle: Forms, name: str, record_property: Callable[[str, object], None]
) -> None:
    folder = bundle(name)
    there, here = PromptSession(folder, device=ort_device), PromptSession(folder, device="cpu")
    assert there.provider == (runtime.CUDA if ort_device == "cuda" else runtime.CPU)
    kind = "int8" if name == "int8" else "fp16" if "fp16" in name else ""
    worst = 0.0
    for count in (1, 5):
        inputs = some_inputs(here, count, seed=count)
        for active in (None, ["green"], ["green", "blue"]):
            first, second = (session.predict(inputs, active) for session in (there, here))
            assert first.classes == second.classes
            worst = max(worst, float(abs(first.probabilities - second.probabilities).max()))
    print(f"{name}: probabilities at most {worst:.1e} from the CPU's")
    record_property("worst", worst)
    assert worst <= TOLERANCES[kind]
    if ort_device == "cuda" and hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        nodes = placed(folder)
        print(f"{name}: nodes by provider {json.dumps(nodes)}")
        if report := os.environ.get("PFM_GPU_REPORT"):
            with Path(report).open("a") as file:
                file.write(json.dumps({"form": name, "worst": worst, "nodes": nodes}) + "\n")
        if kind != "int8":  # CUDA has no kernels for dynamic quantisation
            on_cpu = collections.Counter[str]()
            for graph in nodes.values():
                on_cpu.update(graph.get(runtime.CPU, {}))
            assert not HEAVY & set(on_cpu), on_cpu


def test_a_request_may_have_no_class_or_each_its_own(ort_device: str, bundle: Forms) -> None:
    folder = bundle("requests")
    found = []
    for where in (ort_device, "cpu"):
        opened_bundle = Bundle.open(folder)
        runner = GraphRunner(opened_bundle, device=where)
        inputs = runner.input.random(3, np.random.default_rng(0))
        found.append(runner.scores(opened_bundle, inputs, [(0,), (1, 2), (0, 1, 2, 3)]))
    for first, second in zip(*found, strict=True):
        assert np.allclose(first, second, atol=1e-4)
    empty = [GraphRunner(Bundle.open(folder), device=where).scores(Bundle.open(folder), inputs, [()] * 3)
             for where in (ort_device, "cpu")]  # fmt: skip
    assert [np.shape(e) for e in empty[0]] == [np.shape(e) for e in empty[1]]


def test_what_a_trunk_made_stays_on_the_device(ort_device: str, bundle: Forms) -> None:
    opened_bundle = Bundle.open(bundle("split-images"))
    runner = GraphRunner(opened_bundle, device=ort_device)
    tokens = runner.trunk(runner.input.checked(runner.input.random(2, np.random.default_rng(0))))
    if ort_device == "cuda":
        assert isinstance(tokens, onnxruntime.OrtValue)
        assert tokens.device_name() == "cuda"


def test_recorded_kernels_give_the_same_numbers(ort_device: str, bundle: Forms) -> None:
    if ort_device == "cpu":
        pytest.skip("CUDA graphs are for CUDA")
    for name in ("shared", "fp16", "split-images"):
        folder = bundle(name)
        plain, recorded = (PromptSession(folder, device="cuda", cuda_graphs=graphs) for graphs in (False, True))
        for seed in range(3):  # recorded, then replayed with other inputs
            for count in (1, 4):
                inputs = some_inputs(plain, count, seed)
                for without in ((), ("blue",)):
                    first, second = (s.predict(inputs, without=without) for s in (plain, recorded))
                    assert np.allclose(first.probabilities, second.probabilities, atol=1e-5), (name, seed, count)


def test_threads_share_recorded_kernels(ort_device: str, bundle: Forms) -> None:
    if ort_device == "cpu":
        pytest.skip("CUDA graphs are for CUDA")
    folder = bundle("shared")
    plain, recorded = (PromptSession(folder, device="cuda", cuda_graphs=graphs) for graphs in (False, True))
    inputs = [some_inputs(plain, 1 + seed % 3, seed) for seed in range(12)]
    expected = [plain.predict(one).probabilities for one in inputs]
    is_right: list[bool] = []

    def ask() -> None:
        for _ in range(3):
            for number, one in enumerate(inputs):
                is_right.append(np.allclose(recorded.predict(one).probabilities, expected[number], atol=1e-5))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_right == [True] * (3 * 3 * len(inputs))  # none is lacking: an error ends a thread and nothing else


@pytest.mark.parametrize("graphs", [False, True])
def test_a_class_goes_and_comes_back_while_it_is_served(
    ort_device: str, bundle: Forms, tmp_path: Path, graphs: bool
) -> None:
    if ort_device == "cpu" and graphs:
        pytest.skip("CUDA graphs are for CUDA")
    shutil.copytree(bundle("shared"), tmp_path / "b")
    session = PromptSession(tmp_path / "b", device=ort_device, cuda_graphs=graphs)
    inputs = some_inputs(session, 4)
    is_gone, is_over = threading.Event(), threading.Event()
    ended: list[bool] = []  # of each thread whether the class was answered once it was gone

    def ask() -> None:
        is_there = False
        while not is_over.is_set():
            must_not = is_gone.is_set()
            found = session.predict(inputs)
            is_there |= must_not and "blue" in (*found.classes, *found.labels)
        ended.append(is_there)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    session.suspend(["blue"])
    assert "blue" not in session.predict(inputs).classes
    session.restore(["blue"])
    assert "blue" in session.predict(inputs).classes
    session.erase(["blue"])
    is_gone.set()
    for _ in range(5):
        assert "blue" not in session.predict(inputs).classes
    is_over.set()
    for thread in threads:
        thread.join()
    assert ended == [False] * 3  # none is lacking: an error ends a thread and nothing else
    assert "blue" not in PromptSession(tmp_path / "b", device=ort_device).predict(inputs).classes


@pytest.mark.parametrize(
    "form",
    [{}, {"split": True}, {"uint8_input": True}, {"per_request_prompts": True}],
    ids=["plain", "split", "uint8", "requests"],
)
def test_integers_of_an_exact_bundle_are_equal(ort_device: str, tmp_path: Path, form: dict[str, Any]) -> None:
    export_bundle(fit(image_data(), tmp_path / "fit", width=300), tmp_path / "b", form=GraphForm(**form))
    opened_bundle, found = Bundle.open(tmp_path / "b"), []
    for where in (ort_device, "cpu"):
        runner = GraphRunner(opened_bundle, device=where)
        images = image_data().train.inputs.permute(0, 2, 3, 1).numpy()
        inputs = images if form.get("uint8_input") else runner.input.random(16, np.random.default_rng(0))
        found.append(runner.read_integers(runner.trunk(runner.input.checked(inputs)), 300))
    assert np.array_equal(*found)
    assert len(np.unique(found[0])) > 100  # the control: these are many numbers
    sessions = [PromptSession(tmp_path / "b", device=where) for where in (ort_device, "cpu")]
    there, here = (session.predict(inputs, without=["blue"]) for session in sessions)
    assert there.labels == here.labels


def test_a_server_answers_as_the_session(ort_device: str, bundle: Forms) -> None:
    pytest.importorskip("fastapi")
    folder = bundle("shared")
    session = PromptSession(folder, device=ort_device)
    inputs = some_inputs(session, 2)
    body = {"inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": list(inputs.shape),
                        "data": inputs.tolist()}]}  # fmt: skip
    with opened(folder, device=ort_device) as local:
        answer = local("POST", "/v2/models/shared/infer", json=body)
        assert answer.status_code == 200, answer.text
        outputs = {out["name"]: np.array(out["data"]).reshape(out["shape"]) for out in answer.json()["outputs"]}
    expected = session.predict(inputs)
    assert any(
        values.shape == expected.probabilities.shape and np.allclose(values, expected.probabilities, atol=1e-5)
        for values in outputs.values()
        if values.dtype.kind == "f"
    ), outputs


def test_active_sets_of_a_session_have_names(ort_device: str, bundle: Forms) -> None:
    session = PromptSession(bundle("shared"), device=ort_device, warm_up=[1, 2])
    assert session.active(without=["blue"]) == ("red", "green", "grey")
    assert ActiveSet.of(None, ["blue"]).without == ("blue",)
