"""Sounds from the checkpoint to the served graph: features without torch, the front end inside, files of any length."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
import torchaudio
from google.protobuf import text_format
from torchaudio.compliance import kaldi
from transformers import ASTConfig, ASTFeatureExtractor, AutoConfig, AutoFeatureExtractor
from tritonclient.grpc import model_config_pb2

from making.checkpoints import SOUND_PREPROCESS, sound_checkpoint
from making.commands import train_on_sounds
from making.sounds import PITCHES, tone, write_tones, write_wav
from pfm.cli import pfm, run
from pfm.data.mel import fft_size, log_mel, mel_banks, resampled
from pfm.data.sounds import SoundPreprocess, SoundStorage
from pfm.errors import ClassNameError, ConfigError, DataError
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfm.model.draws import shared_set
from pfm.model.views import Views
from pfm_export.graph.accuracy import TestSamples, measure_accuracy
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.front_ends.sounds import spectrum_kernel
from pfm_export.graph.parity import BATCH_SIZES, check_parity
from pfm_export.graph.triton import TritonConfig, write_repository
from pfm_export.serving import sounds as hearing
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.session import PromptSession
from pfm_export.serving.signature import HEAD, MODEL, TOKENS, TRUNK
from pfm_export.serving.sounds import Features

FEATURES = Features.of(SOUND_PREPROCESS.to_dict())
RATE = 16_000
# by case: the model, and the form of the graph
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cls": ("cls", {}),
    "prompt": ("prompt-deep", {}),
    "cls-frontend": ("cls", {"with_frontend": True}),
    "prompt-frontend-split": ("prompt-deep", {"with_frontend": True, "split": True}),
    "prompt-requests-frontend": ("prompt", {"with_frontend": True, "per_request_prompts": True}),
    "cls-lora-split": ("cls-lora", {"split": True}),
}
SLOW = ("prompt", "prompt-requests-frontend", "prompt-frontend-split", "cls-lora-split")


Export = Callable[[str], tuple[Checkpoint, Path]]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a case once."""

    @functools.cache
    def make(case: str) -> tuple[Checkpoint, Path]:
        name, form = CASES[case]
        checkpoint = sound_checkpoint(name)
        folder = tmp_path_factory.mktemp("sounds") / "bundle"
        export_bundle(checkpoint, folder, form=GraphForm(**form))
        return checkpoint, folder

    return make


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES])
def exported(request: pytest.FixtureRequest, export: Export) -> tuple[Checkpoint, Path]:
    return export(request.param)


@pytest.fixture
def plain(export: Export) -> tuple[Checkpoint, Path]:
    return export("cls")


@torch.no_grad()
def torch_answer(checkpoint: Checkpoint, samples: np.ndarray, active: list[int], rate: int = RATE) -> np.ndarray:
    """Probabilities of one clip as torch and torchaudio have them, its windows averaged."""
    wave = resampled(torch.from_numpy(samples), rate, RATE)
    features = log_mel(wave[None], torch.tensor([len(wave)]), SOUND_PREPROCESS.storage)
    model = checkpoint.build_model()
    logits = Views.of(model, SOUND_PREPROCESS, features).logits(shared_set(active, 1, torch.device("cpu")))[0, active]
    if model.unknown_logit > -torch.inf:
        logits = torch.cat([logits, torch.zeros(1)])
    return logits.softmax(dim=0)[: len(active)].numpy()


# --- the graph ------------------------------------------------------------------------------------


