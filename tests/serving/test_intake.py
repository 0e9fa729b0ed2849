"""What callers hand in by mistake, or in a shorter way: refused with the reason, or what it obviously means."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from making.checkpoints import image_checkpoint, sound_checkpoint
from making.sounds import tone, write_wav
from pfm.errors import DataError
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving.session import PromptSession

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.standard_normal((3, 3, 8, 8), dtype=np.float32)
IMAGE = RANDOM.integers(0, 256, (16, 12, 3), dtype=np.uint8)
TONE = tone(440, 0.4, rate=16000).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "images"
    export_bundle(image_checkpoint("cls"), folder)
    return folder


@pytest.fixture(scope="module")
def images(folder: Path) -> PromptSession:
    return PromptSession(folder, device="cpu")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> PromptSession:
    folder = tmp_path_factory.mktemp("bundles") / "sounds"
    export_bundle(sound_checkpoint("cls"), folder, form=GraphForm(input="waveform"))
    return PromptSession(folder, device="cpu")


def with_value(value: float, place: int) -> np.ndarray:
    inputs = INPUTS.copy()
    inputs[place, 1, 2, 3] = value
    return inputs


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (with_value(np.nan, 2), "input 2 holds numbers that are NaN or infinite"),
        (with_value(-np.inf, 0), "input 0 holds"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), "input 0 holds"),
        (np.full((1, 3, 8, 8), 200, np.uint8), "normalised pixels .* got numbers of uint8"),
        (np.full((1, 3, 8, 8), 200, np.float32), "normalised pixels .* got numbers up to 200"),
        (RANDOM.uniform(0, 255, (2, 3, 8, 8)).astype(np.float32), "give images to predict_images"),
        (np.zeros((1, 3, 0, 0), np.float32), "are empty"),
        (np.zeros((0, 3, 8, 8), np.float32), "no input was given"),
        (np.float32(1), "no input was given"),
        ([[1.0], [1.0, 2.0]], "must be one array"),
        ([None], "array of numbers"),
        ("cell.png", "array of numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_inputs_that_a_graph_would_answer_all_the_same_are_refused(
    images: PromptSession, inputs: Any, says: str
) -> None:
    for ask in (images.predict, images.scores):
        with pytest.raises(DataError, match=says):
            ask(inputs)


def test_inputs_as_a_list_of_lists_are_an_array(images: PromptSession) -> None:
    assert images.predict(INPUTS.tolist()).labels == images.predict(INPUTS).labels


def as_bytes(image: np.ndarray, folder: Path) -> bytes:
    Image.fromarray(image).save(folder / "one.png")
    return (folder / "one.png").read_bytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda _: IMAGE,
        lambda _: Image.fromarray(IMAGE),
        lambda _: IMAGE[None],
        lambda _: (IMAGE,),
        lambda _: iter([IMAGE]),
        lambda folder: as_bytes(IMAGE, folder),
        lambda folder: as_bytes(IMAGE, folder) and str(folder / "one.png"),
        lambda folder: as_bytes(IMAGE, folder) and folder / "one.png",
    ],
    ids=["array", "PIL", "batch of one", "tuple", "iterator", "bytes", "name", "path"],
)
def test_one_image_is_a_list_of_one(images: PromptSession, tmp_path: Path, make: Callable[[Path], Any]) -> None:
    expected = images.predict_images([IMAGE]).probabilities
    np.testing.assert_array_equal(images.predict_images(make(tmp_path)).probabilities, expected)


def test_an_array_of_greys_is_a_batch_and_one_grey_image_is_one(images: PromptSession) -> None:
    greys = RANDOM.integers(0, 256, (5, 16, 12), dtype=np.uint8)
    assert len(images.predict_images(greys).labels) == 5
    assert len(images.predict_images(greys[0]).labels) == 1
    assert len(images.predict_images(greys[..., None]).labels) == 5


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 8, 3), np.uint8), np.zeros((8, 0), np.uint8), Image.new("RGB", (0, 5)), Image.new("L", (5, 0)),
        np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), [], None, 7, {"image": IMAGE}, [None], b"", b"text",
        Image.new("F", (4, 4)), np.zeros((0, 8, 8, 3), np.uint8),
    ],
    ids=lambda bad: f"{type(bad).__name__} {getattr(bad, 'size', bad)}",
)  # fmt: skip
def test_what_is_not_an_image_is_one_line(images: PromptSession, bad: Any) -> None:
    with pytest.raises(DataError):
        images.predict_images(bad)


def test_one_sound_is_a_list_of_one(sounds: PromptSession, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "one.wav", TONE, 16000)
    assert len(sounds.predict_sounds([TONE, TONE]).labels) == 2
    for one in (TONE, (TONE, 16000), [(TONE, 8000)], TONE[None], path, str(path), path.read_bytes()):
        assert len(sounds.predict_sounds(one).labels) == 1
    for bad in ([], None, 7, np.zeros(0, np.float32), (TONE, 0), np.full(16000, np.nan, np.float32), [[]]):
        with pytest.raises(DataError):
            sounds.predict_sounds(bad)


def test_samples_that_are_no_numbers_are_refused_and_nan_behind_the_end_is_not(sounds: PromptSession) -> None:
    clip = np.stack([TONE[:4000], np.concatenate([TONE[:3000], np.full(1000, np.nan, np.float32)])])
    assert len(sounds.predict(clip).labels) == 2
    for place, value in ((100, np.nan), (100, np.inf), (slice(None), np.nan), (-1, -np.inf)):
        bad = clip.copy()
        bad[0, place] = value
        with pytest.raises(DataError, match="input 0 holds samples that are NaN or infinite"):
            sounds.predict(bad)


def test_a_session_is_pickled_by_opening_its_bundle_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = PromptSession(os.path.relpath(folder), device="cpu", threads=1)
    expected = session.predict(INPUTS).probabilities
    monkeypatch.chdir(tmp_path)  # the name was relative
    np.testing.assert_array_equal(session.predict(INPUTS).probabilities, expected)
    pickled = pickle.dumps(session)
    assert len(pickled) < 1000  # where it is, and not what is in it
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.predict(INPUTS).probabilities, expected)
