"""Features against torchaudio and transformers, windows against a loop, and what is varied in training."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from torchaudio.compliance import kaldi
from transformers import ASTFeatureExtractor

from making.sounds import tone, write_wav
from pfm.data.config import AugmentConfig
from pfm.data.images import ImageStorage
from pfm.data.inputs import preprocess_from_dict
from pfm.data.mel import clip_lengths, log_mel, resampled
from pfm.data.reading import FilesToRead, Stacked
from pfm.data.sound_augmentation import SoundAugmentation
from pfm.data.sounds import SoundPreprocess, SoundStorage, measure_features
from pfm.errors import ConfigError, DataError

FORM = SoundStorage()
SMALL = SoundStorage(16_000, 16)


def clips(*seconds: float, rate: int = 16_000) -> list[torch.Tensor]:
    """Tones, noise and near silence, of uneven length."""
    found = []
    for number, length in enumerate(seconds):
        sound = torch.from_numpy(tone(200 * 3**number, length, rate=rate, seed=number))
        found.append(sound * 10.0**-number)
    return found


def batch(waves: list[torch.Tensor], *, junk: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=junk)
    return padded, torch.tensor([len(wave) for wave in waves])


def kaldi_features(wave: torch.Tensor, form: SoundStorage) -> torch.Tensor:
    """One clip (n,) -> (F, M), as AST's authors compute it."""
    return kaldi.fbank(
        wave.unsqueeze(0),
        htk_compat=True,
        sample_frequency=form.sampling_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=form.num_mel_bins,
        dither=0.0,
        frame_shift=10,
    )


