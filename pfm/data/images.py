"""Images: decoded once into uint8, made into model input on the batch, on the device.

Letters: B batch, C colour channels (1 or 3), H and W pixels as stored, S pixels of the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from pfm.data.config import DataConfig, ImageAugmentConfig
from pfm.data.decoding import (
    FIT_AUTO,
    RANGE_OF_DATA,
    RESAMPLE,
    ImageDecoding,
    have_one_small_size,
    read_window,
    sources_range,
    stored_decoding,
    typical_size,
)
from pfm.data.file_names import IMAGE_ENDINGS
from pfm.data.image_augmentation import ImageAugmentation
from pfm.data.image_jobs import ImageLook, ImageRow, fitted_shape
from pfm.data.inputs import Storage
from pfm.data.intake import Looked, Rowed, Words, take_in
from pfm.data.kinds import InputKind
from pfm.data.reading import FilesToRead, Stacked
from pfm.errors import ConfigError, DataError
from pfm.storage import Json

CHUNK_BYTES = 2**24  # of images whose pixels are counted at a time

LOOKED_AT = 64  # files that say how large files are


@dataclass(frozen=True)
class ImageStorage:
    """How images are stored, (N, C, H, W) uint8: as they are where they are small and of one size, else brought to S.

    Attributes:
        size: S, the model's side.
        resample: how the model's preprocessing resizes.
        decoding: how files are decoded; None until data decides it, see `decided`.
        fit, keep: how the model's own processor makes an image square; see `ImageDecoding`.
        file_size: height and width of a typical file, where files are brought to one size.
    """

    kind: ClassVar[str] = "image"
    noun: ClassVar[str] = "images"
    item: ClassVar[str] = "image"
    folder_prefix: ClassVar[str] = "imagefolder:"
    endings: ClassVar[tuple[str, ...]] = IMAGE_ENDINGS
    column_type: ClassVar[str] = "Image"
    how_to_ask: ClassVar[str] = ""
    augment_config: ClassVar[type[ImageAugmentConfig]] = ImageAugmentConfig
    data_options: ClassVar[tuple[str, ...]] = ("fit", "depth", "decode")
    size: int
    resample: str = "bilinear"
    decoding: ImageDecoding | None = None
    fit: str = "stretch"
    keep: float = 1.0
    file_size: tuple[int, int] | None = field(default=None, compare=False)

    def decided(self, files: Mapping[str, FilesToRead], config: DataConfig) -> "ImageStorage":
        """As the options say and the files need; what a trained model says of its decoding stays."""
        decoding = self.decoding
        if decoding is None:
            window = read_window(config.depth)
            if config.depth == RANGE_OF_DATA and "train" in files:
                window = sources_range(files["train"].sources())
            fit, keep = (self.fit, self.keep) if config.fit == FIT_AUTO else (config.fit, 1.0)
            decoding = ImageDecoding(fit=fit, keep=keep, decode=config.decode, resample=self.resample, window=window)
        elif decoding.size is not None:
            return self
        sources = (source for part in files.values() for source in part.sources())
        if have_one_small_size(sources, self.size):
            return replace(self, decoding=decoding)
        some = files.get("train") or next(iter(files.values()))
        return replace(self, decoding=decoding.sized(self.size), file_size=typical_size(some.sources(LOOKED_AT)))

    def taken(self, inputs: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) that are not files, cropped or padded to a square where that is asked for."""
        fit, (height, width) = (self.decoding or ImageDecoding()).fit, inputs.shape[2:]
        if fit == "stretch" or height == width:
            return inputs
        side = min(height, width) if fit == "crop" else max(height, width)
        top, left = (height - side) // 2, (width - side) // 2  # below zero where black is put beside
        if fit == "crop":
            return inputs[:, :, top : top + side, left : left + side].contiguous()
        return F.pad(inputs, (-left, side - width + left, -top, side - height + top))

    def read(self, files: FilesToRead) -> Stacked:
        """Decode images; those of one common size keep it.

        Raises:
            DataError: an image that cannot be decoded, or none that can.
        """
        return self.read_splits({"": files})[""]

    def read_splits(self, files: Mapping[str, FilesToRead]) -> dict[str, Stacked]:
        """The files of each split, the images of all of them alike in channels and size."""
        is_sized = self.decoding is not None and self.decoding.size is not None
        words = Words(noun=self.noun, unit="img", verb="decode", doing="decoding")
        return take_in(files, ImageLook(is_sized), self._plan, words)

    def _plan(self, looked: Mapping[str, Looked]) -> Rowed:
        decoding = self.decoding or ImageDecoding()
        sizes = np.concatenate([part.facts for part in looked.values()])  # (N, 3) height, width, channels
        channels = int(sizes[:, 2].max())
        if decoding.size is None and (sizes[:, :2] != sizes[0, :2]).any():
            decoding = decoding.sized(self.size)
        shape = (channels, *fitted_shape(int(sizes[0, 0]), int(sizes[0, 1]), decoding))
        image_bytes = math.prod(shape)
        return Rowed(
            job=ImageRow(decoding, channels),
            shape=shape,
            dtype=torch.uint8,
            size_bytes={split: image_bytes * len(part.kept) for split, part in looked.items()},
            is_ragged=False,
        )

    def file_shape(self, stored_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) of a typical file."""
        return stored_shape if self.file_size is None else (stored_shape[0], *self.file_size)

    def brought_to(self, inputs: torch.Tensor, stored_shape: tuple[int, ...]) -> torch.Tensor:
        """Images (N, C, H, W) as a data set with images of `stored_shape` would have stored them."""
        channels, height, _ = stored_shape
        if inputs.shape[1] < channels:
            inputs = inputs.expand(-1, channels, -1, -1)
        return inputs if inputs.shape[2:] == stored_shape[1:] else resize_all(inputs, height)

    def describe(self, stored_shape: tuple[int, ...]) -> str:
        """One stored image (C, H, W), in words."""
        return f"images {'x'.join(str(side) for side in reversed(stored_shape))}"

    def measured_preprocess(self, stored: torch.Tensor, input_shape: tuple[int, ...]) -> "ImagePreprocess":
        """With mean and deviation of stored images (N, C, H, W), for a model that takes (3, S, S)."""
        means, stds = measure_channels(stored)
        return ImagePreprocess(size=input_shape[-1], mean=means, std=stds)  # type: ignore[arg-type]  # three each

    def default_preprocess(self, input_shape: tuple[int, ...]) -> "ImagePreprocess":
        """With mean and deviation 0.5, for a model that takes (3, S, S)."""
        half = (0.5, 0.5, 0.5)
        return ImagePreprocess(size=input_shape[-1], mean=half, std=half)


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """From stored uint8 images to what the backbone wants.

    Attributes:
        size: side of the square the backbone takes, in pixels.
        mean, std: per channel, of pixel values in [0, 1].
        resample: "bilinear" or "bicubic", both with antialiasing.
        decoding: how the files were decoded that the model was trained on; None where no data has decided it.
        fit, keep: how the backbone's processor makes an image square; see `ImageDecoding`.
    """

    kind: ClassVar[str] = ImageStorage.kind
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: str = "bilinear"
    decoding: ImageDecoding | None = None
    fit: str = "stretch"
    keep: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.resample not in RESAMPLE:
            raise ConfigError(f"resampling {self.resample!r} is not supported; use one of {', '.join(RESAMPLE)}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ConfigError(f"mean and std are for three channels, got {list(self.mean)} and {list(self.std)}")
        if min(self.std) <= 0:
            raise ConfigError(f"a standard deviation must be above zero, got {self.std}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) uint8 -> (B, 3, S, S) float32, resized without cropping, normalised."""
        pixels = images.float()
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(
                pixels, size=(self.size, self.size), mode=self.resample, antialias=True, align_corners=False
            )  # (B, 3, S, S)
        mean = pixels.new_tensor(self.mean).mul_(255).view(1, 3, 1, 1)
        std = pixels.new_tensor(self.std).mul_(255).view(1, 3, 1, 1)
        return (pixels - mean) / std

    def windows(self, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """What the model is to see of each image: all of it at once; sounds have several windows."""
        return [(self(images), None)]

    def is_cropped(self, images: torch.Tensor) -> bool:
        """Whether the model is to see a part of an image only: never."""
        return False

    def draw_augmentation(
        self, count: int, config: ImageAugmentConfig, generator: torch.Generator
    ) -> ImageAugmentation:
        """What is varied in each of `count` images."""
        return ImageAugmentation.draw(count, config, generator)

    @property
    def storage(self) -> ImageStorage:
        """How the images it takes are stored."""
        return ImageStorage(self.size, self.resample, self.decoding, self.fit, self.keep)

    def stored_as(self, storage: Storage) -> "ImagePreprocess":
        """For inputs that are stored so."""
        return replace(self, decoding=storage.decoding) if isinstance(storage, ImageStorage) else self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(3, S, S)."""
        return (3, self.size, self.size)

    def to_dict(self) -> Json:
        decoding = None if self.decoding is None else self.decoding.to_dict()
        means = {"mean": list(self.mean), "std": list(self.std)}
        how = {"resample": self.resample, "decoding": decoding, "fit": self.fit, "keep": self.keep}
        return {"kind": self.kind, "size": self.size, **means, **how}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImagePreprocess":
        return cls(
            size=values["size"],
            mean=values["mean"],
            std=values["std"],
            resample=values["resample"],
            decoding=stored_decoding(values),
            fit=values.get("fit", "stretch"),
            keep=values.get("keep", 1.0),
        )


def measure_channels(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in [0, 1], of (N, C, H, W) uint8; grey counts three times.

    Whole numbers are summed, so that the order and the number of threads change nothing.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)  # of each grey level
    at_once = max(1, CHUNK_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), at_once):
        pixels = images[start : start + at_once].clone().transpose(0, 1).flatten(1)  # (C, pixels)
        for own, channel in zip(counts, pixels, strict=True):
            own += torch.bincount(channel, minlength=256)
    levels = torch.arange(256)
    total = (counts * levels).sum(dim=1).double() / 255
    squares = (counts * levels * levels).sum(dim=1).double() / 255**2
    count = images.numel() / images.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-6).sqrt()
    repeat = 3 // images.shape[1]
    return tuple(mean.tolist() * repeat), tuple(std.tolist() * repeat)


def resize_all(images: torch.Tensor, size: int) -> torch.Tensor:
    """(N, C, H, W) uint8 -> (N, C, size, size) uint8, bilinear with antialiasing."""

    def resize(part: torch.Tensor) -> torch.Tensor:
        pixels = F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        return pixels.round_().clamp_(0, 255).to(torch.uint8)

    return torch.cat([resize(part) for part in images.split(256)])


def from_arrays(images: np.ndarray, where: str) -> torch.Tensor:
    """(N, H, W) or (N, H, W, 3) uint8 as stored by MedMNIST -> (N, C, H, W) uint8.

    Raises:
        DataError: another shape or dtype.
    """
    if images.dtype != np.uint8:
        raise DataError(f"{where} holds {images.dtype} images; uint8 is expected")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{where} has shape {'x'.join(map(str, images.shape))}; expected N x H x W (grey) or N x H x W x 3, "
            "at least one image"
        )
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def preprocess_from_hf(values: Mapping[str, Any], size: int) -> ImagePreprocess:
    """What a `preprocessor_config.json` says of mean, std, resampling and cropping, for a backbone of side `size`."""
    names = {2: "bilinear", 3: "bicubic"}
    resample = values.get("resample", 2)
    if resample not in names:
        raise ConfigError(f"resampling {resample!r} of the preprocessor config is not supported; use 2 or 3")
    if not values.get("do_rescale", True) or abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ConfigError("the preprocessor config does not rescale pixels by 1/255; that is not supported")
    normalised = values.get("do_normalize", True)
    mean: Sequence[float] = values.get("image_mean") or (0.5,) * 3 if normalised else (0.0,) * 3
    std: Sequence[float] = values.get("image_std") or (0.5,) * 3 if normalised else (1.0,) * 3
    fit, keep = _crop_rule(values)
    how = {"resample": names[resample], "fit": fit, "keep": keep}
    return ImagePreprocess(size=size, mean=tuple(mean), std=tuple(std), **how)  # type: ignore[arg-type]


def _crop_rule(values: Mapping[str, Any]) -> tuple[str, float]:
    """How a processor makes an image square, and what share of each side is left."""
    size = values.get("size") or {}
    shortest = size if isinstance(size, int) else size.get("shortest_edge")
    resized = shortest or (0 if isinstance(size, int) else size.get("height", 0))
    crop = values.get("crop_size") or 0
    kept = crop if isinstance(crop, int) else crop.get("height", 0)
    is_cut = values.get("do_center_crop", False) and values.get("do_resize", True) and 0 < kept < resized
    return "stretch" if shortest is None else "crop", kept / resized if is_cut else 1.0


IMAGES = InputKind(ImageStorage)
