"""Data sets of sounds: folders, metadata, Hugging Face, labels in file names, and files that cannot be read."""

import itertools
import re
import shutil
import wave
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from making.commands import Refuse, train_arguments, train_on_sounds
from making.files import files
from making.images import write_npz
from making.sounds import PITCHES, tone, write_tones, write_wav
from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.data.mel import clip_lengths
from pfm.data.sounds import SoundStorage
from pfm.data.splits import ClassificationData
from pfm.errors import ConfigError, DataError

STORAGE = SoundStorage(16_000, 16)
NAMES = tuple(sorted(PITCHES))


def load(dataset: str | Path, **options: Any) -> ClassificationData:
    return load_data(DataConfig(dataset=str(dataset), **options), STORAGE)


def refusal(dataset: str | Path, **options: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(dataset, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf_cache")
    return Refuse(capsys)


def pitches_found(data: ClassificationData) -> bool:
    """Whether every clip's loudest bin is that of its class: inputs and labels belong together."""
    for _, split in data.splits():
        loudest = {}
        for features, label in zip(split.inputs, split.labels.tolist(), strict=True):
            loudest.setdefault(data.classes.names[label], set()).add(int(features.sum(dim=0).argmax()))
        order = [name for name in PITCHES if name in loudest]
        bins = [loudest[name] for name in order]
        if any(max(low) >= min(high) for low, high in itertools.pairwise(bins)):
            return False
    return True


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_with_splits_is_read_as_it_is(tones: Path) -> None:
    data = load(f"audiofolder:{tones}")
    assert (data.name, data.classes.names) == ("tones", NAMES)
    assert (len(data.train), len(data.test), data.val) == (40, 16, None)
    assert data.train.labels.bincount().tolist() == [10] * 4
    assert data.train.inputs.shape[2] == data.test.inputs.shape[2] == 16
    assert data.train.inputs.shape[1] == data.test.inputs.shape[1] == 28  # 0.3 s, the longest of both
    assert clip_lengths(data.train.inputs).min() == 19
    assert pitches_found(data)
    assert "sounds of up to 28 frames of 16 mel bins" in data.describe(STORAGE)


def test_a_folder_without_splits_holds_out_a_fifth_of_each_class(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "tones", test=0)
    shutil.copytree(folder / "train", tmp_path / "plain")
    data = load(f"audiofolder:{tmp_path / 'plain'}")
    assert (data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()) == ([8] * 4, [2] * 4)
    assert any("held out" in note for note in data.notes)
    assert pitches_found(data)


@pytest.mark.parametrize("other", ["validation", "dev"])
def test_a_validation_split_is_used_where_there_is_no_test_split(tones: Path, other: str) -> None:
    shutil.copytree(tones / "test", tones / other)
    data = load(f"audiofolder:{tones}")
    assert data.val is not None
    assert (len(data.val), len(data.test)) == (16, 16)
    shutil.rmtree(tones / "test")
    data = load(f"audiofolder:{tones}")
    assert (len(data.test), data.val) == (16, None)
    assert f"no test split in the source: tested on {other!r}" in data.notes


def test_metadata_says_labels_and_which_column_they_are_in(tones: Path) -> None:
    for split in ("train", "test"):
        flat = [shutil.move(path, tones / split / path.name) for path in sorted((tones / split).rglob("*.wav"))]
        lines = [f"{Path(path).name},{Path(path).stem.split('_')[0]},x" for path in reversed(flat)]
        (tones / split / "metadata.csv").write_text("\n".join(["file_name,pitch,room", *lines]) + "\n")
    data = load(f"audiofolder:{tones}", label_column="pitch")
    assert data.classes.names == NAMES
    assert pitches_found(data)
    assert "0 label columns" in refusal(f"audiofolder:{tones}")
    assert "no column 'tone'" in refusal(f"audiofolder:{tones}", label_column="tone")
    assert "has 1 class (x)" in refusal(f"audiofolder:{tones}", label_column="room")


def test_metadata_that_does_not_fit_the_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    write_wav(folder / "a.wav", tone(300, 0.1))
    write_wav(folder / "b.wav", tone(300, 0.1))
    for content, message in (
        ("file_name,label\na.wav,x\n", "says nothing of"),
        ("file_name,label\na.wav,x\nb.wav,y\nc.wav,y\n", "names are not there; first: c.wav (line 4)"),
        ("name,label\na.wav,x\n", "has no column 'file_name' (it has name, label)"),
        ("", "has no rows (columns: none)"),
    ):
        (folder / "metadata.csv").write_text(content)
        assert message in refusal(f"audiofolder:{folder}")


def test_a_folder_that_is_missing_or_holds_no_sounds_is_refused(tmp_path: Path) -> None:
    assert "no folder" in refusal(f"audiofolder:{tmp_path / 'nowhere'}")
    (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "train" / "a" / "notes.txt").write_text("none")
    assert "holds no sounds" in refusal(f"audiofolder:{tmp_path / 'empty'}")
    write_wav(tmp_path / "flat" / "a.wav", tone(300, 0.1))
    assert "0 label columns" in refusal(f"audiofolder:{tmp_path / 'flat'}")


def test_a_long_clip_is_read_up_to_max_seconds(tones: Path) -> None:
    write_wav(tones / "train" / "low" / "long.wav", tone(300, 2.0))
    assert load(f"audiofolder:{tones}").train.inputs.shape[1] == 198
    data = load(f"audiofolder:{tones}", max_seconds=0.5)
    assert data.train.inputs.shape[1] == 48
    assert any("longer than --max_seconds 0.5" in note and "long.wav" in note for note in data.notes)


# --- labels in file names -------------------------------------------------------------------------


def named(folder: Path) -> Path:
    """<pitch>_<speaker>_<n>.wav, two speakers, all in one folder."""
    for number in range(6):
        for pitch in ("low", "high"):
            for speaker in ("ann_b", "carl"):
                write_wav(folder / f"{pitch}_{speaker}_{number}.wav", tone(PITCHES[pitch], 0.1, seed=number))
    return folder


def test_a_field_of_the_file_name_is_the_label(tmp_path: Path) -> None:
    folder = f"audiofolder:{named(tmp_path / 'named')}"
    pattern = "name:{pitch}_{speaker}_{n}"
    by_pitch = load(folder, label_from=pattern, label="pitch")
    assert (by_pitch.name, by_pitch.classes.names) == ("named_pitch", ("high", "low"))
    assert pitches_found(by_pitch)
    by_speaker = load(folder, label_from="name:{pitch}_{speaker}_{n}", label="speaker")
    assert by_speaker.name == "named_speaker"
    assert set(by_speaker.classes.names) >= {"carl"}
    assert len(by_speaker.train) + len(by_speaker.test) == 24


def test_labels_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in range(12):
        for take in range(5):
            write_wav(tmp_path / "digits" / f"{number}_{take}.wav", tone(300, 0.1, seed=number))
    data = load(f"audiofolder:{tmp_path / 'digits'}", label_from="name:{digit}_{n}", label="digit")
    assert data.classes.names == tuple(str(number) for number in range(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label_from": "name:{pitch}_{n}", "label": "speaker"},
            "--label 'speaker' is not a field of name:{pitch}_{n}",
        ),
        ({"label_from": "name:{pitch}_{pitch}", "label": "pitch"}, "has no fields, or one twice"),
        ({"label_from": "name:plain", "label": "pitch"}, "has no fields, or one twice"),
        ({"label_from": "name:{}_{n}", "label": "n"}, "has no fields, or one twice"),
        ({"label_from": "{pitch}_{n}", "label": "pitch"}, "is not a pattern; give name:PATTERN"),
        ({"label_from": "name:{pitch}_{n}"}, "--label_from and --label go together"),
        ({"label": "pitch"}, "--label_from and --label go together"),
    ],
)
def test_what_is_not_a_pattern_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataConfig(dataset="audiofolder:x", **options)  # type: ignore[arg-type]


def test_a_file_that_does_not_fit_the_pattern_is_named(tmp_path: Path) -> None:
    folder = named(tmp_path / "named")
    write_wav(folder / "odd.wav", tone(300, 0.1))
    text = refusal(f"audiofolder:{folder}", label_from="name:{pitch}_{speaker}_{n}", label="pitch")
    assert "odd.wav" in text
    assert "does not fit --label_from name:{pitch}_{speaker}_{n}" in text


def test_images_may_have_their_labels_in_file_names_too(tmp_path: Path) -> None:
    for number in range(10):
        for name, shade in (("dark", 10), ("light", 240)):
            path = tmp_path / "shades" / f"{name}-{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (8, 8), shade).save(path)
    config = DataConfig(dataset=f"imagefolder:{tmp_path / 'shades'}", label_from="name:{shade}-{n}", label="shade")
    data = load_data(config, ImageStorage(8))
    assert data.classes.names == ("dark", "light")
    for _, split in data.splits():
        assert torch.equal(split.inputs[:, 0, 0, 0] > 100, split.labels == 1)


# --- Hugging Face ---------------------------------------------------------------------------------


def hub_split(tones: Path, *, in_memory: bool) -> datasets.Dataset:
    """A column of sounds, as bytes or as paths, and one of labels in words."""
    paths = sorted(tones.rglob("*.wav"))
    sources = [{"bytes": path.read_bytes() if in_memory else None, "path": str(path)} for path in paths]
    features = datasets.Features(
        {
            "clip": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "pitch": datasets.Value("string"),
        }
    )
    content = {"clip": sources, "pitch": [path.parent.name for path in paths]}
    return datasets.Dataset.from_dict(content, features=features)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("decode", [True, False])
def test_a_data_set_of_hugging_face_with_an_audio_column_is_read(tones: Path, in_memory: bool, decode: bool) -> None:
    whole = datasets.DatasetDict(
        {
            split: hub_split(tones / split, in_memory=in_memory).cast_column("clip", datasets.Audio(decode=decode))
            for split in ("train", "test")
        }
    )
    whole.save_to_disk(str(tones.parent / "saved"))
    if in_memory:
        expected = load(f"audiofolder:{tones}")
        shutil.rmtree(tones)
    else:
        expected = load(f"audiofolder:{tones}")
    data = load(tones.parent / "saved", data_type="audio", label_column="pitch")
    assert data.classes.names == NAMES
    assert torch.equal(data.train.inputs, expected.train.inputs)
    assert torch.equal(data.test.labels, expected.test.labels)


def test_a_data_set_without_a_column_of_sounds_says_what_it_has(tones: Path) -> None:
    plain = datasets.DatasetDict({"train": hub_split(tones / "train", in_memory=True)})
    plain.save_to_disk(str(tones.parent / "saved"))
    text = refusal(tones.parent / "saved", data_type="audio", label_column="pitch")
    assert "has 0 audio columns (columns: clip, pitch); name one with --input_column" in text
    text = refusal(tones.parent / "saved", data_type="audio", label_column="pitch", input_column="pitch")
    assert "column 'pitch' holds no sounds" in text


# --- bad files ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_bad_file_in_a_thousand_is_named_or_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    samples = {name: tone(PITCHES[name], 0.05) for name in ("low", "top")}
    for split, count in (("train", 450), ("test", 50)):
        for name, clip in samples.items():
            for number in range(count):
                write_wav(folder / split / name / f"{number:03d}.wav", clip)
    bad = folder / "train" / "low" / "137.wav"
    bad.write_bytes(bad.read_bytes()[:300])
    text = refusal(f"audiofolder:{folder}")
    assert f"cannot read {bad} (clip 137 of many/train): it is truncated: 256 of 800 bytes of samples are there" in text
    assert "give --skip_bad" in text
    data = load(f"audiofolder:{folder}", skip_bad=True)
    assert data.train.labels.bincount().tolist() == [449, 450]
    assert len(data.test) == 100
    (note,) = data.notes
    assert "1 skipped, which cannot be read; first:" in note
    assert str(bad) in note
    assert pitches_found(data)


def test_bad_files_in_every_place_leave_labels_and_splits_aligned(tones: Path) -> None:
    everything = sorted((tones / "train").rglob("*.wav")), sorted((tones / "test").rglob("*.wav"))
    for path in (everything[0][0], everything[0][17], everything[0][-1], everything[1][0], everything[1][-1]):
        path.write_bytes(b"no sound" * 20)
    data = load(f"audiofolder:{tones}", skip_bad=True)
    assert (data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()) == (
        [9, 9, 10, 9],
        [3, 4, 4, 3],
    )
    assert pitches_found(data)
    for note, start in zip(data.notes, ("tones/train: 3 skipped", "tones/test: 2 skipped"), strict=True):
        assert note.startswith(f"{start}, which cannot be read; first: ")


def test_a_split_of_which_nothing_is_left_is_refused(tones: Path) -> None:
    for path in (tones / "test").rglob("*.wav"):
        path.write_bytes(b"")
    assert "no file can be read (tones/test: 16 skipped" in refusal(f"audiofolder:{tones}", skip_bad=True)


def test_bad_images_are_left_out_and_labels_stay_aligned(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 3)):
        for name, shade in (("dark", 10), ("light", 240)):
            folder = tmp_path / "shades" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8, 8), shade).save(folder / f"{number}.png")
    bad = tmp_path / "shades" / "train" / "dark" / "2.png"
    bad.write_bytes(bad.read_bytes()[:20])
    config = DataConfig(dataset=f"imagefolder:{tmp_path / 'shades'}", skip_bad=True)
    data = load_data(config, ImageStorage(8))
    assert data.train.labels.bincount().tolist() == [5, 6]
    assert torch.equal(data.train.inputs[:, 0, 0, 0] > 100, data.train.labels == 1)
    assert any("1 skipped" in note and "2.png" in note for note in data.notes)
    with pytest.raises(DataError, match=r"2\.png .*--skip_bad"):
        load_data(DataConfig(dataset=f"imagefolder:{tmp_path / 'shades'}"), ImageStorage(8))


