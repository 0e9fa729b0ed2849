"""Models of samples against the library's own forward on each clip alone.

Letters: B batch, n samples, T tokens, D hidden size.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from making.commands import Refuse
from making.families import assert_near
from making.models import tiny_model
from making.sounds import tone, write_tones
from making.speech import MORE_SPEECH, RECEPTIVE, SPEECH, SpeechCase, alone
from pfm.audit.probe import layer_features
from pfm.backbones.backbone import SUMMARY, Backbone
from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import FAMILIES
from pfm.backbones.loading import build_backbone
from pfm.backbones.relative import Distances
from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.backbones.speech import Speech
from pfm.cli import pfm, run
from pfm.data.wave_inputs import WavePreprocess, WaveStorage
from pfm.errors import BackboneError
from pfm.model.checkpoint import load_checkpoint
from pfm.model.config import LoraSettings
from pfm.model.flops import StepWork, step_flops
from pfm_export.graph.form import GraphForm
from pfm_export.graph.tracing import export_graphs
from pfm_export.serving.session import PromptSession

LENGTHS = (900, 471, RECEPTIVE)  # samples of the clips of a batch, the last of one frame


def describe(folder: Path, max_length: int = 16) -> BackboneSpec:
    return describe_backbone(BackboneConfig(model_name=str(folder), max_length=max_length))


def load(folder: Path) -> Backbone:
    return build_backbone(describe(folder), seed=0).eval()


def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) for length in LENGTHS]


def together(parts: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Clips (n,) as model input (B, length)."""
    rows = torch.full((len(parts), length), torch.nan)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows


@torch.no_grad()
def check_parity(case: SpeechCase, folder: Path) -> None:
    reference = case.make(folder)
    backbone, parts = load(folder), clips()
    expected = [alone(reference, part) for part in parts]
    for length in (max(LENGTHS), backbone.input_shape[0]):  # as long as the longest, and the whole window
        inputs = together(parts, length)
        tokens = backbone.embed(inputs)
        found = backbone.normalise(backbone.readout(tokens, 0, slice(0, None)))
        read = backbone.read(tokens, 0, SUMMARY, is_normalised=True)[:, 0]
        for row, wanted in enumerate(expected):
            assert_near(found[row, : len(wanted)], wanted)
            assert_near(read[row], wanted.mean(dim=0))
            assert not tokens[row, len(wanted) :].any()
    assert tokens.shape == (3, backbone.num_own, 32)
    # no prompt is there: the plain backbone, whatever the prompts are
    model = tiny_model(backbone=backbone, prompt_layer=1)
    nothing = model.read(model.trunk(inputs), model.bank.gather(torch.zeros(3, 0, dtype=torch.long)))[:, 0]
    assert_near(nothing, read)
    # prompts have no place: their order says nothing, and each of them changes the answer
    given = model.logits(inputs, torch.tensor([[0, 2]] * 3))
    assert_near(given, model.logits(inputs, torch.tensor([[2, 0]] * 3)))
    assert not torch.allclose(given, model.logits(inputs, torch.tensor([[0]] * 3)))
    # and a clip's answer is its own, to the last bit
    strangers = torch.cat([inputs[:1], torch.randn(2, inputs.shape[1])])
    assert torch.equal(given[0], model.logits(strangers, torch.tensor([[0, 2]] * 3))[0])


@pytest.mark.parametrize("name", list(SPEECH))
def test_a_model_of_samples_computes_what_the_library_does_of_each_clip_alone(name: str, tmp_path: Path) -> None:
    check_parity(SPEECH[name], tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MORE_SPEECH))
def test_variants_compute_what_the_library_does_of_each_clip_alone(name: str, tmp_path: Path) -> None:
    check_parity(MORE_SPEECH[name], tmp_path / name)


def test_every_family_of_samples_is_compared() -> None:
    assert {family.name for family in FAMILIES if isinstance(family, Speech)} == {*SPEECH}


def test_a_window_is_what_the_fields_processor_makes_of_a_clip_alone() -> None:
    lengths = (700, 333)
    stored = torch.nn.utils.rnn.pad_sequence([torch.randn(n) + 0.3 for n in lengths], batch_first=True)
    preprocess = WavePreprocess(max_samples=1000, min_samples=40, sampling_rate=8000)
    found = preprocess(stored)
    from transformers import Wav2Vec2FeatureExtractor

    extract = Wav2Vec2FeatureExtractor(sampling_rate=8000)
    for row, length in enumerate(lengths):
        wanted = extract(stored[row, :length].numpy(), sampling_rate=8000, return_tensors="pt")["input_values"][0]
        torch.testing.assert_close(found[row, :length], wanted, atol=1e-5, rtol=0)
        assert found[row, length:].isnan().all()
    assert torch.equal(preprocess(stored[1:])[0].nan_to_num(9), found[1].nan_to_num(9))  # whoever else is there


