"""One file to pixels: turned, laid on a ground, fitted, at the scale asked for."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfm.data.decoding import (
    BEFORE,
    ImageDecoding,
    decode_image,
    fit_pixels,
    have_one_small_size,
    sources_range,
    stored_decoding,
)
from pfm.data.pixels import SEVERAL_FRAMES, SHALLOW, TRANSPARENT
from pfm.errors import ConfigError

PLAIN = ImageDecoding()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]  # the stubs name each option
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_decoding_survives_its_dictionary() -> None:
    for decoding in (PLAIN, BEFORE, ImageDecoding(size=32, fit="crop", decode="fast", window=(-100, 400.5))):
        assert ImageDecoding.from_dict(decoding.to_dict()) == decoding


@pytest.mark.parametrize(
    "changes", [{"fit": "squeeze"}, {"decode": "quick"}, {"resample": "nearest"}, {"window": (5, 5)}]
)
def test_an_impossible_decoding_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ImageDecoding(**changes)  # type: ignore[arg-type]  # the values under test are wrong on purpose


def test_a_preprocessing_that_says_nothing_of_it_is_decoded_as_before() -> None:
    assert stored_decoding({"size": 8}) == BEFORE
    assert stored_decoding({"decoding": PLAIN.to_dict()}) == PLAIN
    assert stored_decoding({"decoding": None}) is None


def test_images_of_one_size_are_found_by_their_headers_as_they_are_seen() -> None:
    wide, tall = (encoded(Image.fromarray(noise(*shape, 3)), "JPEG") for shape in ((5, 8), (8, 5)))
    exif = Image.Exif()
    exif[0x0112] = 6
    on_its_side = encoded(Image.fromarray(noise(8, 5, 3)), "JPEG", exif=exif)
    assert have_one_small_size([wide, b"no image", wide[:-20], on_its_side], 8)
    assert not have_one_small_size([wide, tall], 8)
    assert not have_one_small_size([wide, wide], 7)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(kind: str, orientation: int) -> None:
    turned = np.zeros((24, 16, 3), np.uint8)  # as it is to be seen: the upper left quarter is white
    turned[:12, :8] = 255
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
            5: lambda a: np.swapaxes(a, 0, 1), 6: lambda a: np.rot90(a, 1),
            7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2), 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](turned)))
    found = decode_image(encoded(stored, kind, exif=exif), PLAIN)
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned).mean() < 8  # JPEG and WebP blur the edges


def test_a_path_and_its_bytes_are_decoded_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(noise(6, 5, 3))))
    assert np.array_equal(decode_image(path, PLAIN), decode_image(path.read_bytes(), PLAIN))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white_and_is_remarked(mode: str) -> None:
    icon = np.zeros((16, 16, 4), np.uint8)
    icon[4:12, 4:12, 3] = 255  # black on transparent
    image = Image.fromarray(icon)
    content = encoded(image.quantize(4) if mode == "P" else image.convert(mode))
    remarks: list[str] = []
    pixels = decode_image(content, PLAIN, remarks.append)
    assert np.array_equal(pixels[:, :, 0] == 255, icon[:, :, 3] == 0)
    assert remarks == [TRANSPARENT]
    assert len(np.unique(decode_image(content, BEFORE))) == 1  # as models of before have it


def test_an_opaque_alpha_channel_changes_nothing_and_is_not_remarked() -> None:
    colours = noise(6, 5, 3)
    remarks: list[str] = []
    content = encoded(Image.fromarray(np.dstack([colours, np.full((6, 5), 255, np.uint8)])))
    assert np.array_equal(decode_image(content, PLAIN, remarks.append), colours)
    assert remarks == []


def test_twelve_bits_in_sixteen_keep_their_levels_within_a_window() -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    content = encoded(Image.fromarray(deep))
    remarks: list[str] = []
    assert len(np.unique(decode_image(content, PLAIN, remarks.append))) == 17
    assert remarks == [SHALLOW]
    assert sources_range([content, b"no image", encoded(Image.fromarray(noise(4, 4)))]) == (0, 4095)
    windowed = decode_image(content, ImageDecoding(window=(0, 4095)))
    assert np.array_equal(windowed[:, :, 0], np.round(deep / 4095 * 255).astype(np.uint8))
    narrow = decode_image(content, ImageDecoding(window=(1000, 1255)))[:, :, 0]
    assert (narrow[deep <= 1000].max(), narrow[deep >= 1255].min(), narrow.flat[1100]) == (0, 255, 100)


def test_a_window_leaves_images_of_eight_bits_alone() -> None:
    grey = noise(5, 4)
    content = encoded(Image.fromarray(grey))
    assert sources_range([content]) is None
    assert np.array_equal(decode_image(content, ImageDecoding(window=(0, 10)))[:, :, 0], grey)


def test_floating_point_pixels_are_read_within_a_window() -> None:
    image = Image.fromarray(np.array([[-1.0, 0.0, 1.0, 9.0]], np.float32))
    content = encoded(image, "TIFF")
    with pytest.raises(ValueError, match="no known range"):
        decode_image(content, PLAIN)
    assert decode_image(content, ImageDecoding(window=(-1, 1)))[0, :, 0].tolist() == [0, 128, 255, 255]


def test_only_the_first_of_several_frames_is_used() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    remarks: list[str] = []
    pixels = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), PLAIN, remarks.append)
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert remarks == [SEVERAL_FRAMES]


@pytest.mark.parametrize("shape", [(30, 20, 3), (20, 30, 1), (31, 20, 3), (7, 7, 3)])
def test_each_way_to_fit_an_image_makes_it_square(shape: tuple[int, ...]) -> None:
    pixels = 1 + noise(*shape) // 2  # never black
    height, width, channels = shape
    side = min(height, width)
    for size in (None, 12):
        cropped = fit_pixels(pixels, ImageDecoding(size=size, fit="crop"))
        assert cropped.shape == (size or side, size or side, channels)
        padded = fit_pixels(pixels, ImageDecoding(size=size, fit="pad"))
        assert padded.shape == (size or max(shape), size or max(shape), channels)
        share = (padded[:, :, 0] > 0).mean()
        assert share == pytest.approx(side / max(height, width), abs=0.06)  # whole rows of twelve
    assert np.array_equal(fit_pixels(pixels, PLAIN), pixels)
    top, left = (height - side) // 2, (width - side) // 2
    cropped = fit_pixels(pixels, ImageDecoding(fit="crop"))
    assert np.array_equal(cropped, pixels[top : top + side, left : left + side])


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_resizing_is_that_of_pillow(resample: str) -> None:
    pixels = noise(40, 25, 3)
    wanted = Image.fromarray(pixels).resize((16, 16), Image.Resampling[resample.upper()])
    found = fit_pixels(pixels, ImageDecoding(size=16, resample=resample))
    assert np.array_equal(found, np.asarray(wanted))
    grey = fit_pixels(pixels[:, :, :1], ImageDecoding(size=16, resample=resample))
    assert np.array_equal(grey[:, :, 0], found[:, :, 0])


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_jpeg_decoded_fast_looks_like_one_decoded_whole(fit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[0:180:200j, 0:240:320j], 90.0), axis=2).astype(np.uint8)
    content = encoded(Image.fromarray(smooth), "JPEG", quality=95)
    drafts: list[object] = []
    jpeg = type(Image.open(io.BytesIO(content)))
    ours = jpeg.draft
    monkeypatch.setattr(jpeg, "draft", lambda self, *given: drafts.append(given) or ours(self, *given))
    whole, fast = (decode_image(content, ImageDecoding(size=24, fit=fit, decode=how)) for how in ("full", "fast"))
    assert len(drafts) == 1
    assert whole.shape == fast.shape
    assert np.abs(whole.astype(int) - fast).max() <= 3  # grey levels of a smooth image
