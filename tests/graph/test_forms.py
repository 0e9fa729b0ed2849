"""The forms of the graph: prompts per request, images as they are, trunk and head apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from making.checkpoints import PREPROCESS, deep_prompt_checkpoint, image_checkpoint
from making.models import tiny_model
from pfm.data.images import ImagePreprocess
from pfm.errors import BundleError, ConfigError, DataError
from pfm.model.checkpoint import Checkpoint
from pfm_export.graph import tracing as forms_module
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.parity import check_parity
from pfm_export.graph.tracing import export_graphs
from pfm_export.serving.bank import BANK, Rows, per_request_feed
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.session import ActiveSet, PromptSession
from pfm_export.serving.signature import HEAD, INPUT_PROMPTS, MODEL, TOKENS, TRUNK

CASES: dict[str, tuple[Callable[[], Checkpoint], dict[str, Any]]] = {
    "requests": (lambda: image_checkpoint("prompt-tokens"), {"per_request_prompts": True}),
    "split-images": (lambda: image_checkpoint("cls-lora-norm-tokens"), {"split": True, "uint8_input": True}),
    "requests-cls": (lambda: image_checkpoint("cls"), {"per_request_prompts": True}),
    "all": (deep_prompt_checkpoint, {"split": True, "uint8_input": True, "per_request_prompts": True}),
}
SLOW = ("requests-cls", "all")


PARAMS = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
PADDED = [param for param in PARAMS if CASES[str(param.values[0])][1].get("per_request_prompts")]


@pytest.fixture(scope="module", params=PARAMS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    make, form = CASES[request.param]
    checkpoint = make()
    folder = tmp_path_factory.mktemp("forms") / "bundle"
    export_bundle(checkpoint, folder, form=GraphForm(**form))
    return checkpoint, folder


def test_every_form_gives_the_models_numbers(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    form = GraphForm.of(Bundle.open(folder))
    # float32 rounding; of images also two implementations of one resize, 1e-4 of a grey level apart
    report = check_parity(checkpoint.build_model(), folder, tolerance=2e-5 if form.uint8_input else 1e-5)
    assert {len(case.active) for case in report.cases} == {0, 1, 2, 4}
    assert {case.batch_size for case in report.cases if case.is_mixed} == (
        {3, 8} if form.per_request_prompts else set()
    )
    if form.uint8_input:
        assert {case.inputs for case in report.cases} == {"8x8 uint8", "13x19 uint8", "24x5 uint8"}
    assert report.largest_logit > 0.1  # the control: not everything is zero


def test_the_manifest_states_the_form_and_its_files(exported: tuple[Checkpoint, Path]) -> None:
    _, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    form = GraphForm.of(Bundle.open(folder))
    names = {TRUNK, HEAD} if form.split else {MODEL}
    assert set(manifest["graphs"]) == names == {name for name in manifest["files"] if name.endswith(".onnx")}
    for name, ends in manifest["graphs"].items():
        graph = onnx.load(folder / name).graph
        assert [entry.name for entry in graph.input] == ends["inputs"]
        assert [entry.name for entry in graph.output] == ends["outputs"]
        axes = {e.name: [d.dim_param or d.dim_value for d in e.type.tensor_type.shape.dim] for e in graph.input}
        assert axes.get("images", ["batch", "height", "width", 3]) == ["batch", "height", "width", 3]
        assert axes.get("prompt_lens", ["batch"]) == ["batch"]
        assert axes.get(TOKENS, ["batch", 5, 32]) == ["batch", 5, 32]
        if form.per_request_prompts and "prompts" in axes:
            assert axes["prompts"][0] == "batch"
            assert axes["prompts"][2] == 32
    assert manifest["input"]["dtype"] == ("uint8" if form.uint8_input else "float32")


def test_no_file_holds_a_row_of_a_class_or_anything_of_this_machine(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    rows = list(checkpoint.tensors["bank.prompts"].flatten(0, 1).numpy())
    if "classifier.weight" in checkpoint.tensors:
        rows += list(checkpoint.tensors["classifier.weight"].numpy())
    here, site = (str(Path(str(module.__file__)).parent).encode() for module in (forms_module, torch))
    for file in folder.iterdir():
        content = file.read_bytes()
        assert here not in content
        assert site not in content
        for row in rows:
            assert (row.tobytes() in content) == (file.name == BANK)  # the control: the search finds it in the bank


@pytest.mark.parametrize("exported", PADDED, indirect=True)
def test_what_stands_in_the_padding_makes_no_difference(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    bundle = Bundle.open(folder)
    runner = GraphRunner(bundle)
    random = np.random.default_rng(0)
    size = PREPROCESS.size
    images = random.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    pixels = random.standard_normal((3, 3, size, size), dtype=np.float32)
    tokens = runner.trunk(images if runner.input.dtype is np.uint8 else pixels)
    feed = per_request_feed(
        [bundle.rows(a) for a in ((0, 1, 3), (2,), ())], prompt_tokens=checkpoint.model.prompt_tokens
    )
    if bundle.stated.readout == "cls":
        feed |= {name: array for name, array in bundle.rows([0, 1, 2, 3]).feed().items() if name != INPUT_PROMPTS}
    clean = runner.head_of(tokens, feed)
    dirty = feed[INPUT_PROMPTS].copy()
    dirty[1, checkpoint.model.prompt_tokens :] = 100
    dirty[2] = -100
    np.testing.assert_array_equal(clean, runner.head_of(tokens, {**feed, INPUT_PROMPTS: dirty}))
    if bundle.stated.readout == "prompt":
        assert np.isneginf(clean[1, 1:]).all()
        assert np.isneginf(clean[2]).all()
        assert np.isfinite(clean[0]).all()


def test_a_session_serves_every_form(exported: tuple[Checkpoint, Path]) -> None:
    """One input each with a set of its own gives what single calls give, to the rounding of other batch sizes."""
    checkpoint, folder = exported
    session = PromptSession(folder, device="cpu", warm_up=[1])
    form = GraphForm.of(Bundle.open(folder))
    random = np.random.default_rng(3)
    images = [random.integers(0, 256, shape, dtype=np.uint8) for shape in ((8, 8, 3), (13, 9), (8, 8, 3), (40, 7, 3))]
    whole = session.predict_images(images)
    assert whole.classes == checkpoint.classes.names
    pixels = ImagePreprocess.from_dict(checkpoint.preprocess.to_dict())
    for image, row in zip(images, whole.probabilities, strict=True):
        alone = session.predict_images([image])
        np.testing.assert_allclose(alone.probabilities[0], row, atol=1e-5)
        planes = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None]
        inputs = (np.repeat(np.atleast_3d(image)[None], 4 - np.atleast_3d(image).shape[2], axis=3)[..., :3]
                  if form.uint8_input else pixels(planes).numpy())  # fmt: skip
        np.testing.assert_allclose(session.predict(inputs).probabilities[0], row, atol=1e-4)
    sets = [ActiveSet(), ActiveSet(("grey", "red")), ActiveSet(without=("red",)), ActiveSet((1,)), ActiveSet()]
    shape = (5, 8, 8, 3) if form.uint8_input else (5, 3, 8, 8)
    inputs = (random.integers(0, 256, shape) if form.uint8_input else random.standard_normal(shape)).astype(
        np.uint8 if form.uint8_input else np.float32
    )
    for row, (chosen, answer) in enumerate(zip(sets, session.predict_each(inputs, sets), strict=True)):
        alone = session.predict(inputs[row : row + 1], chosen.active, without=chosen.without)
        assert answer.classes == alone.classes
        np.testing.assert_allclose(answer.probabilities, alone.probabilities, atol=1e-5)
    with pytest.raises(DataError, match="5 inputs, but 1 active sets"):
        session.predict_each(inputs, sets[:1])
    if form.split:
        with pytest.raises(BundleError, match=r"has no model.onnx; its graphs are trunk.onnx, head.onnx"):
            Bundle.open(folder).model_bytes()


def test_requests_are_padded_on_the_right() -> None:
    rows = [Rows(np.full((count * 2, 3), count, np.float32), None, None) for count in (1, 0, 2)]
    feed = per_request_feed(rows, prompt_tokens=2)
    assert feed["prompt_lens"].tolist() == [1, 0, 2]
    assert feed["prompts"].shape == (3, 4, 3)
    assert feed["prompts"][:, :, 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2]]


def test_a_model_whose_prompts_enter_first_is_not_split() -> None:
    with pytest.raises(ConfigError, match="--split needs a model trained with --prompt_layer above 0"):
        export_graphs(tiny_model(), GraphForm(split=True), ImagePreprocess.from_dict(PREPROCESS.to_dict()))
