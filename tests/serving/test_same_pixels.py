"""A file becomes the same pixels in training, in a session and in the plain example, whatever its format and mode."""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from making.commands import train_arguments
from pfm.cli import pfm, run
from pfm.data.config import DataConfig
from pfm.data.decoding import ImageDecoding
from pfm.data.images import ImagePreprocess, ImageStorage
from pfm.data.loading import load_data
from pfm.errors import DataError
from pfm.model.checkpoint import load_checkpoint
from pfm.storage import Json
from pfm_export.serving.kinds import INPUT_KINDS

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "serve_onnxruntime.py"
SIDE, MEAN, STD = 16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def example() -> Any:
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("serve_onnxruntime", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(height: int, width: int) -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    """Each format with each of the modes that it holds: the file's ending, the image, how to save it."""
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    with_alpha = Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (height, width), dtype=np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    on_its_side = colour.transpose(Image.Transpose.ROTATE_90)
    for kind, modes in {
        "png": ("1", "L", "LA", "P", "RGB", "RGBA"),
        "tiff": ("1", "L", "RGB", "RGBA", "CMYK"),
        "jpg": ("L", "RGB", "CMYK"),
        "webp": ("RGB", "RGBA"),
        "bmp": ("1", "L", "RGB"),
        "gif": ("L", "P"),
        "ppm": ("RGB",),
        "pgm": ("L",),
    }.items():
        for mode in modes:
            yield f"{mode}.{kind}", (with_alpha if mode.endswith("A") else colour).convert(mode), {}
    yield "transparent.png", colour.quantize(16), {"transparency": b"\x00\x80\xff"}
    yield "deep.png", deep, {}
    yield "deep.tiff", deep, {}
    yield "turned.jpg", on_its_side, {"exif": turned}
    yield "turned.png", on_its_side, {"exif": turned}


def write(folder: Path, shape: Callable[[int], tuple[int, int]]) -> list[Path]:
    paths = []
    for split, label, count in (("train", "a", 99), ("train", "b", 3), ("test", "a", 3), ("test", "b", 3)):
        for place, (name, image, options) in enumerate(itertools.islice(images(*shape(label == "b")), count)):
            path = folder / split / label / f"{place:02d}_{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, **options)
            paths.append(path)
    return paths


def test_there_are_as_many_kinds_of_file_as_the_page_says() -> None:
    page = (EXAMPLE.parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"for {len(list(images(4, 4)))} kinds of file" in page


def served(name: str, paths: list[Path], preprocess: Json) -> list[np.ndarray]:
    """What a session gives its graph, as the model takes it."""
    kind = INPUT_KINDS.get(name)(preprocess)
    found: dict[int, np.ndarray] = {}
    for batch in kind.batches(paths):
        found.update(zip(batch.owners.tolist(), kind.model_input(batch.inputs), strict=True))
    return [found[place] for place in range(len(paths))]


@pytest.mark.parametrize(
    ("shape", "options", "resample"),
    [
        (lambda is_b: (30, 45) if is_b else (40, 50), {}, "bilinear"),
        (lambda is_b: (30, 45) if is_b else (40, 50), {"decode": "full"}, "bicubic"),
        (lambda is_b: (45, 30) if is_b else (40, 50), {"fit": "crop"}, "bilinear"),
        (lambda is_b: (45, 30) if is_b else (40, 50), {"fit": "pad"}, "bicubic"),
        (lambda is_b: (30, 45), {"depth": "1000:50000"}, "bilinear"),
        (lambda is_b: (12, 9), {}, "bicubic"),  # small and of one size: stored as they are
        (lambda is_b: (12, 9), {"fit": "crop", "depth": "range"}, "bilinear"),
        (lambda is_b: (12, 9), {"fit": "pad"}, "bilinear"),
    ],
    ids=["fast", "full", "crop", "pad", "window", "small", "small-crop", "small-pad"],
)
def test_training_session_and_plain_example_see_the_same_pixels(
    tmp_path: Path, shape: Callable[[int], tuple[int, int]], options: dict[str, Any], resample: str
) -> None:
    paths = write(tmp_path / "data", shape)
    config = DataConfig(dataset=f"imagefolder:{tmp_path / 'data'}", **options)
    blank = ImagePreprocess(size=SIDE, mean=MEAN, std=STD, resample=resample)
    data = load_data(config, blank.storage)
    assert isinstance(data.storage, ImageStorage)
    preprocess = blank.stored_as(data.storage)
    assert data.train.names is not None
    assert data.test.names is not None
    inputs = [*preprocess(data.train.inputs), *preprocess(data.test.inputs)]
    trained = dict(zip(data.train.names + data.test.names, inputs, strict=True))
    stored = preprocess.to_dict()
    is_small = shape(0) == (12, 9)
    assert (stored["decoding"]["size"] is None) == is_small  # type: ignore[index, call-overload]
    plain = example()
    pixels, raw = served("pixels", paths, stored), served("images", paths, stored)
    for path, one, other in zip(paths, pixels, raw, strict=True):
        name = path.relative_to(tmp_path / "data").as_posix()
        # whole grey levels are the same; where the model's preprocessing resizes, sums of floats are rounded
        tolerance = 1e-4 if is_small else 1e-5
        wanted = trained[name].numpy()
        for found in (one, other, plain.pixel_values(path, stored)):
            assert np.abs(found - wanted).max() < tolerance, name


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_graph_that_resizes_says_that_it_takes_squares_where_the_model_does(fit: str) -> None:
    preprocess = ImagePreprocess(size=16, mean=MEAN, std=STD, decoding=ImageDecoding(fit=fit))
    kind = INPUT_KINDS.get("images")(preprocess.to_dict())
    images = np.zeros((2, 9, 12, 3), np.uint8)
    assert kind.checked(images[:, :, :9]).shape == (2, 9, 9, 3)
    if fit == "stretch":
        assert kind.checked(images) is images
    else:
        with pytest.raises(DataError, match=rf"square images \(--fit {fit}\), got 12 x 9"):
            kind.checked(images)
    (batch,) = kind.batches(list(images))
    assert batch.inputs.shape[1:3] == {"stretch": (9, 12), "crop": (9, 9), "pad": (12, 12)}[fit]


def test_a_model_of_before_is_served_as_before_except_that_photographs_are_turned(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with_alpha = random.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    Image.fromarray(with_alpha).save(tmp_path / "a.png")
    before = {**ImagePreprocess(size=16, mean=MEAN, std=STD).to_dict()}
    del before["decoding"]
    (found,) = served("images", [tmp_path / "a.png"], before)
    wanted = ImagePreprocess.from_dict(before)(_as_stored(with_alpha[:, :, :3]))[0].numpy()
    assert np.abs(found - wanted).max() < 1e-5


def _as_stored(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


@pytest.mark.usefixtures("preset")
def test_a_run_stores_how_its_images_were_decoded(tmp_path: Path) -> None:
    write(tmp_path / "data", lambda is_b: (45, 30) if is_b else (40, 50))
    said = ["--epochs", "1", "--eval_every", "0", "--fit", "crop", "--depth", "0:5000"]
    assert run(pfm, train_arguments(f"imagefolder:{tmp_path / 'data'}", tmp_path / "out", *said)) == 0
    (path,) = (tmp_path / "out").glob("*.pt")
    preprocess = load_checkpoint(path).preprocess
    side = preprocess.input_shape[1]
    decoding = ImageDecoding(size=side, fit="crop", decode="fast", window=(0, 5000))
    assert preprocess.to_dict()["decoding"] == decoding.to_dict()
    # a later command reads the data as the model does, whatever its own options are
    data = load_data(DataConfig(dataset=f"imagefolder:{tmp_path / 'data'}"), preprocess.storage)
    assert data.storage == preprocess.storage
