"""DICOM: rescaled levels, windows, both directions of grey, colours, patients; and what is said of one not read."""

import io
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfm.data import packed_frames
from pfm.data.config import DataConfig
from pfm.data.decoding import ImageDecoding, decode_image, sources_range
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.data.pixels import SEVERAL_FRAMES
from pfm.data.splits import ClassificationData
from pfm.errors import DataError
from pfm_export.predicting.files import Search

PLAIN = ImageDecoding()
LEVELS = np.arange(64, dtype=np.int16).reshape(8, 8) * 32  # 0, 32, …, 2016


def without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)


def write_bare(path: Path) -> Path:
    """No more than what says that a file is DICOM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + bytes(20))
    return path


def load(root: Path, **options: Any) -> ClassificationData:
    return load_data(DataConfig(dataset=f"imagefolder:{root}", **options), ImageStorage(8))


def test_without_pydicom_such_files_are_named_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    without_pydicom(monkeypatch)
    for name in "ab":
        for number in range(6):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (4, 4)).save(path)
    write_bare(tmp_path / "a" / "x.dcm")
    write_bare(tmp_path / "b" / "IM0001")
    with pytest.raises(DataError, match=r"x\.dcm .*: it is a DICOM file; to read those, pip install 'pfm\[dicom"):
        load(tmp_path)
    data = load(tmp_path, skip_bad=True)
    assert len(data.train) + len(data.test) == 12
    assert any("2 skipped, which cannot be read; first: " in note and "pfm[dicom]" in note for note in data.notes)
    with pytest.raises(DataError, match=r"--group dicom: cannot read .*pfm\[dicom\]"):
        load(tmp_path, skip_bad=True, group="dicom")


def dicom(pixels: np.ndarray, **tags: Any) -> bytes:
    """A DICOM file of those pixels, uncompressed."""
    pydicom: Any = pytest.importorskip("pydicom")
    document = pydicom.Dataset()
    document.file_meta = pydicom.dataset.FileMetaDataset()
    document.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    document.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    document.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID
    is_colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    document.Rows, document.Columns = pixels.shape[:2] if is_colour else pixels.shape[-2:]
    document.SamplesPerPixel = 3 if is_colour else 1
    document.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    document.BitsAllocated = 8 * pixels.itemsize
    document.BitsStored = document.BitsAllocated
    document.HighBit = document.BitsStored - 1
    document.PixelRepresentation = int(pixels.dtype.kind == "i")
    if is_colour:
        document.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(document, name, value)
    document.PixelData = np.ascontiguousarray(pixels).tobytes()
    buffer = io.BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_levels_are_rescaled_and_the_files_own_window_is_taken() -> None:
    content = dicom(LEVELS, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=40.5, WindowWidth=401)
    units = LEVELS.astype(float) * 2 - 1000
    wanted = np.round((units.clip(-160, 240) + 160) * 255 / 400)
    assert np.array_equal(decode_image(content, PLAIN)[:, :, 0], wanted.astype(np.uint8))
    given = np.round((units.clip(-1000, 1000) + 1000) * 255 / 2000)
    assert np.array_equal(decode_image(content, ImageDecoding(window=(-1000, 1000)))[:, :, 0], given.astype(np.uint8))
    assert sources_range([content]) == (-1000, 2016 * 2 - 1000)


def test_without_a_window_all_that_the_bits_can_say_is_the_range() -> None:
    content = dicom(LEVELS.astype(np.uint16), BitsStored=12, HighBit=11)
    assert np.array_equal(decode_image(content, PLAIN)[:, :, 0], np.round(LEVELS * (255 / 4095)).astype(np.uint8))
    signed = dicom(LEVELS, BitsStored=12, HighBit=11)
    assert decode_image(signed, PLAIN)[0, 0, 0] == 128  # 0 is in the middle of -2048..2047


def test_monochrome1_runs_the_other_way() -> None:
    first, second = (dicom(LEVELS, PhotometricInterpretation=f"MONOCHROME{number}") for number in (1, 2))
    assert np.array_equal(decode_image(first, PLAIN), 255 - decode_image(second, PLAIN))


def test_colours_and_the_first_of_several_frames_are_read() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(dicom(colours), PLAIN), colours)
    remarks: list[str] = []
    frames = np.stack([LEVELS, LEVELS[::-1]])
    pixels = decode_image(dicom(frames, NumberOfFrames=2), PLAIN, remarks.append)
    assert np.array_equal(pixels, decode_image(dicom(LEVELS), PLAIN))
    assert remarks == [SEVERAL_FRAMES]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    whole = dicom(LEVELS)
    for content in (whole[:-40], whole[:400], write_bare(tmp_path / "x").read_bytes()):
        with pytest.raises(ValueError, match="it is a DICOM file that cannot be read: "):
            decode_image(content, PLAIN)


def test_one_too_large_to_be_safe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="8 x 8 pixels, which is too large"):
        decode_image(dicom(LEVELS), PLAIN)


def test_files_are_found_without_an_ending_and_where_a_number_stands_for_one(tmp_path: Path) -> None:
    names = ["1.2.840.10008.7", "IM0001", "a.dcm", "scan.2"]
    for name in names:
        write_bare(tmp_path / name)
    (tmp_path / "notes.1").write_text("no image")
    (tmp_path / "scan.txt").write_bytes((tmp_path / "a.dcm").read_bytes())
    os.mkfifo(tmp_path / "pipe")
    found = Search((".dcm",))
    assert [Path(file).name for file in found.files([str(tmp_path)])] == names
    assert found.others == {".1": 1, ".txt": 1, "": 1}


def test_a_patients_images_stay_in_one_split(tmp_path: Path) -> None:
    for label in "ab":
        for number in range(20):
            content = dicom(LEVELS + number, PatientID=f"patient {number // 2}")
            path = tmp_path / label / (f"IM{number:04d}" if label == "a" else f"1.2.840.{number}")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    plain = load(tmp_path)
    assert any("--group dicom keeps all of a patient in one split" in note for note in plain.notes)
    data = load(tmp_path, group="dicom")
    assert data.train.groups is not None
    assert data.test.groups is not None
    assert not set(data.train.groups) & set(data.test.groups)
    assert set(data.train.groups) | set(data.test.groups) == {f"patient {number}" for number in range(10)}


def packed(pixels: np.ndarray, frame: bytes | None = None, syntax: str = "1.2.840.10008.1.2.5") -> bytes:
    """The same file, packed by run lengths; or with any frame."""
    pydicom: Any = pytest.importorskip("pydicom")
    document = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    if frame is None:
        document.compress(pydicom.uid.RLELossless)
    else:
        document.file_meta.TransferSyntaxUID = syntax
        document.PixelData = pydicom.encaps.encapsulate([frame])
        document["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def segments(*parts: bytes) -> bytes:
    """A frame of run lengths."""
    places = [64 + sum(map(len, parts[:number])) for number in range(len(parts))]
    return struct.pack("<16L", len(parts), *places, *[0] * (15 - len(parts))) + b"".join(parts)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server reads files."""
    monkeypatch.setattr(packed_frames, "_is_limited", [True])