def features_of(*frames: int, bins: int = 4, seed: int = 0) -> torch.Tensor:
    """(B, F, M) of clips with so many frames, zeros behind each."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(count, bins, generator=generator) + 5 for count in frames]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


# --- features -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [FORM, SMALL, SoundStorage(8_000, 40)])
def test_features_equal_kaldis_for_a_batch_of_uneven_clips(form: SoundStorage) -> None:
    waves = clips(1.0, 0.33, 0.025, 0.7311, rate=form.sampling_rate)
    found = log_mel(*batch(waves, junk=0.7), form)  # what stands behind a clip is not looked at
    for wave, features in zip(waves, found, strict=True):
        expected = kaldi_features(wave, form)
        assert form.num_frames(len(wave)) == len(expected)
        # float32 sums in another order, the logarithm of quiet bins
        torch.testing.assert_close(features[: len(expected)], expected, atol=1e-4, rtol=0)
        assert not features[len(expected) :].any()


def test_a_silent_clip_has_the_floor_in_every_bin_and_is_no_padding() -> None:
    found = log_mel(torch.zeros(1, 16_000), torch.tensor([16_000]), FORM)
    torch.testing.assert_close(found, kaldi_features(torch.zeros(16_000), FORM)[None])
    assert clip_lengths(found).tolist() == [98]


@pytest.mark.parametrize("bins", [16, 128])
def test_model_input_equals_that_of_transformers(bins: int) -> None:
    extractor = ASTFeatureExtractor(num_mel_bins=bins, max_length=64, mean=-4.2, std=4.5)
    waves = clips(0.3, 0.655, 0.65, 1.1)  # shorter than the window, just as long, longer
    form = SoundStorage(16_000, bins)
    preprocess = SoundPreprocess(max_length=64, mean=-4.2, std=4.5, num_mel_bins=bins)
    found = preprocess(log_mel(*batch(waves), form))
    expected = extractor([wave.numpy() for wave in waves], sampling_rate=16_000, return_tensors="pt")["input_values"]
    assert found.shape == expected.shape == (4, 64, bins)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("rate", "wanted"), [(8000, 16000), (44100, 16000), (48000, 16000), (22050, 8000)])
def test_resampling_is_torchaudios(rate: int, wanted: int) -> None:
    (wave,) = clips(0.2, rate=rate)
    expected = torchaudio.functional.resample(wave, rate, wanted)
    # the kernel is computed in float64 once, there in float32
    torch.testing.assert_close(resampled(wave, rate, wanted), expected, atol=1e-5, rtol=0)


def test_a_sound_of_the_right_rate_is_left_as_it_is() -> None:
    (wave,) = clips(0.1)
    assert resampled(wave, 16_000, 16_000) is wave


def test_mean_and_deviation_are_numpys_over_the_frames_that_are_there() -> None:
    features = features_of(*range(1, 301))  # more clips than one portion
    there = np.concatenate([clip[: number + 1].numpy() for number, clip in enumerate(features)]).astype(np.float64)
    mean, std = measure_features(features)
    assert mean == pytest.approx(there.mean(), abs=1e-9)
    assert std == pytest.approx(there.std(), abs=1e-9)


def test_features_of_nothing_still_have_a_usable_deviation() -> None:
    assert measure_features(torch.zeros(2, 3, 4))[1] > 0


# --- windows --------------------------------------------------------------------------------------


def test_clip_lengths_count_up_to_the_last_frame_that_is_there() -> None:
    features = features_of(3, 7, 1)
    features[1, 2] = 0  # a frame of zeros inside
    assert clip_lengths(features).tolist() == [3, 7, 1]
    assert clip_lengths(torch.zeros(2, 5, 4)).tolist() == [0, 0]


def test_what_is_short_is_filled_up_before_it_is_normalised() -> None:
    preprocess = SoundPreprocess(max_length=8, mean=2.0, std=3.0, num_mel_bins=4)
    features = features_of(5)
    found = preprocess(features)
    torch.testing.assert_close(found[:, :5], (features - 2) / 6)
    assert (found[:, 5:] == torch.tensor(-2 / 6)).all()


def test_windows_are_consecutive_and_weighted_by_their_frames() -> None:
    lengths = (20, 8, 3, 17)
    features = features_of(*lengths)
    preprocess = SoundPreprocess(max_length=8, mean=1.0, std=2.0, num_mel_bins=4)
    windows = preprocess.windows(features)
    assert len(windows) == 3
    for number, (inputs, weights) in enumerate(windows):
        assert weights is not None
        for row, length in enumerate(lengths):
            own = features[row, 8 * number : min(length, 8 * (number + 1))]
            assert weights[row].item() == pytest.approx(len(own) / length)
            expected = torch.zeros(8, 4)
            expected[: len(own)] = own
            torch.testing.assert_close(inputs[row], (expected - 1) / 4)
    torch.testing.assert_close(sum(weights for _, weights in windows), torch.ones(4))  # type: ignore[arg-type, misc]


def test_clips_that_fit_are_one_window_without_weights() -> None:
    preprocess = SoundPreprocess(max_length=8, mean=0.0, std=0.5, num_mel_bins=4)
    ((inputs, weights),) = preprocess.windows(features_of(8, 2))
    assert inputs.shape == (2, 8, 4)
    assert weights is None


def test_a_deviation_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="above zero"):
        SoundPreprocess(max_length=8, mean=0.0, std=0.0)


def test_preprocessing_survives_its_dictionary() -> None:
    preprocess = SoundPreprocess(max_length=8, mean=-1.0, std=2.0, sampling_rate=8000, num_mel_bins=40)
    assert preprocess.to_dict()["kind"] == "audio"
    assert preprocess_from_dict(preprocess.to_dict()) == preprocess
    assert preprocess.storage == SoundStorage(8000, 40)


# --- many files -----------------------------------------------------------------------------------


def stack(paths: list[Path], **options: Any) -> Stacked:
    files = FilesToRead(
        load=lambda i: paths[i], count=len(paths), where="clips", name=lambda i: paths[i].name, **options
    )
    return SMALL.read(files)


def test_a_stack_holds_the_features_of_each_file_at_any_rate(tmp_path: Path) -> None:
    lengths = [0.2 + 0.003 * number for number in range(70)]  # more than one batch
    sounds = [(tone(300, length, rate=rate, seed=n), rate)
              for n, (length, rate) in enumerate(zip(lengths, [8000, 16000] * 35, strict=True))]  # fmt: skip
    paths = [write_wav(tmp_path / f"{n}.wav", samples, rate) for n, (samples, rate) in enumerate(sounds)]
    stacked = stack(paths)
    assert stacked.notes == ()
    assert stacked.kept.tolist() == list(range(70))
    for number in (0, 1, 63, 64, 69):
        samples, rate = sounds[number]
        rounded = torch.from_numpy((samples * 32767).round() / 32768)
        wave = torchaudio.functional.resample(rounded.float(), rate, 16_000)
        expected = kaldi_features(wave, SMALL)
        torch.testing.assert_close(stacked.inputs[number, : len(expected)], expected, atol=1e-3, rtol=0)
        assert not stacked.inputs[number, len(expected) :].any()
    assert stacked.inputs.shape[1] == max(clip_lengths(stacked.inputs))


def test_odd_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    stereo = np.stack([tone(300, 0.3), np.zeros(2400, np.float32)], axis=1)
    paths = [
        write_wav(tmp_path / "good.wav", tone(300, 0.3)),
        write_wav(tmp_path / "half.wav", stereo),
        write_wav(tmp_path / "silent.wav", np.zeros(2400, np.float32)),
        write_wav(tmp_path / "silent_too.wav", np.zeros(2400, np.float32)),
        write_wav(tmp_path / "long.wav", tone(300, 1.0)),
    ]
    stacked = stack(paths, max_seconds=0.5)
    assert stacked.notes == (
        "clips: 1 with a silent channel, mixed in all the same; first: half.wav",
        "clips: 2 silent throughout; first: silent.wav",
        "clips: 1 longer than --max_seconds 0.5, the rest of them not used; first: long.wav",
    )
    assert clip_lengths(stacked.inputs).tolist() == [28, 28, 28, 28, 48]


def test_a_bad_file_stops_the_reading_or_is_left_out_and_counted(tmp_path: Path) -> None:
    paths = [write_wav(tmp_path / f"{n}.wav", tone(300, 0.2, seed=n)) for n in range(5)]
    whole = stack(paths).inputs
    paths[1].write_bytes(b"")
    write_wav(paths[3], tone(300, 0.01))
    with pytest.raises(DataError) as caught:
        stack(paths)
    assert str(caught.value) == (
        "cannot read 1.wav: it is empty (0 bytes); fix the file, take it out, or give --skip_bad"
    )
    stacked = stack(paths, skip_bad=True)
    assert stacked.kept.tolist() == [0, 2, 4]
    assert torch.equal(stacked.inputs, whole[[0, 2, 4]])
    assert stacked.notes == ("clips: 2 skipped, which cannot be read; first: 1.wav: it is empty (0 bytes)",)
    with pytest.raises(DataError, match=r"cannot read 3\.wav: it lasts 10\.0 ms; at least 25 ms are needed"):
        stack([paths[3]])
    with pytest.raises(DataError, match="no file can be read"):
        stack([paths[1]], skip_bad=True)


# --- what is varied in training -------------------------------------------------------------------

PREPROCESS = SoundPreprocess(max_length=8, mean=-7.0, std=2.0, num_mel_bins=4)


def draw(count: int, seed: int = 0, **options: Any) -> SoundAugmentation:
    generator = torch.Generator().manual_seed(seed)
    return PREPROCESS.draw_augmentation(count, AugmentConfig(**options), generator)


def test_by_default_a_clip_that_fits_is_not_varied() -> None:
    assert not AugmentConfig().is_on
    features = features_of(8, 3)
    assert torch.equal(draw(2)(features), features)


def test_a_longer_clip_is_cropped_somewhere_inside_it() -> None:
    features = features_of(*[20] * 200, *[5] * 10)
    found = draw(210)(features)
    starts = set()
    for row in range(200):
        start = next(s for s in range(13) if torch.equal(found[row], features[row, s : s + 8]))
        starts.add(start)
    assert starts == set(range(13))  # each place there is, and none beyond the clip's end
    assert torch.equal(found[200:, :5], features[200:, :5])
    assert not found[200:, 5:].any()


def test_a_time_shift_moves_a_clip_and_leaves_zeros() -> None:
    features = features_of(*[6] * 300)
    found = draw(300, time_shift=2)(features)
    assert found.shape == (300, 8, 4)
    seen = set()
    for row in range(300):
        for offset in range(-2, 3):
            expected = torch.zeros(8, 4)
            for frame in range(6):
                if 0 <= frame + offset < 8:
                    expected[frame + offset] = features[row, frame]
            if torch.equal(found[row], expected):
                seen.add(offset)
                break
        else:
            pytest.fail(f"row {row} is no shift of its clip")
    assert seen == {-2, -1, 0, 1, 2}


def test_a_time_mask_blots_out_frames_of_the_clip_and_never_its_padding() -> None:
    features = features_of(*[6] * 300)
    features = torch.cat([features, torch.zeros(300, 2, 4)], dim=1)
    found = draw(300, time_mask=3)(features)
    is_masked = (found == PREPROCESS.mean).all(dim=2)
    assert torch.equal(found[~is_masked], features[~is_masked])
    assert not is_masked[:, 6:].any()
    assert set(is_masked.sum(dim=1).tolist()) == {0, 1, 2, 3}
    assert is_masked[:, :6].any(dim=0).all()
    for row in is_masked:  # one span
        assert (row.int().diff().abs().sum() + row[0].int() + row[-1].int()).item() in (0, 2)


def test_a_mel_mask_blots_out_bins_of_the_frames_that_are_there() -> None:
    features = torch.cat([features_of(*[6] * 200), torch.zeros(200, 2, 4)], dim=1)
    found = draw(200, mel_mask=2)(features)
    assert not found[:, 6:].any()
    is_masked = (found[:, :6] == PREPROCESS.mean).all(dim=1)  # (B, M)
    changed = found[:, :6] != features[:, :6]
    assert torch.equal(changed, is_masked.unsqueeze(1).expand_as(changed))
    assert set(is_masked.sum(dim=1).tolist()) == {0, 1, 2}


def test_masks_as_wide_as_they_can_be_stay_within_the_clip() -> None:
    features = features_of(2, 8)
    found = draw(2, seed=3, time_mask=50, mel_mask=50, time_shift=0)(features)
    assert found.isfinite().all()
    assert not found[0, 2:].any()


def test_each_process_varies_its_share_as_one_process_would() -> None:
    features = features_of(*[20, 5, 11, 8] * 4)
    whole = draw(16, time_shift=2, time_mask=3, mel_mask=2)
    once = whole(features)
    assert torch.equal(draw(16, time_shift=2, time_mask=3, mel_mask=2)(features), once)
    assert not torch.equal(draw(16, seed=1, time_shift=2, time_mask=3, mel_mask=2)(features), once)
    for rows in (torch.arange(0, 16, 2), torch.arange(1, 16, 2), torch.tensor([9, 3])):
        assert torch.equal(whole.rows(rows)(features[rows]), once[rows])


def test_options_of_the_other_kind_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="for images only: --shift, --hflip"):
        AugmentConfig(shift=1, hflip=True).check_kind(SoundStorage())
    with pytest.raises(ConfigError, match="for sounds only: --time_shift, --time_mask, --mel_mask"):
        AugmentConfig(time_shift=1, time_mask=2, mel_mask=3).check_kind(ImageStorage(8))
    AugmentConfig(time_shift=1).check_kind(SoundStorage())


def test_a_share_of_frames_is_always_a_number() -> None:
    """A clip without a frame weighs nothing, instead of nan."""
    windows = PREPROCESS.windows(torch.cat([features_of(20), torch.zeros(1, 20, 4)]))
    assert all(weights is not None and not math.isnan(weights[1].item()) for _, weights in windows)
