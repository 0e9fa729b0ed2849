"""Images against a slow, obvious reference: PIL one channel at a time, numpy one pixel at a time."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pfm.data import pixels
from pfm.data.images import (
    ImagePreprocess,
    ImageStorage,
    from_arrays,
    measure_channels,
    preprocess_from_hf,
    resize_all,
)
from pfm.data.pixels import decode
from pfm.data.reading import FilesToRead, Stacked
from pfm.errors import ConfigError, DataError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PIL_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def pil_resize(image: torch.Tensor, size: int, resample: str) -> np.ndarray:
    """(C, H, W) uint8 -> (C, size, size) float32 grey levels; PIL's mode F does not round in between."""
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image]
    return np.stack([np.asarray(channel.resize((size, size), PIL_FILTERS[resample])) for channel in channels])


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    images = random_images(2, 3, 5, 5)
    result = ImagePreprocess(size=5, mean=MEAN, std=STD)(images)
    assert result.dtype == torch.float32
    for index in np.ndindex(2, 3, 5, 5):
        channel = index[1]
        wanted = (int(images[index]) / 255 - MEAN[channel]) / STD[channel]
        assert result[index].item() == pytest.approx(wanted, abs=1e-5)  # float32 of numbers up to 3


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("stored", "size"), [((28, 28), 64), ((64, 64), 28), ((37, 21), 24), ((50, 30), 224)])
def test_resizing_equals_pil_channel_by_channel(resample: str, stored: tuple[int, int], size: int) -> None:
    images = random_images(2, 3, *stored)
    grey_levels = ImagePreprocess(size=size, mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255), resample=resample)
    resized = grey_levels(images)
    wanted = np.stack([pil_resize(image, size, resample) for image in images])
    assert np.abs(resized.numpy() - wanted).max() < 1e-3  # of 255 grey levels: the rounding of float32 sums


def test_grey_images_are_repeated_to_three_channels_after_resizing() -> None:
    grey = random_images(3, 1, 12, 12)
    preprocess = ImagePreprocess(size=8, mean=MEAN, std=STD)
    result = preprocess(grey)
    assert result.shape == (3, 3, 8, 8)
    assert torch.equal(result, preprocess(grey.repeat(1, 3, 1, 1)))


def test_preprocessing_survives_its_dictionary() -> None:
    preprocess = ImagePreprocess(size=12, mean=MEAN, std=STD, resample="bicubic")
    assert preprocess.to_dict()["kind"] == "image"
    assert ImagePreprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize("changes", [{"resample": "nearest"}, {"std": (0.0, 1.0, 1.0)}])
def test_an_impossible_preprocessing_is_refused(changes: dict[str, object]) -> None:
    values = {"size": 8, "mean": MEAN, "std": STD, **changes}
    with pytest.raises(ConfigError):
        ImagePreprocess(**values)  # type: ignore[arg-type]  # the values under test are wrong on purpose


def test_channels_are_measured_as_numpy_does_over_several_portions() -> None:
    images = random_images(1500, 3, 4, 6)  # more than the portion of 1,024 images
    images[:, 1] //= 3
    mean, std = measure_channels(images)
    pixels = images.numpy() / 255
    # float64 sums of 36,000 numbers in [0, 1]
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), atol=1e-12)


def test_measured_channels_of_grey_images_count_three_times() -> None:
    images = random_images(10, 1, 4, 4)
    mean, std = measure_channels(images)
    assert mean == (pytest.approx(images.numpy().mean() / 255),) * 3
    assert std == (pytest.approx(images.numpy().std() / 255),) * 3


def test_images_of_one_shade_still_have_a_usable_deviation() -> None:
    mean, std = measure_channels(torch.full((4, 3, 2, 2), 100, dtype=torch.uint8))
    assert mean == pytest.approx((100 / 255,) * 3)
    assert min(std) > 0


def test_a_preprocessor_config_without_entries_means_what_vit_means() -> None:
    assert preprocess_from_hf({}, 224) == ImagePreprocess(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_a_preprocessor_config_is_followed() -> None:
    values = {"image_mean": list(MEAN), "image_std": list(STD), "resample": 3, "size": {"height": 384, "width": 384}}
    assert preprocess_from_hf(values, 32) == ImagePreprocess(size=32, mean=MEAN, std=STD, resample="bicubic")


def test_a_preprocessor_that_does_not_normalise_gives_pixels_in_zero_to_one() -> None:
    preprocess = preprocess_from_hf({"do_normalize": False, "image_mean": list(MEAN)}, 4)
    pixels = preprocess(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))
    assert torch.equal(pixels, torch.ones(1, 3, 4, 4))


