"""What every kind of input answers, so that nobody asks which kind it is."""

import pytest
import torch

from pfm.data.config import AugmentConfig
from pfm.data.images import ImagePreprocess, ImageStorage
from pfm.data.inputs import Storage, preprocess_from_dict
from pfm.data.kinds import KINDS, PREPROCESSES
from pfm.data.sounds import AUDIOSET_MEAN, AUDIOSET_STD, SoundPreprocess, SoundStorage
from pfm.data.wave_inputs import WaveStorage
from pfm.errors import ConfigError
from pfm.seeds import make_generator

IMAGES, SOUNDS, WAVES = ImageStorage(8), SoundStorage(8000, 4), WaveStorage(8000, 2)
SHAPES = [(IMAGES, (3, 8, 8)), (SOUNDS, (6, 4)), (WAVES, (240,))]


def stored(storage: Storage, count: int = 5) -> torch.Tensor:
    if storage is IMAGES:
        return torch.randint(0, 256, (count, 1, 7, 9), generator=make_generator("images")).to(torch.uint8)
    shape = (9, 4) if storage is SOUNDS else (360,)
    return torch.randn(count, *shape, generator=make_generator("sounds"))


def test_the_kinds_are_known_by_name() -> None:
    assert KINDS.names() == ("image", "audio")
    for name in KINDS.names():
        assert KINDS.get(name).storage.kind == PREPROCESSES.get(name).kind == name
    with pytest.raises(ConfigError, match="no preprocessing 'smell'; choose one of image, audio, waves"):
        preprocess_from_dict({"kind": "smell"})


@pytest.mark.parametrize(("storage", "shape"), SHAPES)
def test_a_preprocessing_knows_its_storage_and_what_comes_of_it(storage: Storage, shape: tuple[int, ...]) -> None:
    inputs = stored(storage)
    for preprocess in (storage.measured_preprocess(inputs, shape), storage.default_preprocess(shape)):
        assert preprocess.storage == storage
        assert preprocess.input_shape == shape
        assert preprocess(inputs).shape == (5, *shape)
        assert preprocess_from_dict(preprocess.to_dict()) == preprocess


def test_what_is_measured_is_that_of_the_data_and_what_is_usual_that_of_the_field() -> None:
    grey = torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)
    grey[1] = 153
    measured = IMAGES.measured_preprocess(grey, (3, 8, 8))
    assert measured.mean == pytest.approx((0.4,) * 3)
    assert measured.std == pytest.approx((0.2,) * 3)
    assert IMAGES.default_preprocess((3, 8, 8)) == ImagePreprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    features = torch.tensor([1.0, 3.0]).view(1, 2, 1).expand(1, 2, 4)
    measured = SOUNDS.measured_preprocess(features, (6, 4))
    assert (measured.mean, measured.std) == (2.0, 1.0)
    assert SOUNDS.default_preprocess((6, 4)) == SoundPreprocess(
        max_length=6, mean=AUDIOSET_MEAN, std=AUDIOSET_STD, sampling_rate=8000, num_mel_bins=4
    )


def test_only_clips_longer_than_the_window_are_cropped() -> None:
    sounds = SOUNDS.default_preprocess((6, 4))
    assert sounds.is_cropped(torch.zeros(1, 7, 4))
    assert not sounds.is_cropped(torch.zeros(1, 6, 4))
    assert not IMAGES.default_preprocess((3, 8, 8)).is_cropped(torch.zeros(1, 3, 99, 99))


@pytest.mark.parametrize(("storage", "shape"), SHAPES)
def test_what_is_varied_is_drawn_by_the_preprocessing(storage: Storage, shape: tuple[int, ...]) -> None:
    inputs = stored(storage, 40)
    config = AugmentConfig(shift=2, hflip=True, time_shift=2)
    drawn = storage.default_preprocess(shape).draw_augmentation(40, config, make_generator(0))
    rows = torch.tensor([3, 17, 4])
    assert not torch.equal(drawn(inputs)[:, : shape[0]], inputs[:, : shape[0]])
    assert torch.equal(drawn.rows(rows)(inputs[rows]), drawn(inputs)[rows])