# --- the command line -----------------------------------------------------------------------------

BAD: dict[str, tuple[Any, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty (0 bytes)"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:500]), "it is truncated"),
    "no-samples": (lambda path: write_wav(path, np.zeros(0, np.float32)), "it holds no samples"),
    "too-short": (lambda path: write_wav(path, tone(300, 0.01)), "it lasts 10.0 ms; at least 25 ms are needed"),
    "unreadable": (
        lambda path: path.write_bytes(b"words " * 99),
        "it is not a sound of a known kind (WAV, FLAC, OGG or MP3)",
    ),
    "nan": (lambda path: nan_wav(path), "it holds samples that are NaN or infinite"),
}


def nan_wav(path: Path) -> None:
    import soundfile

    soundfile.write(path, np.full(4000, np.nan, np.float32), 8000, subtype="FLOAT")


@pytest.mark.usefixtures("sound_preset")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_sound_ends_in_one_line_that_names_it(refuse: Refuse, tones: Path, tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    bad = tones / "train" / "high" / "high_3.wav"
    spoil(bad)
    error = refuse(*train_on_sounds(tones, tmp_path / "out"))
    assert message in error
    assert str(bad) in error
    assert files(tmp_path / "out") == []


@pytest.mark.usefixtures("preset", "sound_preset")
@pytest.mark.parametrize(
    ("audio_model", "data", "more", "message"),
    [
        (False, "sounds", [], "holds sounds, but the model takes images"),
        (True, "images", [], "holds images, but the model takes sounds"),
        (True, "sounds", ["--shift", "1"], "for images only: --shift; this data has none"),
        (True, "sounds", ["--hflip"], "for images only: --hflip"),
        (False, "images", ["--time_mask", "3"], "for sounds only: --time_mask"),
        (True, "sounds", ["--image_size", "32"], "--image_size is for images"),
        (False, "images", ["--max_length", "64"], "--max_length is for sounds"),
        (False, "images", ["--data_type", "audio"], "holds images; use audiofolder:PATH"),
        (True, "images", ["--data_type", "audio"], "holds images; use audiofolder:PATH"),
        (True, "sounds", ["--max_length", "16", "--model_name", "scratch:nothing"], "no preset 'scratch:nothing'"),
        (True, "sounds", ["--label_from", "name:{a}_{b}"], "--label_from and --label go together"),
        (True, "sounds", ["--label_from", "name:{a}-{b}", "--label", "a"], "does not fit --label_from"),
        (True, "sounds", ["--max_seconds", "0"], "--max_seconds"),
    ],
)
def test_what_does_not_go_together_is_refused(
    refuse: Refuse, tones: Path, tmp_path: Path, audio_model: bool, data: str, more: list[str], message: str
) -> None:
    source = f"audiofolder:{tones}" if data == "sounds" else str(write_npz(tmp_path / "colours.npz"))
    model = "scratch:tiny_ast" if audio_model else "scratch:tiny"
    error = refuse(*train_arguments(source, tmp_path / "out", "--model_name", model, *more))
    assert message in error
    assert files(tmp_path / "out") == []


def test_wav_files_hold_what_the_helper_says(tmp_path: Path) -> None:
    with wave.open(str(write_wav(tmp_path / "a.wav", tone(300, 0.5)))) as file:
        assert (file.getnframes(), file.getframerate(), file.getsampwidth()) == (4000, 8000, 2)
