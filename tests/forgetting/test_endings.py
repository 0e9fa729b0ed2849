"""A file that goes on behind its content is not taken for a picture, a sound, a log or a data set."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from pfm.forgetting.artifacts import Verdict
from pfm.forgetting.artifacts.endings import _masked_crc
from pfm.forgetting.artifacts.walk import tell

RANDOM = np.random.default_rng(0)
PROMPT = RANDOM.standard_normal(48).astype(np.float32).tobytes()
PICTURE = Image.fromarray(RANDOM.integers(0, 255, (20, 30, 3), dtype=np.uint8))
SOUND = RANDOM.standard_normal(4000) * 0.1


def picture(form: str, image: Image.Image = PICTURE, **options: Any) -> Callable[[], bytes]:
    def made() -> bytes:
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return made


def sound(form: str, rate: int = 16000, **options: Any) -> Callable[[], bytes]:
    def made() -> bytes:
        file = io.BytesIO()
        soundfile.write(file, SOUND, rate, format=form, **options)
        return file.getvalue()

    return made


def events() -> bytes:
    """A TensorBoard log of three records, whose checksums of events nobody looks at."""
    written = b""
    for event in (b"\x1a\rbrain.Event:2", bytes(30), bytes(7)):
        length = struct.pack("<Q", len(event))
        written += length + struct.pack("<I", _masked_crc(length)) + event + bytes(4)
    return written


def data(**options: Any) -> Callable[[], bytes]:
    def made() -> bytes:
        file = io.BytesIO()
        save = np.savez_compressed if options else np.savez
        save(file, train_images=np.ones((3, 8, 8), np.uint8), train_labels=np.ones((3, 1), np.int64))
        return file.getvalue()

    return made


PADDED: dict[str, Callable[[], bytes]] = {  # zeros behind the end are let pass
    "PNG": picture("PNG"),
    "JPEG": picture("JPEG"),
    "JPEG in steps": picture("JPEG", progressive=True),
    "JPEG with restarts": picture("JPEG", restart_marker_rows=1),
    "GIF": picture("GIF"),
    "GIF of two": picture("GIF", save_all=True, append_images=[PICTURE.rotate(9)]),
    "TIFF": picture("TIFF"),
    "TIFF, packed": picture("TIFF", compression="tiff_lzw"),
    "TIFF of two": picture("TIFF", save_all=True, append_images=[PICTURE]),
    "WebP": picture("WEBP"),
    "WAV": sound("WAV"),
    "FLAC": sound("FLAC"),
    "OGG": sound("OGG"),
    "MP3": sound("MP3", 44100),
    "MP3, 16 kHz": sound("MP3"),
    "MP3, 8 kHz": sound("MP3", 8000),
    "MP3 with a tag": lambda: sound("MP3")() + b"TAG" + bytes(125),
}
EXACT: dict[str, Callable[[], bytes]] = {"log": events, "data": data(), "packed data": data(packed=True)}


def verdict_of(path: Path, content: bytes) -> Verdict:
    path.write_bytes(content)
    return tell(path).verdict


@pytest.mark.parametrize("name", [*PADDED, *EXACT])
def test_bytes_behind_the_end_are_not_looked_into(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / "x", {**PADDED, **EXACT}[name]()
    assert verdict_of(path, content) is Verdict.CLEAN
    assert verdict_of(path, content + bytes(20)) is (Verdict.CLEAN if name in PADDED else Verdict.CLOSED)
    for more in (PROMPT, b"\n", bytes(9) + PROMPT, content + PROMPT, PROMPT + content[-20:]):
        assert verdict_of(path, content + more) is Verdict.CLOSED
    assert verdict_of(path, PROMPT + content) is Verdict.CLOSED


@pytest.mark.parametrize("name", PADDED)
def test_what_is_said_of_such_a_file_names_what_it_looks_like(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(PADDED[name]() + PROMPT)
    what = "a sound" if name.startswith(("WAV", "FLAC", "OGG", "MP3")) else "a picture"
    assert tell(tmp_path / "x").how == f"{what} that does not end where its file does, or breaks off"


@pytest.mark.parametrize("name", [*PADDED, *EXACT])
def test_no_spoiled_file_is_more_than_not_looked_into(tmp_path: Path, name: str) -> None:
    """Lengths that lead nowhere, files that break off: an answer in any case."""
    path, content, random = tmp_path / "x", {**PADDED, **EXACT}[name](), np.random.default_rng(1)
    for _ in range(30):
        spoiled = bytearray(content)
        for at in random.integers(0, min(64, len(content)), 3):
            spoiled[at] = random.integers(256)
        verdict_of(path, bytes(spoiled[: random.integers(1, len(spoiled) + 1)]))


def test_numbers_that_are_not_whole_or_stand_behind_an_array_are_not_data(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, train_images=np.ones((3, 8, 8), np.uint8), train_labels=np.ones(3, np.float32))
    assert tell(path).verdict is Verdict.CLOSED
    array = io.BytesIO()
    np.save(array, np.ones(3, np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", array.getvalue() + PROMPT)
    assert tell(path).verdict is Verdict.CLOSED
