"""Samples as they are stored, made into windows, varied and served.

Letters: B batch, F samples as stored, n samples of the model's window.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from making.sounds import tone, write_wav
from pfm.data.config import AugmentConfig, DataConfig
from pfm.data.wave_augmentation import SILENCE, WaveAugmentation, wave_lengths
from pfm.data.wave_inputs import WavePreprocess, WaveStorage
from pfm.errors import ConfigError
from pfm.seeds import make_generator
from pfm_export.serving.kinds import INPUT_KINDS

STORAGE = WaveStorage(8000, 40)


def stored(*lengths: int) -> torch.Tensor:
    """(B, F) of clips with so many samples, zeros behind each."""
    parts = [torch.from_numpy(tone(300.0 * (1 + i), n / 8000, seed=i)) for i, n in enumerate(lengths)]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


def test_a_clip_keeps_its_silence_and_its_length(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(30), tone(440.0, 0.05), np.zeros(50)]).astype(np.float32)
    source = write_wav(tmp_path / "quiet_ends.wav", samples)
    look, row = STORAGE.look(30.0)(source), STORAGE.row(30.0)(source).value
    assert look.value is not None
    assert row is not None
    assert len(row) == 480 <= look.value[0]
    np.testing.assert_allclose(row, samples, atol=1 / 2**15)  # of 16 bits
    assert (row[:30] == SILENCE).all()
    filled_up = torch.nn.functional.pad(torch.from_numpy(row), (0, 70))
    assert wave_lengths(filled_up[None]).tolist() == [480]


def test_a_clip_shorter_than_a_frame_is_refused(tmp_path: Path) -> None:
    outcome = STORAGE.row(30.0)(write_wav(tmp_path / "x.wav", tone(300.0, 0.002)))
    assert (outcome.value, outcome.reason) == (None, "it lasts 2.0 ms; at least 5 ms are needed")


def test_windows_of_a_long_clip_weigh_as_much_as_they_hold_and_a_rest_that_is_too_short_nothing() -> None:
    clips = stored(1030, 250, 920)
    preprocess = WavePreprocess(max_samples=400, min_samples=40, sampling_rate=8000)
    assert preprocess.is_cropped(clips)
    windows = preprocess.windows(clips)
    assert len(windows) == 3
    weights = torch.stack([weight for _, weight in windows if weight is not None])
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(3))
    torch.testing.assert_close(weights[:, 0], torch.tensor([400, 400, 230]) / 1030)
    assert weights[:, 1].tolist() == [1, 0, 0]
    assert torch.equal(preprocess.windows(stored(430))[1][1], torch.zeros(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["samples", "raw_samples"])
@pytest.mark.parametrize("do_normalize", [True, False])
def test_service_makes_the_windows_of_training_and_batches_those_of_one_length(name: str, do_normalize: bool) -> None:
    preprocess = WavePreprocess(max_samples=400, min_samples=40, sampling_rate=8000, do_normalize=do_normalize)
    kind = INPUT_KINDS.get(name)(preprocess.to_dict())
    lengths = (1030, 250, 430, 250)
    clips = stored(*lengths)
    windows = preprocess.windows(clips)
    found: dict[int, list[tuple[np.ndarray, float]]] = {}
    for batch in kind.batches([row[:n].numpy() for row, n in zip(clips, lengths, strict=True)]):
        assert not np.isnan(batch.inputs).any()  # nothing is filled up
        rows = kind.model_input(kind.checked(batch.inputs))
        for owner, weight, row in zip(batch.owners.tolist(), batch.weights.tolist(), rows, strict=True):
            found.setdefault(owner, []).append((row, weight))
    for place in range(len(lengths)):
        total = sum(weight for _, weight in found[place])
        own = [(inputs[place], weight) for inputs, weight in windows if weight is not None and weight[place] > 0]
        assert len(own) == len(found[place])
        for (wanted, share), (row, weight) in zip(own, found[place], strict=True):
            assert share[place] == pytest.approx(weight / total)
            np.testing.assert_allclose(row, wanted[~wanted.isnan()].numpy(), atol=1e-5)


def test_crops_shifts_and_silence_are_drawn_for_each_clip() -> None:
    clips = stored(900, 500, 300)
    drawn = WaveAugmentation.draw(3, make_generator(0), window=400, shift=0, mask=0)
    cropped = drawn(clips)
    assert cropped.shape == (3, 400)
    assert wave_lengths(cropped).tolist() == [400, 400, 300]
    start = int(drawn.crops[0] * 501)
    assert torch.equal(cropped[0], clips[0, start : start + 400])
    moved = WaveAugmentation.draw(3, make_generator(1), window=900, shift=80, mask=0)
    shifted = moved(clips)
    assert wave_lengths(shifted).tolist() == [900, 500, 300]  # as long as before
    assert moved.shifts is not None
    shift = int(moved.shifts[0])
    kept = clips[0, : 900 - shift] if shift >= 0 else clips[0, -shift:]
    assert torch.equal(shifted[0, max(shift, 0) :][: len(kept)], kept)
    silenced = WaveAugmentation.draw(3, make_generator(2), window=900, shift=0, mask=200)(clips)
    assert wave_lengths(silenced).tolist() == [900, 500, 300]
    assert (silenced == SILENCE).any()
    assert torch.equal(drawn.rows(torch.tensor([2, 0]))(clips[[2, 0]]), cropped[[2, 0]])


def test_options_are_those_of_time() -> None:
    AugmentConfig(time_shift=2, time_mask=3).check_kind(STORAGE)
    with pytest.raises(ConfigError, match="not for the sounds that this model takes: --mel_mask"):
        AugmentConfig(mel_mask=2).check_kind(STORAGE)
    with pytest.raises(ConfigError, match="for images only: --hflip"):
        AugmentConfig(hflip=True).check_kind(STORAGE)
    with pytest.raises(ConfigError, match="for images only: --fit"):
        STORAGE.decided({}, DataConfig(dataset="audiofolder:tones", fit="crop"))
