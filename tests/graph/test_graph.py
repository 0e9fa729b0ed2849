"""The exported graph: its numbers are the model's, and nothing in it belongs to a class or to this machine."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from making.bundles import spoiled
from making.checkpoints import PREPROCESS, VARIANTS, image_checkpoint
from making.models import tiny_backbone, tiny_model, tiny_spec
from pfm.backbones.config import BackboneConfig
from pfm.backbones.spec import describe_backbone
from pfm.errors import StorageError
from pfm.model.checkpoint import Checkpoint
from pfm.model.config import LoraSettings
from pfm_export.graph import export as graph_module
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.hub_files import CONFIG, PREPROCESSOR, hub_files
from pfm_export.graph.parity import BATCH_SIZES, ParityError, active_sets, check_parity
from pfm_export.graph.tracing import export_graphs
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession
from pfm_export.serving.signature import MODEL

# tokens of a prompt averaged: `test_forms` has them by default, with prompts that come per request
SLOW = ("prompt-tokens", "cls-lora-norm-tokens")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in VARIANTS])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    checkpoint = image_checkpoint(request.param)
    folder = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(checkpoint, folder)
    return checkpoint, folder


def test_parity_holds_for_every_batch_size_and_active_set(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    report = check_parity(checkpoint.build_model(), folder, tolerance=1e-5)
    assert {case.batch_size for case in report.cases} == set(BATCH_SIZES)
    assert {len(case.active) for case in report.cases} == {0, 1, 2, 4}
    assert report.largest_logit > 0.1  # the control: not everything is zero
    assert Bundle.open(folder).manifest["parity"]["worst_difference"] <= 1e-5


def test_the_graph_is_plain_onnx_with_dynamic_axes_by_name(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    proto = onnx.load(folder / MODEL)
    assert {(entry.domain, entry.version) for entry in proto.opset_import} == {("", 20)}
    assert len(proto.functions) == 0
    axes = {
        node.name: [d.dim_param or d.dim_value for d in node.type.tensor_type.shape.dim]
        for node in (*proto.graph.input, *proto.graph.output)
    }
    assert axes["pixel_values"] == ["batch", 3, 8, 8]
    assert axes["prompts"][1] == 32
    assert isinstance(axes["prompts"][0], str)
    if checkpoint.model.readout == "cls":
        assert axes["prompts"][0] == "num_prompts"
        assert axes["class_weight"] == ["num_classes", 32]
        assert axes["class_bias"] == ["num_classes"]
        assert axes["logits"] == ["batch", "num_classes"]
    else:
        assert axes["scores"][0] == "batch"
        assert set(axes) == {"pixel_values", "prompts", "scores"}


def test_no_prompt_and_no_classifier_row_is_in_the_graph(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    graph_bytes, bank_bytes = (folder / MODEL).read_bytes(), (folder / BANK).read_bytes()
    rows = [checkpoint.tensors["bank.prompts"][i] for i in range(4)]
    if checkpoint.model.readout == "cls":
        rows += [checkpoint.tensors["classifier.weight"][i] for i in range(4)]
    for row in rows:
        values = row.numpy()
        assert values.tobytes() in bank_bytes  # the control: this search finds a row
        assert values.tobytes() not in graph_bytes
        assert values.astype(np.float16).tobytes() not in graph_bytes
    scorer = checkpoint.tensors.get("scorer.weight")
    if scorer is not None:  # shared by all classes, so it stays: the search works in the graph as well
        assert scorer.numpy().tobytes() in graph_bytes


def test_nothing_of_this_machine_is_in_the_bundle(exported: tuple[Checkpoint, Path]) -> None:
    _, folder = exported
    here = str(Path(graph_module.__file__).parent).encode()
    site = str(Path(torch.__file__).parent).encode()
    for file in folder.iterdir():
        content = file.read_bytes()
        assert here not in content
        assert site not in content
        assert str(folder).encode() not in content
        assert b'File "' not in content
    proto = onnx.load(folder / MODEL)
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


def test_the_manifest_is_enough_to_serve(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["name"] for entry in manifest["classes"]] == list(checkpoint.classes.names)
    assert manifest["preprocess"] == PREPROCESS.to_dict()
    assert manifest["opset"] == 20
    assert set(manifest["files"]) == {MODEL, BANK, CONFIG, PREPROCESSOR}
    assert manifest["versions"]["torch"]


def test_the_graph_says_which_bundle_it_is_of(exported: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    _, folder = exported
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    Bundle.open(copy).erase(["blue"])
    stated = {json.loads((path / "manifest.json").read_text())["bundle"] for path in (folder, copy)}
    assert stated == {entry.value for entry in onnx.load(folder / MODEL).metadata_props if entry.key == "bundle"}


def test_the_graph_says_what_it_is_and_names_no_class(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    facts = {entry.key: entry.value for entry in onnx.load(folder / MODEL).metadata_props}
    assert json.loads(facts["preprocess"]) == PREPROCESS.to_dict()
    assert facts["readout"] == checkpoint.model.readout
    assert json.loads(facts["final_norm"]) is checkpoint.model.final_norm
    assert json.loads(facts["prompt_tokens"]) == checkpoint.model.prompt_tokens
    assert json.loads(facts["opset"]) == 20
    assert set(json.loads(facts["versions"])) >= {"torch", "onnx"}
    assert json.loads(facts["inputs"])[:2] == ["pixel_values", "prompts"]
    session = PromptSession(folder, device="cpu")  # the control: the names are in the manifest
    for name in checkpoint.classes.names:
        assert name in session.classes.names
        for file in (MODEL, CONFIG, PREPROCESSOR):
            assert name.encode() not in (folder / file).read_bytes()


def test_the_folder_reads_as_a_hugging_face_backbone(exported: tuple[Checkpoint, Path]) -> None:
    _, folder = exported
    spec = describe_backbone(BackboneConfig(model_name=str(folder)))
    assert spec.preprocess == PREPROCESS
    assert (spec.input_shape, spec.num_layers, spec.hidden_size) == ((3, 8, 8), 2, 32)


def test_labels_of_the_backbone_are_left_out_of_what_describes_it() -> None:
    labels = {"id2label": {0: "red"}, "label2id": {"red": 0}, "_name_or_path": "/home/me/red"}
    files = hub_files(dataclasses.replace(tiny_spec(), config={**tiny_spec().config, **labels}), PREPROCESS)
    assert not any(b"red" in content for content in files.values())


def test_serving_through_the_session_gives_the_torch_models_answers(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    model = checkpoint.build_model()
    images = np.random.default_rng(0).integers(0, 256, (5, 11, 9, 3), dtype=np.uint8)
    inputs = PREPROCESS(torch.from_numpy(images).permute(0, 3, 1, 2))
    with torch.no_grad():
        winners = model.predict(model.logits(inputs, torch.tensor([[0, 2, 3]] * 5)[:, :3]).where(
            torch.tensor([True, False, True, True]), torch.tensor(-torch.inf)))  # fmt: skip
    expected = [checkpoint.classes.names[w] if w >= 0 else "unknown" for w in winners.tolist()]
    session = PromptSession(folder, device="cpu")
    assert session.predict_images(list(images), without=["green"]).labels == expected


def test_an_export_into_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StorageError, match="not empty"):
        export_bundle(image_checkpoint(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_overwriting_spares_what_is_no_bundle_and_what_records_an_erasure(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.pt").write_text("x")
    with pytest.raises(StorageError, match="is not a bundle"):
        export_bundle(image_checkpoint(), tmp_path / "runs", overwrite=True)
    assert (tmp_path / "runs" / "x.pt").read_text() == "x"
    export_bundle(image_checkpoint(), tmp_path / "bundle")
    export_bundle(image_checkpoint(), tmp_path / "bundle", overwrite=True)
    Bundle.open(tmp_path / "bundle").erase(["blue"])
    with pytest.raises(StorageError, match="records erasures"):
        export_bundle(image_checkpoint(), tmp_path / "bundle", overwrite=True)
    assert Bundle.open(tmp_path / "bundle").classes.names == ("red", "green", "grey")


def test_a_graph_that_is_off_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = image_checkpoint()
    right = export_graphs(checkpoint.build_model(), GraphForm(), PREPROCESS)
    wrong = {name: spoiled(graph) for name, graph in right.items()}
    monkeypatch.setattr(graph_module, "export_graphs", lambda *_: wrong)
    with pytest.raises(ParityError, match="off, more than"):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_active_sets_are_none_one_some_and_all_in_shuffled_order() -> None:
    sets = active_sets(10)
    assert [len(s) for s in sets] == [0, 1, 5, 10]
    assert list(sets[-1]) != sorted(sets[-1])
    assert sorted(sets[-1]) == list(range(10))


@pytest.mark.slow
@pytest.mark.usefixtures("traced_anew")
def test_exporting_leaves_the_model_as_it_was() -> None:
    model = tiny_model(backbone=tiny_backbone(num_hidden_layers=1), lora=LoraSettings())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_graphs(model, GraphForm(), PREPROCESS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(getattr(module, "is_eager", False) for module in model.modules())