def test_the_graph_gives_the_models_numbers(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    form = GraphForm.of(Bundle.open(folder))
    # float32 rounding; with the front end also of another Fourier transform, behind a logarithm
    report = check_parity(checkpoint.build_model(), folder, tolerance=2e-4 if form.with_frontend else 1e-5)
    assert {case.batch_size for case in report.cases} == set(BATCH_SIZES)
    assert {len(case.active) for case in report.cases} == {0, 1, 2, 4}
    assert {case.inputs for case in report.cases} == (
        {"noise", "tones", "short clips"} if form.with_frontend else {"random"}
    )
    assert report.largest_logit > 0.1  # the control: not everything is zero


def test_names_axes_and_manifest_are_what_was_promised(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    form = GraphForm.of(Bundle.open(folder))
    ends = {}
    for name, stated in manifest["graphs"].items():
        graph = onnx.load(folder / name).graph
        assert [entry.name for entry in graph.input] == stated["inputs"]
        assert [entry.name for entry in graph.output] == stated["outputs"]
        ends |= {e.name: [d.dim_param or d.dim_value for d in e.type.tensor_type.shape.dim] for e in graph.input}
    assert set(manifest["graphs"]) == ({TRUNK, HEAD} if form.split else {MODEL})
    waveform, features = {"kind": "waveform"}, {"kind": "features"}
    if form.with_frontend:
        assert (ends["waveform"], ends["num_samples"]) == (["batch", "samples"], ["batch"])
        assert manifest["input"] == {"name": "waveform", "shape": ["batch", "samples"], "dtype": "float32", **waveform}
    else:
        assert ends["input_values"] == ["batch", 32, 16]
        assert manifest["input"] == {"name": "input_values", "shape": ["batch", 32, 16], "dtype": "float32", **features}
    if form.split:
        assert ends[TOKENS] == ["batch", 10, 32]  # CLS, distillation, 2 x 4 patches
    assert manifest["preprocess"] == SOUND_PREPROCESS.to_dict() == checkpoint.preprocess.to_dict()
    assert manifest["features"]["kind"] == "kaldi_fbank"
    assert {entry.op_type for name in manifest["graphs"] for entry in onnx.load(folder / name).graph.node} <= set(
        onnx.defs.get_all_schemas_with_history() and {schema.name for schema in onnx.defs.get_all_schemas()}
    )


def test_transformers_reads_the_folder(plain: tuple[Checkpoint, Path]) -> None:
    _, folder = plain
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, ASTConfig)
    assert (config.max_length, config.num_mel_bins, config.hidden_size, config.time_stride) == (32, 16, 32, 8)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert isinstance(extractor, ASTFeatureExtractor)
    sound = tone(700, 0.25, rate=RATE)
    expected = extractor(sound, sampling_rate=RATE, return_tensors="np")["input_values"]
    (batch,) = hearing.windows([sound], FEATURES, batch=4)
    np.testing.assert_allclose(hearing.model_input(batch.samples, FEATURES), expected, atol=1e-4)


def test_nothing_of_a_class_is_in_the_graph(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    rows = list(checkpoint.tensors["bank.prompts"].flatten(0, 1).numpy())
    for file in folder.iterdir():
        content = file.read_bytes()
        for row in rows:
            assert (row.tobytes() in content) == (file.name == "bank.safetensors")


@pytest.mark.parametrize("form", [SoundStorage(16_000, 16), SoundStorage(16_000, 128), SoundStorage(8000, 40)])
def test_the_front_ends_convolution_is_the_whole_preparation_of_a_frame(form: SoundStorage) -> None:
    """Its power spectrum, from which the bins come, against torchaudio's filterbank without them."""
    frame = np.random.default_rng(0).standard_normal(form.frame_size)
    size = 1 << (form.frame_size - 1).bit_length()
    parts = spectrum_kernel(form.frame_size, size) @ frame
    power = parts[: size // 2] ** 2 + parts[size // 2 :] ** 2
    features = np.log(np.maximum(mel_banks(form).numpy() @ power, np.finfo(np.float32).eps))
    expected = kaldi.fbank(
        torch.from_numpy(frame).float()[None], htk_compat=True, sample_frequency=form.sampling_rate, use_energy=False,
        window_type="hanning", num_mel_bins=form.num_mel_bins, dither=0.0, frame_shift=10,
    )  # fmt: skip
    np.testing.assert_allclose(features[None], expected, atol=3e-4)  # the reference is in float32 throughout


# --- features without torch -----------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SOUND_PREPROCESS, SoundPreprocess(max_length=64, mean=-4.0, std=4.0),
                                      SoundPreprocess(max_length=32, mean=0.0, std=1.0, sampling_rate=8000,
                                                      num_mel_bins=40)])  # fmt: skip
def test_features_of_numpy_are_those_of_torch(settings: SoundPreprocess) -> None:
    features, form = Features.of(settings.to_dict()), settings.storage
    assert (features.frame, features.hop, features.fft_size) == (form.frame_size, form.hop, fft_size(form))
    # of weights up to 1: two float32 logarithms
    np.testing.assert_allclose(hearing.mel_banks(features), mel_banks(form).numpy(), atol=5e-5)
    for seconds in (0.025, 0.1, 0.333):
        wave = tone(500, seconds, rate=form.sampling_rate)
        expected = log_mel(torch.from_numpy(wave)[None], torch.tensor([len(wave)]), form)
        # two Fourier transforms, behind a logarithm, which makes the rounding of a quiet bin large
        np.testing.assert_allclose(hearing.log_mel(wave, features), expected[0], atol=5e-4)
        (batch,) = hearing.windows([wave], features, batch=1)
        np.testing.assert_allclose(hearing.model_input(batch.samples, features), settings(expected), atol=3e-4)


@pytest.mark.parametrize(("rate", "wanted"), [(8000, 16000), (11025, 16000), (44100, 16000), (48000, 16000),
                                              (16000, 8000), (96000, 16000)])  # fmt: skip
def test_resampling_without_torch_is_torchaudios(rate: int, wanted: int) -> None:
    for seconds in (0.013, 0.2, 0.2003):
        wave = tone(500, seconds, rate=rate)
        expected = torchaudio.functional.resample(torch.from_numpy(wave), rate, wanted).numpy()
        found = hearing.resample(wave, rate, wanted)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-5)  # kernels computed in float64 and in float32
    assert len(hearing.resample(np.zeros(0, np.float32), rate, wanted)) == 0


