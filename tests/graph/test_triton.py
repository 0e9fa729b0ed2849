"""A Triton model repository: valid by Triton's own schema, true of the graphs, and without a byte of a class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from making.checkpoints import deep_prompt_checkpoint, image_checkpoint
from making.family_runs import family_checkpoint
from pfm.cli import pfm, run
from pfm.errors import ConfigError, StorageError
from pfm.model.checkpoint import Checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.triton import TritonConfig, model_folders, write_repository
from pfm_export.serving.bank import per_request_feed
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession

schema: Any = model_config_pb2  # its names are made at run time
TYPES: dict[int, int] = {
    onnx.TensorProto.FLOAT: schema.TYPE_FP32,
    onnx.TensorProto.INT32: schema.TYPE_INT32,
    onnx.TensorProto.UINT8: schema.TYPE_UINT8,
}
NUMPY: dict[int, Any] = {schema.TYPE_FP32: np.float32, schema.TYPE_INT32: np.int32, schema.TYPE_UINT8: np.uint8}
# by case: the checkpoint, the form, and which models batch
CASES: dict[str, tuple[Callable[[], Checkpoint], dict[str, Any], dict[str, bool]]] = {
    "shared": (lambda: image_checkpoint("cls"), {"precision": "int8"}, {"model": False}),
    "requests": (lambda: image_checkpoint("prompt-tokens"), {"per_request_prompts": True}, {"model": True}),
    "requests-cls": (lambda: image_checkpoint("cls"), {"per_request_prompts": True}, {"model": False}),
    "split": (
        lambda: image_checkpoint("cls-lora-norm-tokens"),
        {"split": True},
        {"model_trunk": True, "model_head": False, "model": False},
    ),
    "split-requests-images": (
        deep_prompt_checkpoint,
        {"split": True, "per_request_prompts": True, "uint8_input": True},
        {"model_trunk": True, "model_head": True, "model": True},
    ),
    "samples": (lambda: family_checkpoint("wavlm"), {}, {"model": False}),
    "split-requests-waveform": (
        lambda: family_checkpoint("hubert", readout="prompt", prompt_layer=1),
        {"split": True, "per_request_prompts": True, "with_frontend": True},
        {"model_trunk": True, "model_head": True, "model": True},
    ),
    "pooled-requests": (
        lambda: family_checkpoint("siglip_vision_model", readout="prompt"),
        {"per_request_prompts": True},
        {"model": True},
    ),
    "rotary-split": (
        lambda: family_checkpoint("dinov3_vit", prompt_layer=1),
        {"split": True},
        {"model_trunk": True, "model_head": False, "model": False},
    ),
}


FAST = ("shared", "requests")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CASES])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Bundle, repository, name of the case."""
    make, form, _ = CASES[request.param]
    folder = tmp_path_factory.mktemp("triton")
    export_bundle(make(), folder / "model", form=GraphForm(**form))
    write_repository(Bundle.open(folder / "model"), folder / "repository", TritonConfig(max_batch_size=4))
    return folder / "model", folder / "repository", request.param


def read(path: Path) -> Any:
    return text_format.Parse((path / "config.pbtxt").read_text(), schema.ModelConfig())


def models(repository: Path) -> dict[str, Any]:
    return {path.name: read(path) for path in repository.iterdir()}