def test_a_preprocessor_with_nearest_neighbours_is_refused() -> None:
    with pytest.raises(ConfigError, match="resampling 0"):
        preprocess_from_hf({"resample": 0}, 224)


@pytest.mark.parametrize("mean", [[0.5], [0.5, 0.5, 0.5, 0.5]])
def test_a_preprocessor_for_other_than_three_channels_is_refused(mean: list[float]) -> None:
    with pytest.raises(ConfigError, match="three channels"):
        preprocess_from_hf({"image_mean": mean}, 224)


# --- decoding -------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str = "PNG") -> Image.Image:
    """The image as it comes back from a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return Image.open(buffer)


def stack(images: list[Image.Image], *, size: int = 4) -> Stacked:
    files = FilesToRead(
        load=images.__getitem__, count=len(images), where="scans", name=lambda index: f"image {index} of scans"
    )
    return ImageStorage(size).read(files)


def test_colour_grey_palette_and_alpha_images_decode_to_their_pixels() -> None:
    colour = random_images(6, 5, 3).numpy()
    assert np.array_equal(decode(encoded(Image.fromarray(colour))), colour)
    grey = colour[:, :, 0]
    assert np.array_equal(decode(encoded(Image.fromarray(grey))), grey[:, :, None])
    with_alpha = np.concatenate([colour, np.full((6, 5, 1), 255, dtype=np.uint8)], axis=2)
    assert np.array_equal(decode(encoded(Image.fromarray(with_alpha))), colour)
    grey_alpha = Image.fromarray(grey).convert("LA")
    assert np.array_equal(decode(encoded(grey_alpha)), grey[:, :, None])
    palette = Image.fromarray(colour).quantize(256)
    assert np.array_equal(decode(encoded(palette)), np.asarray(palette.convert("RGB")))
    black_and_white = Image.fromarray(grey > 127)
    assert np.array_equal(decode(encoded(black_and_white)), np.uint8(255) * (grey > 127)[:, :, None])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight(kind: str) -> None:
    deep = np.array([[0, 257, 25700], [65535, 1000, 32896]], dtype=np.uint16)
    wanted = np.array([[0, 1, 100], [255, 4, 128]], dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(deep), kind)), wanted[:, :, None])


def test_sixteen_bit_grey_of_the_other_byte_order_is_read_alike() -> None:
    deep = np.array([[0, 257, 25700], [65535, 1000, 32896]], dtype=">u2")
    image = Image.frombytes("I;16B", (3, 2), deep.tobytes())
    assert decode(image)[:, :, 0].tolist() == [[0, 1, 100], [255, 4, 128]]


def test_wide_integers_in_the_range_of_eight_bits_are_kept() -> None:
    image = Image.fromarray(np.array([[0, 17], [200, 255]], dtype=np.int32))
    assert decode(image)[:, :, 0].tolist() == [[0, 17], [200, 255]]


def test_a_dark_sixteen_bit_image_is_scaled_like_a_bright_one() -> None:
    dark = np.array([[0, 255]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(dark)))[:, :, 0].tolist() == [[0, 1]]


@pytest.mark.parametrize("values", [[[0.0, 0.5]], [[0.0, float("nan")]]])
def test_floating_point_pixels_are_refused_since_their_range_is_unknown(values: list[list[float]]) -> None:
    image = Image.fromarray(np.array(values, dtype=np.float32))
    with pytest.raises(DataError, match="floating-point pixels have no known range"):
        stack([image])


@pytest.mark.parametrize("values", [[[-1, 3]], [[0, 70000]]])
def test_grey_levels_that_cannot_be_scaled_are_named(values: list[list[int]]) -> None:
    image = Image.fromarray(np.array(values, dtype=np.int32))
    with pytest.raises(DataError, match=r"cannot decode image 0 of scans: grey levels outside 0\.\.65535"):
        stack([image])


def test_a_palette_with_transparency_decodes_without_a_warning() -> None:
    palette = Image.fromarray(random_images(4, 4, 3).numpy()).quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG", transparency=b"\x00\x80\xff")
    assert decode(Image.open(buffer)).shape == (4, 4, 3)


def test_an_image_too_large_to_be_safe_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    buffer = io.BytesIO()
    Image.new("L", (30, 30)).save(buffer, format="PNG")
    files = FilesToRead(load=lambda _: buffer.getvalue(), count=1, where="scans", name=lambda _: "the big one")
    with pytest.raises(DataError, match=r"cannot decode the big one: it has 900 pixels; at most 10"):
        ImageStorage(4).read(files)


def test_a_stack_of_one_size_keeps_every_pixel() -> None:
    images = random_images(3, 6, 5, 3).numpy()
    stacked = stack([Image.fromarray(image) for image in images]).inputs
    assert np.array_equal(stacked.permute(0, 2, 3, 1).numpy(), images)


def test_a_stack_of_grey_and_colour_is_colour() -> None:
    colour, grey = random_images(5, 5, 3).numpy(), random_images(5, 5).numpy()
    stacked = stack([Image.fromarray(colour), Image.fromarray(grey)]).inputs
    assert stacked.shape == (2, 3, 5, 5)
    assert all(np.array_equal(channel.numpy(), grey) for channel in stacked[1])


def test_a_stack_of_uneven_sizes_is_brought_to_one() -> None:
    shapes = [(5, 9, 3), (12, 4, 3), (7, 7, 3)]
    images = [random_images(*shape, seed=i).numpy() for i, shape in enumerate(shapes)]
    stacked = stack([Image.fromarray(image) for image in images], size=7).inputs
    for image, result in zip(images, stacked, strict=True):
        wanted = pil_resize(torch.from_numpy(image).permute(2, 0, 1), 7, "bilinear")
        # whole grey levels after each of the two passes
        assert np.abs(result.numpy() - wanted).max() <= 1


def test_resizing_a_whole_split_in_portions_equals_image_by_image() -> None:
    images = random_images(300, 1, 6, 6)  # more than the portion of 256
    resized = resize_all(images, 9)
    assert resized.dtype == torch.uint8
    assert torch.equal(resized[299:], resize_all(images[299:], 9))


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros((2, 4, 4), dtype=np.float32),
        lambda: np.zeros((2, 4, 4, 2), dtype=np.uint8),
        lambda: np.zeros((4, 4), dtype=np.uint8),
        lambda: np.zeros((0, 4, 4, 3), dtype=np.uint8),
        lambda: np.zeros((2, 4, 4, 4, 3), dtype=np.uint8),
    ],
)
def test_arrays_of_another_layout_are_refused(make: Callable[[], np.ndarray]) -> None:
    with pytest.raises(DataError, match="expected"):
        from_arrays(make(), "file.npz (train_images)")


# --- large images -------------------------------------------------------------------------------------


def many_modes() -> dict[str, Image.Image]:
    """Images of (37, 23), those of more than 8 bits and with transparency among them."""
    draw = np.random.default_rng(0)
    colours = Image.fromarray(draw.integers(0, 255, (37, 23, 3), dtype=np.uint8))
    half_seen = draw.integers(0, 255, (37, 23, 4), dtype=np.uint8)
    half_seen[:20, :, 3] = 255
    palette = colours.convert("P")
    palette.info["transparency"] = 3
    return {
        "16 bits": Image.fromarray(draw.integers(0, 65535, (37, 23), dtype=np.uint16)),
        "16 bits, dark": Image.fromarray(draw.integers(0, 999, (37, 23), dtype=np.uint16)),
        "32 bits": Image.fromarray(draw.integers(0, 60000, (37, 23)).astype(np.int32)),
        "32 bits, of which 8 are used": Image.fromarray(draw.integers(0, 255, (37, 23)).astype(np.int32)),
        "RGB": colours, "grey": colours.convert("L"), "CMYK": colours.convert("CMYK"),
        "RGBA": Image.fromarray(half_seen), "LA": Image.fromarray(half_seen).convert("LA"), "palette": palette,
    }  # fmt: skip


@pytest.mark.parametrize("name", many_modes())
@pytest.mark.parametrize("options", [{}, {"background": 255}, {"window": (0.0, 10.0)}], ids=str)
def test_an_image_in_bands_is_the_same_as_in_one(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_remarks: list[str] = []
    whole = decode(many_modes()[name], remark=whole_remarks.append, **options)
    monkeypatch.setattr(pixels, "BAND_PIXELS", 5 * 23)
    remarks: list[str] = []
    assert np.array_equal(decode(many_modes()[name], remark=remarks.append, **options), whole)
    assert remarks == whole_remarks
    levels = pixels.grey_range(many_modes()[name])
    monkeypatch.undo()
    assert pixels.grey_range(many_modes()[name]) == levels


PEAK = """
import io, numpy as np
from PIL import Image
from pfm.data import pixels
content = io.BytesIO()
Image.fromarray(np.zeros((9400, 9400), np.uint16)).save(content, "PNG")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
pixels.decode(pixels.opened(content.getvalue()))
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_deep_image_of_a_few_kilobytes_takes_less_than_a_gibibyte() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1 << 30