@pytest.mark.parametrize("rate", [8000, 44100, 16000])
def test_where_a_block_ends_does_not_show(rate: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "clip.wav", tone(500, 1.7, rate=rate), rate)
    whole = list(hearing.windows([path], FEATURES, batch=100))
    for seconds in (0.5, 0.0101, 0.001):
        monkeypatch.setattr("pfm.data.waves.BLOCK_SECONDS", seconds)
        (batch,) = hearing.windows([path], FEATURES, batch=100)
        assert batch.frames.tolist() == whole[0].frames.tolist()
        for found, expected in zip(batch.samples, whole[0].samples, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_windows_cover_every_frame_once_whatever_the_batch(tmp_path: Path) -> None:
    sounds = [tone(500, seconds, rate=RATE, seed=n) for n, seconds in enumerate((0.1, 1.0, 0.335, 0.34, 2.0))]
    batches = list(hearing.windows(sounds, FEATURES, batch=3))
    assert [len(batch.samples) for batch in batches[:-1]] == [3] * (len(batches) - 1)
    owners = np.concatenate([batch.owners for batch in batches])
    frames = np.concatenate([batch.frames for batch in batches])
    for place, sound in enumerate(sounds):
        assert frames[owners == place].sum() == SOUND_PREPROCESS.storage.num_frames(len(sound))
        stored = log_mel(torch.from_numpy(sound)[None], torch.tensor([len(sound)]), SOUND_PREPROCESS.storage)
        windows = SOUND_PREPROCESS.windows(stored)
        found = [hearing.model_input([samples], FEATURES)
                 for batch in batches for owner, samples in zip(batch.owners, batch.samples, strict=True)
                 if owner == place]  # fmt: skip
        assert len(found) == len(windows)
        for (expected, _), values in zip(windows, found, strict=True):
            np.testing.assert_allclose(values, expected, atol=1e-4)


# --- the session ----------------------------------------------------------------------------------


def test_a_session_gives_the_torch_models_answers(exported: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    checkpoint, folder = exported
    session = PromptSession(folder, device="cpu", warm_up=[1])
    clip, long = tone(700, 0.25, rate=RATE), tone(300, 1.23, rate=RATE)
    eight, high = tone(1500, 0.4), tone(900, 0.3, rate=44_100)
    write_wav(tmp_path / "eight.wav", eight)
    soundfile.write(tmp_path / "clip.flac", clip, RATE)
    soundfile.write(tmp_path / "high.flac", high, 44_100)
    sounds: list[Any] = [clip, long, (eight, 8000), (high, 44_100), tmp_path / "eight.wav", str(tmp_path / "clip.flac"),
                         tmp_path / "high.flac"]  # fmt: skip
    sources = [(clip, RATE), (long, RATE), (eight, 8000), (high, 44_100), (eight, 8000), (clip, RATE), (high, 44_100)]
    for active in (None, ["red", "grey"]):
        prediction = session.predict_sounds(sounds, active)
        positions = [0, 1, 2, 3] if active is None else [0, 3]
        assert prediction.classes == tuple(checkpoint.classes.names[p] for p in positions)
        for row, (samples, rate) in zip(prediction.probabilities, sources, strict=True):
            expected = torch_answer(checkpoint, samples, positions, rate)
            # another Fourier transform; files round samples to 16 bits
            np.testing.assert_allclose(row, expected, atol=1e-3)
    alone = session.predict_sounds([long])
    np.testing.assert_allclose(alone.probabilities[0], session.predict_sounds(sounds).probabilities[1], atol=1e-5)


def test_a_long_clip_is_averaged_and_not_cut(plain: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = plain
    session = PromptSession(folder, device="cpu")
    long = np.concatenate([tone(300, 1.0, rate=RATE), tone(3000, 6.0, rate=RATE)])  # more windows than one pass takes
    found = session.predict_sounds([long]).probabilities[0]
    np.testing.assert_allclose(found, torch_answer(checkpoint, long, [0, 1, 2, 3]), atol=1e-4)
    begin = session.predict_sounds([long[: FEATURES.window]]).probabilities[0]
    assert np.abs(found - begin).max() > 1e-3  # the control


def test_erasing_and_suspending_work_on_sounds(plain: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain[1], tmp_path / "bundle"))
    session = PromptSession(folder, device="cpu")
    sounds = [tone(pitch, 0.4, rate=RATE) for pitch in PITCHES.values()]
    session.suspend(["blue"])
    assert session.predict_sounds(sounds).classes == ("red", "green", "grey")
    session.restore(["blue"])
    assert session.predict_sounds(sounds).classes == ("red", "green", "blue", "grey")
    session.erase(["blue"], reason="request 7")
    assert session.predict_sounds(sounds).classes == ("red", "green", "grey")
    with pytest.raises(ClassNameError, match="no class 'blue'"):
        session.predict_sounds(sounds, ["blue"])
    assert PromptSession(folder, device="cpu").predict_sounds(sounds, without=["red"]).classes == ("green", "grey")


def test_a_bundle_of_sounds_refuses_images(plain: tuple[Checkpoint, Path]) -> None:
    with pytest.raises(DataError, match="this bundle classifies sounds; use predict_sounds"):
        PromptSession(plain[1], device="cpu").predict_images([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.slow
def test_a_bundle_of_images_refuses_sounds(tmp_path: Path) -> None:
    from making.checkpoints import image_checkpoint

    export_bundle(image_checkpoint("cls"), tmp_path / "images")
    with pytest.raises(DataError, match="this bundle classifies images; use predict_images"):
        PromptSession(tmp_path / "images", device="cpu").predict_sounds([tone(300, 0.2)])


def bad_sounds(folder: Path) -> dict[str, tuple[Any, str]]:
    nan = tone(300, 0.2)
    nan[5] = np.nan
    good = write_wav(folder / "good.wav", tone(300, 0.5)).read_bytes()
    (folder / "cut.wav").write_bytes(good[:500])
    (folder / "empty.wav").touch()
    (folder / "notes.txt").write_text("no sound\n" * 30)
    write_wav(folder / "short.wav", tone(300, 0.01))
    soundfile.write(folder / "nan.wav", nan, 8000, subtype="FLOAT")
    return {
        "missing": (folder / "nowhere.wav", f"cannot read {folder / 'nowhere.wav'}: No such file or directory"),
        "truncated": (folder / "cut.wav", "cut.wav: it is truncated: 456 of 8,000 bytes of samples are there"),
        "empty": (folder / "empty.wav", "empty.wav: it is empty (0 bytes)"),
        "text": (str(folder / "notes.txt"), "notes.txt: it is not a sound of a known kind"),
        "short": (folder / "short.wav", "short.wav: it lasts 10.0 ms; at least 25 ms are needed"),
        "nan": (folder / "nan.wav", "nan.wav: it holds samples that are NaN or infinite"),
        "nan array": ((nan, 8000), "cannot read sound 1: it holds samples that are NaN or infinite"),
        "integers": (np.zeros(9000, np.int16), "samples must be floating-point of shape (n,), got int16 (9000,)"),
        "two channels": (np.zeros((2, 9000), np.float32), "of shape (n,), got float32 (2, 9000)"),
        "no array": ([0.5], "at least 25 ms are needed"),
    }


def test_bad_sounds_are_refused_by_name(plain: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    session = PromptSession(plain[1], device="cpu")
    for sound, message in bad_sounds(tmp_path).values():
        with pytest.raises(DataError) as caught:
            session.predict_sounds([tone(300, 0.2, rate=RATE), sound])
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no sound was given"):
        session.predict_sounds([])


def test_a_rate_that_is_not_above_zero_is_refused(plain: tuple[Checkpoint, Path]) -> None:
    session = PromptSession(plain[1], device="cpu")
    for rate in (0, -8000):
        with pytest.raises(DataError, match="cannot read sound 0: its rate must be above zero"):
            session.predict_sounds([(tone(300, 0.2), rate)])


def test_features_and_samples_go_in_directly_too(exported: tuple[Checkpoint, Path]) -> None:
    _, folder = exported
    session = PromptSession(folder, device="cpu")
    sounds = [tone(700, 0.2, rate=RATE), tone(300, 0.1, rate=RATE)]
    (batch,) = hearing.windows(sounds, FEATURES, batch=4)
    is_frontend = GraphForm.of(Bundle.open(folder)).with_frontend
    inputs = hearing.padded(batch.samples) if is_frontend else hearing.model_input(batch.samples, FEATURES)
    expected = session.predict_sounds(sounds).probabilities
    np.testing.assert_allclose(session.predict(inputs).probabilities, expected, atol=1e-6)
    with pytest.raises(DataError, match="does not fit the graph"):
        session.predict(np.zeros((1, 3, 8, 8), np.float32))


def test_what_stands_behind_a_windows_samples_makes_no_difference(export: Export) -> None:
    bundle = Bundle.open(export("cls-frontend")[1])
    runner = GraphRunner(bundle)
    samples = np.zeros((1, 9000), np.float32)
    samples[0, :2000] = tone(700, 0.125, rate=RATE)
    rows = bundle.rows([0, 1, 2, 3]).feed()
    answers = []
    for behind in (0.0, 0.9):
        samples[0, 2000:] = behind
        feed = {"waveform": samples, "num_samples": np.array([2000], np.int32), **rows}
        answers.append(runner.graphs[MODEL].run(feed).numpy())
    np.testing.assert_array_equal(*answers)


# --- precision, forms, Triton ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("sound_preset")
def test_int8_is_measured_on_sounds_longer_than_the_window(tmp_path: Path) -> None:
    data = write_tones(tmp_path / "tones", train=16, seconds=0.6)
    arguments = train_on_sounds(data, tmp_path / "run", "--epochs", "30", "--batch_size", "16", "--eval_every", "0")
    assert run(pfm, arguments) == 0
    command = ["export", "onnx", "--ckpt", str(tmp_path / "run" / "tones_seed_42_30.pt"), "--out",
               str(tmp_path / "int8"), "--precision", "int8"]  # fmt: skip
    assert run(pfm, command) == 0
    accuracy = Bundle.open(tmp_path / "int8").manifest["accuracy"]
    assert accuracy["num_samples"] == 16
    assert accuracy["fp32"]["accuracy"] >= 0.9
    assert accuracy["bundle"]["accuracy"] >= 0.85
    checkpoint = load_checkpoint(tmp_path / "run" / "tones_seed_42_30.pt")
    files = sorted((data / "test").rglob("*.wav"))
    labels = PromptSession(tmp_path / "int8", device="cpu").predict_sounds(files).labels
    right = np.mean([label == path.parent.name for label, path in zip(labels, files, strict=True)])
    assert right == pytest.approx(accuracy["bundle"]["accuracy"], abs=0.07)  # one of 16 on the border
    assert checkpoint.preprocess.storage == SoundStorage(16_000, 16)


@torch.no_grad()
def test_accuracy_of_a_graph_is_the_models_over_windows(plain: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = plain
    waves = [torch.from_numpy(tone(pitch, 0.6, rate=RATE)) for pitch in PITCHES.values()]
    inputs = log_mel(torch.stack(waves), torch.tensor([len(waves[0])] * 4), SOUND_PREPROCESS.storage)
    assert inputs.shape[1] > SOUND_PREPROCESS.max_length
    result = measure_accuracy(checkpoint.build_model(), folder, TestSamples(inputs, torch.arange(4)))
    assert result.bundle == result.fp32
    assert result.worst_difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_front_end_stays_float32_in_other_precisions(precision: str, tmp_path: Path) -> None:
    form = GraphForm(with_frontend=True, precision=precision)
    report = export_bundle(sound_checkpoint("cls"), tmp_path / "bundle", form=form).parity
    assert report.worst_difference <= report.tolerance
    graph = onnx.load(tmp_path / "bundle" / MODEL).graph
    kernel = next(entry for entry in graph.initializer if entry.name == "sound_kernel")
    assert kernel.data_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("make", "form", "message"),
    [
        (lambda: sound_checkpoint("cls"), {"uint8_input": True}, "--uint8_input is for images"),
        (lambda: sound_checkpoint("cls"), {"split": True}, "--split needs a model trained with --prompt_layer above 0"),
        (None, {"with_frontend": True}, "--with_frontend is for sounds"),
    ],
)
def test_forms_of_the_other_kind_are_refused_at_the_command_line(
    make: Callable[[], Checkpoint] | None,
    form: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from making.checkpoints import image_checkpoint

    save_checkpoint(tmp_path / "x.pt", make() if make else image_checkpoint("cls"))
    flags = [f"--{name}" for name in form]
    assert run(pfm, ["export", "onnx", "--ckpt", str(tmp_path / "x.pt"), "--out", str(tmp_path / "b"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "b").exists()
    with pytest.raises(ConfigError, match=message):
        export_bundle(load_checkpoint(tmp_path / "x.pt"), tmp_path / "b", form=GraphForm(**form))


schema: Any = model_config_pb2  # its names are made at run time


def test_a_triton_repository_takes_features_or_samples(exported: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    _, folder = exported
    bundle = Bundle.open(folder)
    form = GraphForm.of(bundle)
    write_repository(bundle, tmp_path / "models", TritonConfig(max_batch_size=4), name="hear")
    first = text_format.Parse(
        (tmp_path / "models" / ("hear_trunk" if form.split else "hear") / "config.pbtxt").read_text(),
        schema.ModelConfig(),
    )
    batches = first.max_batch_size > 0
    assert batches == (form.split or (form.per_request_prompts and bundle.stated.readout == "prompt"))
    ends = {end.name: (end.data_type, list(end.dims)) for end in first.input}
    batch = [] if batches else [-1]
    if form.with_frontend:
        assert ends["waveform"] == (schema.TYPE_FP32, [*batch, -1])
        assert ends["num_samples"] == (schema.TYPE_INT32, [*batch] or [1])
    else:
        assert ends["input_values"] == (schema.TYPE_FP32, [*batch, 32, 16])
    warm = first.model_warmup[0].inputs
    assert set(warm) == set(ends)
    for name, entry in warm.items():  # what Triton shall warm up with is something that the graph takes
        assert all(size > 0 for size in entry.dims), name
    if form.with_frontend:
        assert list(warm["waveform"].dims)[-1] == FEATURES.window


def test_a_bundle_of_sounds_states_its_classes_nowhere_but_in_the_manifest(plain: tuple[Checkpoint, Path]) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        text = (plain[1] / name).read_text()
        assert not any(word in text for word in ("red", "green", "blue", "grey"))
    assert dataclasses.asdict(FEATURES)["rate"] == RATE