def test_rate_and_normalisation_are_the_processors_and_the_window_that_of_the_data(tmp_path: Path) -> None:
    SPEECH["hubert"].make(tmp_path)
    spec = describe_backbone(BackboneConfig(model_name=str(tmp_path)))
    assert spec.storage == WaveStorage(16_000, RECEPTIVE)
    assert spec.preprocess == WavePreprocess(max_samples=160_000, min_samples=RECEPTIVE, do_normalize=False)
    assert spec.is_fitted
    fitted = spec.fitted((24_500,))
    assert fitted.preprocess == WavePreprocess(max_samples=25_600, min_samples=RECEPTIVE, do_normalize=False)
    assert (fitted.input_shape, fitted.describe_size()) == ((25_600,), "1.6 s")
    assert spec.fitted((1_000_000,)).input_shape == spec.input_shape  # clips are cut into windows
    assert not describe(tmp_path).is_fitted
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**processor, "sampling_rate": 8000}))
    assert describe(tmp_path).storage == WaveStorage(8000, RECEPTIVE)


@torch.no_grad()
def test_weights_of_older_files_are_read_and_what_only_training_needs_may_be_missing(tmp_path: Path) -> None:
    SPEECH["hubert"].make(tmp_path)
    before = load(tmp_path).encoder.state_dict()
    weights = load_file(tmp_path / "model.safetensors")
    (first,) = (name for name in weights if name.endswith("original0"))
    second = first.replace("original0", "original1")
    old = first.removesuffix("parametrizations.weight.original0")
    weights |= {f"{old}weight_g": weights.pop(first), f"{old}weight_v": weights.pop(second)}
    del weights["masked_spec_embed"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    after = load(tmp_path).encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    SPEECH["hubert"].make(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changes, message in (
        ({"conv_pos_batch_norm": True}, "a HuBERT with conv_pos_batch_norm=True is not supported"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm 'batch' is not supported"),
        ({"conv_stride": [5, 2]}, "cannot load backbone|do not say as many convolutions"),
        ({"conv_dim": [1 << 20] * 3}, "conv_dim"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(BackboneError, match=message):
            describe(tmp_path)


@torch.no_grad()
def test_distances_are_told_among_frames_and_nothing_of_prompts() -> None:
    distances = Distances(num_heads=2, num_buckets=8, farthest=6)
    found = distances(5, 8, None)
    assert found.shape == (2, 8, 8)
    assert torch.equal(found[:, :5, :5], distances(5, 5, None))
    assert not found[:, 5:].any()
    assert not found[:, :, 5:].any()
    assert torch.equal(distances(5, 8, slice(2, 4)), found[:, 2:4])
    assert found[0, 0, 1] != found[0, 1, 0]  # to the right, and to the left
    assert found[0, 1, 3] == found[0, 2, 4]
    distances.embedding.weight.mul_(2)
    torch.testing.assert_close(distances(5, 8, None), 2 * found)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wavlm", "wav2vec2"])
def test_the_flop_count_of_samples_is_what_torch_counts(name: str, tmp_path: Path) -> None:
    SPEECH[name].make(tmp_path)
    backbone = load(tmp_path)
    model = tiny_model(backbone=backbone)
    model.backbone.encoder.set_eager(True)
    with FlopCounterMode(display=False) as counted:
        model.logits(torch.randn(1, *backbone.input_shape), torch.tensor([[0, 1]]))
    work = StepWork(prompts=(2.0,), num_scores=model.num_classes, rank=0, has_backward=False)
    assert step_flops(backbone.spec, work) == counted.get_total_flops()


@torch.no_grad()
@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_audits_see_the_frames_that_are_there(readout: str, tmp_path: Path) -> None:
    SPEECH["wavlm"].make(tmp_path)
    model = tiny_model(backbone=load(tmp_path), prompt_layer=1, readout=readout)
    narrow, wide = (layer_features(model, together(clips(), length)) for length in (900, 2560))
    assert len(narrow) == len(wide) == 3
    for found, expected in zip(wide, narrow, strict=True):
        assert_near(found, expected)


@pytest.mark.slow
@torch.no_grad()
def test_half_precision_is_near_and_a_clips_end_stays_where_it_is(tmp_path: Path) -> None:
    SPEECH["wavlm"].make(tmp_path)
    model = tiny_model(backbone=load(tmp_path), lora=LoraSettings(lora_r=2), prompt_layer=1)
    inputs, present = together(clips(), 900), torch.tensor([[0, 2]] * 3)
    expected, tokens = model.logits(inputs, present), model.trunk(inputs)
    model.store_frozen(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found, half = model.logits(inputs, present), model.trunk(inputs)
    assert (half == 0).all(dim=2).equal((tokens == 0).all(dim=2))
    # bfloat16 has 8 bits
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.slow
def test_what_has_no_last_norm_cannot_leave_it_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SPEECH["hubert"].make(tmp_path / "backbone")
    data = write_tones(tmp_path / "tones", train=2, test=1, seconds=0.1)
    said = Refuse(capsys)("train", "--dataset", f"audiofolder:{data}", "--model_name", tmp_path / "backbone",
                          "--no_final_norm", "--save_dir", tmp_path / "run", "--cpu")  # fmt: skip
    assert "--no_final_norm: " in said
    assert "has none behind its last block" in said


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", list(SPEECH))
def test_the_graph_gives_the_librarys_mean_of_each_clip_alone(name: str, tmp_path: Path) -> None:
    reference, spec = SPEECH[name].make(tmp_path), describe(tmp_path)
    model = tiny_model(backbone=build_backbone(spec, seed=0), num_classes=32)
    assert spec.preprocess is not None
    (graph,) = export_graphs(model, GraphForm(), spec.preprocess).values()
    session = onnxruntime.InferenceSession(graph)
    nothing = {"prompts": np.zeros((0, 32), np.float32), "class_bias": np.zeros(32, np.float32),
               "class_weight": np.eye(32, dtype=np.float32)}  # the logits are what is read  # fmt: skip
    expected = [alone(reference, part).mean(dim=0) for part in clips()]
    inputs = together(clips(), 900)
    for rows in (inputs, *(part[None] for part in clips())):
        (found,) = session.run(None, {"input_values": rows.numpy(), **nothing})
        wanted = expected if len(rows) > 1 else [expected[LENGTHS.index(rows.shape[1])]]
        assert_near(torch.from_numpy(found), torch.stack(wanted))


# how one family is exported, so that every form meets both kinds of blocks
FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "wavlm": (("--split",), ("--precision", "fp16")),
    "wav2vec2": (("--with_frontend",), ("--precision", "int8", "--split")),
    "hubert": ((), ("--with_frontend", "--per_request_prompts")),
}


def call(*arguments: object) -> None:
    assert run(pfm, [str(argument) for argument in arguments]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["cls", "prompt"])
@pytest.mark.parametrize("name", list(SPEECH))
def test_a_model_of_samples_trains_forgets_is_exported_and_served(name: str, readout: str, tmp_path: Path) -> None:
    SPEECH[name].make(tmp_path / "backbone")
    data = write_tones(tmp_path / "tones", train=6, test=3, seconds=0.2)
    call("train", "--dataset", f"audiofolder:{data}", "--model_name", tmp_path / "backbone", "--epochs", 2,
         "--batch_size", 8, "--lr", 0.01, "--save_dir", tmp_path / "run", "--readout", readout,
         "--wrong_target", "none" if readout == "prompt" else "uniform", "--prompt_layer", 1, "--cache_trunk", "device",
         "--gradient_checkpointing", "--eval_every", 1, "--cpu")  # fmt: skip
    checkpoint = tmp_path / "run" / "tones_seed_42_2.pt"
    bundle = tmp_path / "bundle"
    form = FORMS[name][readout == "prompt"]
    call("export", "onnx", "--ckpt", checkpoint, "--out", bundle, *form)  # which checks parity with the model
    sounds = sorted(map(str, (data / "test").rglob("*.wav")))
    before = PromptSession(bundle, device="cpu").predict_sounds(sounds)
    assert "low" in before.classes
    single = PromptSession(bundle, device="cpu").predict_sounds(sounds[3])
    if "int8" not in form:  # whose rounding depends on all that is in a batch
        torch.testing.assert_close(*map(torch.from_numpy, (single.probabilities[0], before.probabilities[3])),
                                   atol=1e-5, rtol=0)  # fmt: skip
    call("forget", "--classes", "low", "--in_place", checkpoint, bundle)
    session = PromptSession(bundle, device="cpu")
    assert "low" not in session.predict_sounds([*sounds, (tone(300.0, 1.2), 8000)]).classes  # and a longer one
    assert json.loads((bundle / "config.json").read_text())["model_type"] == name
    assert load_checkpoint(checkpoint).build_model().num_classes == 3
    call("eval", "--ckpt", checkpoint, "--cpu")
    call("predict", checkpoint, data / "test", "--out", tmp_path / "answers.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wavlm", "hubert"])
def test_frozen_features_of_samples_are_solved_exported_and_forgotten(name: str, tmp_path: Path) -> None:
    SPEECH[name].make(tmp_path / "backbone")
    data = write_tones(tmp_path / "tones", train=6, test=3, seconds=0.2)
    call("train", "--dataset", f"audiofolder:{data}", "--model_name", tmp_path / "backbone", "--readout", "ridge",
         "--save_dir", tmp_path / "run", "--cpu")  # fmt: skip
    checkpoint = next((tmp_path / "run").glob("*.pt"))
    bundle = tmp_path / "bundle"
    call("export", "onnx", "--ckpt", checkpoint, "--out", bundle)
    call("forget", "--classes", "low", "--in_place", checkpoint, bundle)
    sounds = sorted(map(str, (data / "test").rglob("*.wav")))
    assert "low" not in PromptSession(bundle, device="cpu").predict_sounds(sounds).classes
