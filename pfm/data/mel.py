"""Log-mel features of waves, computed in batches on a device.

The features are those of Kaldi as AST takes them (Gong et al., 2021, arXiv 2104.01778): windows of
25 ms (Hann) every 10 ms, no dither, log of the energies in mel bins. A frame that is not there, since
another clip is longer, is all zeros; no frame of a sound is.

Letters: B batch, n samples, F frames, M mel bins.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch

from pfm.data import frames as kaldi
from pfm.data.frames import FRAME_SECONDS, LOWEST_HZ, PREEMPHASIS, SMALLEST_ENERGY
from pfm.data.waves import check_rate, too_short


@dataclass(frozen=True)
class MelSettings:
    """What features are computed with.

    Attributes:
        sampling_rate: samples per second that a sound is brought to first.
        num_mel_bins: M.
    """

    sampling_rate: int = 16_000
    num_mel_bins: int = 128

    @property
    def frame_size(self) -> int:
        """Samples of one frame."""
        return kaldi.frame_size(self.sampling_rate)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return kaldi.hop_size(self.sampling_rate)

    def num_frames(self, num_samples: int) -> int:
        """Frames that fit into so many samples."""
        return kaldi.num_frames(num_samples, self.sampling_rate)


def clip_lengths(features: torch.Tensor) -> torch.Tensor:
    """(B, F, M) -> (B,) frames of each clip, up to the last that is not all zeros."""
    there = (features != 0).any(dim=2)
    places = torch.arange(1, features.shape[1] + 1, device=features.device)
    return (there * places).amax(dim=1)


def mel_bin(hertz: float, settings: MelSettings) -> float:
    """The bin, counted from 0, whose middle is at a frequency; between bins, a fraction."""
    lowest, highest, wanted = (math.log1p(f / 700) for f in (LOWEST_HZ, settings.sampling_rate / 2, hertz))
    return (settings.num_mel_bins + 1) * (wanted - lowest) / (highest - lowest) - 1


def log_mel(waves: torch.Tensor, lengths: torch.Tensor, settings: MelSettings) -> torch.Tensor:
    """Kaldi's log-mel filterbank of a batch.

    Args:
        waves: (B, n) float32 at the settings' rate, in [-1, 1].
        lengths: (B,) samples of each clip; what stands behind them is not looked at.

    Returns:
        (B, F, M) float32; zeros for the frames that a clip does not have.
    """
    frames = waves.unfold(1, settings.frame_size, settings.hop)  # (B, F, frame)
    frames = frames - frames.mean(dim=2, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
    frames = (frames - PREEMPHASIS * before) * _window(settings.frame_size).to(waves.device)
    size = fft_size(settings)
    power = torch.fft.rfft(frames, n=size).abs().square()[..., : size // 2]  # Kaldi leaves the last one out
    energies = power @ mel_banks(settings).to(waves.device).T  # (B, F, M)
    features = energies.clamp_min(SMALLEST_ENERGY).log()
    own = (lengths - settings.frame_size).div(settings.hop, rounding_mode="floor") + 1  # (B,)
    is_there = torch.arange(features.shape[1], device=waves.device) < own.to(waves.device).unsqueeze(1)
    return torch.where(is_there.unsqueeze(2), features, 0.0)


def clip_features(samples: np.ndarray, rate: int, settings: MelSettings) -> np.ndarray:
    """The features (F, M) float32 of one clip (n,) float32; the same bytes whatever the number of threads.

    Raises:
        ValueError: a clip shorter than one frame, or of a rate that cannot be brought to the settings'.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a product shared out among threads is summed in another order
    try:
        wave = resampled(torch.from_numpy(samples), rate, settings.sampling_rate)
        if len(wave) < settings.frame_size:
            raise ValueError(
                f"it lasts {1000 * len(samples) / rate:.1f} ms; at least {1000 * FRAME_SECONDS:.0f} ms are needed"
            )
        return log_mel(wave.unsqueeze(0), torch.tensor([len(wave)]), settings)[0].numpy()
    finally:
        torch.set_num_threads(threads)


def clip_samples(samples: np.ndarray, rate: int, wanted: int, least: int) -> np.ndarray:
    """One clip (n,) float32 at `rate`, at the rate that is wanted; the same bytes whatever the number of threads.

    Args:
        least: samples that it has to have then.

    Raises:
        ValueError: it has fewer, or its rate cannot be brought to the other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as above
    try:
        found = resampled(torch.from_numpy(samples), rate, wanted).numpy()
    finally:
        torch.set_num_threads(threads)
    if len(found) < least:
        raise ValueError(too_short(len(found), wanted, least))
    return found


def fft_size(settings: MelSettings) -> int:
    """The power of two that a frame is filled up to."""
    return kaldi.fft_size(settings.sampling_rate)


@functools.cache
def _window(size: int) -> torch.Tensor:
    return torch.hann_window(size, periodic=False)


@functools.cache
def mel_banks(settings: MelSettings) -> torch.Tensor:
    """Weights (M, fft size / 2) of the triangular bins."""
    from torchaudio.compliance.kaldi import get_mel_banks

    banks, _ = get_mel_banks(
        settings.num_mel_bins, fft_size(settings), settings.sampling_rate, LOWEST_HZ, 0.0, 100.0, -500.0, 1.0
    )
    return banks


@functools.cache
def _resampler(rate: int, wanted: int) -> torch.nn.Module:
    from torchaudio.transforms import Resample

    return Resample(rate, wanted)


def resampled(samples: torch.Tensor, rate: int, wanted: int) -> torch.Tensor:
    """(n,) at `rate` -> (n',) at `wanted` samples per second.

    Raises:
        ValueError: a rate that shares too little with the other.
    """
    if rate == wanted:
        return samples
    check_rate(rate, wanted)
    return _resampler(rate, wanted)(samples)