HOSTILE = {
    "runs": (segments(b"\x00\x07" * 600_000, b"\x00\x07" * 600_000), "packed by more than 1048576 run lengths"),
    "runs of nothing": (segments(b"\x80" * 2_000_000, b"\x00\x07"), "packed by more than 1048576 run lengths"),
    "more than the image": (segments(b"\x81\x07" * 100_000, b"\x00\x07"), "run lengths of more than its image"),
    "a flat image": (segments(b"\x81\x00" * 196_000, b"\x81\x00" * 196_000), "unpacks to more than 20 times"),
    "no segments": (b"\x01", "it is a DICOM file that cannot be read: "),
    "segments behind the end": (struct.pack("<16L", 2, *[1 << 31] * 15), "it is a DICOM file that cannot be read: "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_frame_that_takes_long_to_unpack_is_refused_where_strangers_send_it(name: str, limited: None) -> None:
    frame, message = HOSTILE[name]
    size = {"runs": 1200, "a flat image": 5000}.get(name, 4)
    with pytest.raises(ValueError, match=message):
        decode_image(packed(np.zeros((size, size), np.uint16), frame), PLAIN)


def test_a_jpeg_of_many_scans_is_refused_in_a_dicom_file_too(limited: None) -> None:
    content = packed(np.zeros((4, 4), np.uint8), b"\xff\xd8" + b"\xff\xda" * 200, "1.2.840.10008.1.2.4.50")
    with pytest.raises(ValueError, match="JPEG of more than 100 scans"):
        decode_image(content, PLAIN)


def test_frames_packed_by_run_lengths_are_read_with_and_without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    found = [decode_image(packed(colours), PLAIN)]
    monkeypatch.setattr(packed_frames, "_is_limited", [True])
    found += [decode_image(packed(colours), PLAIN)]
    assert all(np.array_equal(pixels, colours) for pixels in found)
    assert decode_image(packed(LEVELS), PLAIN).shape == decode_image(dicom(LEVELS), PLAIN).shape