def answers(graph: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(graph.run(None, feed)[0])


def full_dims(end: Any, config: Any) -> list[int]:
    """What the graph is given: Triton's batch in front, and the reshape done."""
    own = list(end.reshape.shape) if end.HasField("reshape") else list(end.dims)
    return [-1, *own] if config.max_batch_size else own


def test_each_config_is_true_of_its_graph(written: tuple[Path, Path, str]) -> None:
    _, repository, case = written
    found = models(repository)
    assert {name: config.max_batch_size > 0 for name, config in found.items()} == CASES[case][2]
    for name, config in found.items():
        assert config.name == name
        assert (repository / name / "1").is_dir()
        if config.platform == "ensemble":
            continue
        assert config.backend == "onnxruntime"
        graph = onnx.load(repository / name / "1" / config.default_model_filename).graph
        for ends, stated in ((graph.input, config.input), (graph.output, config.output)):
            assert [end.name for end in stated] == [end.name for end in ends]
            for end, entry in zip(ends, stated, strict=True):
                kind = end.type.tensor_type
                assert entry.data_type == TYPES[kind.elem_type]
                assert full_dims(entry, config) == [
                    d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim
                ]
                assert len(entry.dims) > 0  # Triton refuses an input without dimensions
                if config.max_batch_size:
                    assert kind.shape.dim[0].dim_param == "batch"
        assert config.HasField("dynamic_batching") == (config.max_batch_size > 0)
        (group,) = config.instance_group
        wanted = "KIND_CPU" if CASES[case][1].get("precision") == "int8" else "KIND_AUTO"
        assert group.Kind.Name(group.kind) == wanted


def test_the_warm_up_runs_in_the_graph(written: tuple[Path, Path, str]) -> None:
    _, repository, _ = written
    for name, config in models(repository).items():
        if config.platform == "ensemble":
            continue
        graph = onnxruntime.InferenceSession(repository / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        assert {warm_up.batch_size for warm_up in config.model_warmup} == ({1, 4} if config.max_batch_size else {1})
        for warm_up in config.model_warmup:
            assert set(warm_up.inputs) == {entry.name for entry in config.input}
            feed = {}
            for entry in config.input:
                sample = warm_up.inputs[entry.name]
                assert sample.data_type == entry.data_type
                assert sample.zero_data
                shape = list(sample.dims)
                assert all(stated in (-1, given) for stated, given in zip(entry.dims, shape, strict=True))
                if entry.HasField("reshape"):
                    shape = list(entry.reshape.shape)
                if config.max_batch_size:
                    shape = [warm_up.batch_size, *shape]
                feed[entry.name] = np.zeros(shape, NUMPY[entry.data_type])
            assert answers(graph, feed).shape[0] == warm_up.batch_size


def test_the_ensemble_joins_trunk_and_head(written: tuple[Path, Path, str]) -> None:
    _, repository, _ = written
    found = models(repository)
    ensemble = found["model"]
    if ensemble.platform != "ensemble":
        assert len(found) == 1
        return
    # name -> type and dimensions as whoever calls the model sees them, the batch with them
    tensors = {entry.name: seen(entry, ensemble) for entry in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        config = found[step.model_name]
        assert set(step.input_map) == {entry.name for entry in config.input}
        for entry in config.input:
            assert tensors[step.input_map[entry.name]] == seen(entry, config)
        for entry in config.output:
            tensors[step.output_map[entry.name]] = seen(entry, config)
    (answer,) = ensemble.output
    assert tensors[answer.name] == seen(answer, ensemble)
    assert not any(entry.HasField("reshape") for entry in ensemble.input)


def seen(end: Any, config: Any) -> tuple[int, list[int]]:
    return end.data_type, [-1, *end.dims] if config.max_batch_size else list(end.dims)


def test_the_repository_holds_no_row_of_a_class(written: tuple[Path, Path, str]) -> None:
    bundle, repository, _ = written
    rows = Bundle.open(bundle).rows(range(4))
    own = [row for array in (rows.prompts, rows.weight) if array is not None for row in array]
    bank = (bundle / "bank.safetensors").read_bytes()
    assert all(row.tobytes() in bank for row in own)  # the control
    for file in repository.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(row.tobytes() in content for row in own)
        assert not any(name in content for name in (b"red", b"green", b"blue", b"grey") if file.suffix == ".pbtxt")


@pytest.mark.parametrize("written", ["requests"], indirect=True)
def test_requests_padded_to_one_length_get_their_own_answers(written: tuple[Path, Path, str]) -> None:
    """What docs/serving.md asks of a client whose requests are to be batched."""
    bundle = Bundle.open(written[0])
    path = written[1] / "model" / "1" / "model.onnx"
    graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    rows = [bundle.rows([0, 2, 3]), bundle.rows([1])]
    together = answers(graph, {"pixel_values": pixels, **per_request_feed(rows, prompt_tokens=2)})
    for row, request in enumerate(rows):
        alone = answers(graph, {"pixel_values": pixels[row : row + 1], **per_request_feed([request], prompt_tokens=2)})
        np.testing.assert_allclose(together[row : row + 1, : alone.shape[1]], alone, atol=1e-5)  # rounding


@pytest.mark.slow
@pytest.mark.parametrize("written", ["split-requests-waveform"], indirect=True)
def test_a_waveform_goes_through_both_models_of_a_repository_as_through_a_session(
    written: tuple[Path, Path, str],
) -> None:
    bundle, repository, _ = written
    trunk, head = (
        onnxruntime.InferenceSession(
            repository / f"model_{part}" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        for part in ("trunk", "head")
    )
    waves = np.random.default_rng(0).standard_normal((2, 1500)).astype(np.float32)
    counts = np.array([1500, 700], np.int32)
    session = PromptSession(bundle, device="cpu")
    rows = [Bundle.open(bundle).rows(range(4))] * 2
    tokens = answers(trunk, {"waveform": waves, "num_samples": counts})
    found = answers(head, {"tokens": tokens, **per_request_feed(rows, prompt_tokens=1)})
    for row, count in enumerate(counts):
        expected = session.predict_sounds((waves[row, :count], 16_000)).probabilities[0]
        shares = np.exp(found[row])
        np.testing.assert_allclose(shares / shares.sum(), expected, atol=1e-5)  # rounding


def test_the_commands_write_a_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pfm.model.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "model.pt", image_checkpoint("prompt"))
    asked = ["export", "onnx", "--ckpt", str(tmp_path / "model.pt"), "--out", str(tmp_path / "b")]
    assert run(pfm, [*asked, "--triton", str(tmp_path / "r")]) == 0
    assert f"wrote {tmp_path / 'r' / 'b' / 'config.pbtxt'}" in capsys.readouterr().out
    again = ["export", "triton", str(tmp_path / "b"), str(tmp_path / "r")]
    assert run(pfm, again) == 2
    assert "exists and is not empty; choose another folder, or give --overwrite" in capsys.readouterr().err
    assert run(pfm, [*asked, "--overwrite", "--triton", str(tmp_path)]) == 2  # the bundle itself is there
    assert "is not a Triton model" in capsys.readouterr().err
    assert run(pfm, [*again, "--overwrite", "--instances", "3"]) == 0
    assert read(tmp_path / "r" / "b").instance_group[0].count == 3
    with pytest.raises(StorageError, match="exists and is not empty"):
        write_repository(Bundle.open(tmp_path / "b"), tmp_path / "r")


@pytest.mark.parametrize("name", ["a/b", "", "..", "a b", "../a", "ä", "a" * 200])
def test_a_name_that_triton_does_not_take_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be a model's name in Triton; give --name"):
        model_folders(tmp_path, name, is_split=False)
    assert model_folders(tmp_path, "a_1-b.c", is_split=False) == {"model.onnx": tmp_path / "a_1-b.c"}


def test_an_empty_name_is_a_name_and_not_the_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_bundle(image_checkpoint("cls"), tmp_path / "my model")
    for options in (["--name", ""], []):
        assert run(pfm, ["export", "triton", str(tmp_path / "my model"), str(tmp_path / "triton"), *options]) == 2
        assert "cannot be a model's name in Triton" in capsys.readouterr().err
    assert not (tmp_path / "triton").exists()
