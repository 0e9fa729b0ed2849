"""Sounds: read once into log-mel features, made into model input on the batch, on the device.

The features are those of Kaldi as AST takes them (Gong et al., 2021, arXiv 2104.01778): windows of
25 ms (Hann) every 10 ms, no dither, log of the energies in mel bins. A frame that is not there, since
another clip is longer, is all zeros; no frame of a sound is.

Letters: N clips, B batch, n samples, F frames as stored, L frames of the model's window, M mel bins.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from pfm.data.mapped import mapped_tensor
from pfm.data.reading import HOW_TO_GO_ON, SKIPPED, Remarks, Stacked
from pfm.data.waves import UNREADABLE, Recording, Source, check_rate, explain_sound, read_sound
from pfm.errors import ConfigError, DataError
from pfm.runlog import progress

FRAME_SECONDS, HOP_SECONDS = 0.025, 0.010
PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974  # of the features AST was trained on
MOST_AT_ONCE = 64  # clips whose features are computed as one batch


@dataclass(frozen=True)
class SoundStorage:
    """How sounds are stored: log-mel features (N, F, M) float32, zeros behind the end of a clip.

    Attributes:
        sampling_rate: samples per second that a sound is brought to first.
        num_mel_bins: M.
    """

    sampling_rate: int = 16_000
    num_mel_bins: int = 128

    @property
    def frame_size(self) -> int:
        """Samples of one frame."""
        return int(self.sampling_rate * FRAME_SECONDS)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sampling_rate * HOP_SECONDS)

    def num_frames(self, num_samples: int) -> int:
        """Frames that fit into so many samples."""
        return max(0, 1 + (num_samples - self.frame_size) // self.hop)

    def default_preprocess(self, input_shape: tuple[int, ...]) -> "SoundPreprocess":
        """Mean and std of AudioSet's features."""
        return SoundPreprocess(
            max_length=input_shape[0],
            mean=AUDIOSET_MEAN,
            std=AUDIOSET_STD,
            sampling_rate=self.sampling_rate,
            num_mel_bins=self.num_mel_bins,
        )


@dataclass(frozen=True, kw_only=True)
class SoundPreprocess:
    """From stored log-mel features to what the backbone wants.

    Attributes:
        max_length: L.
        mean, std: of the features; as AST has it, (x - mean) / (2 std).
    """

    kind: ClassVar[str] = "audio"
    max_length: int
    mean: float
    std: float
    sampling_rate: int = 16_000
    num_mel_bins: int = 128

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ConfigError(f"a standard deviation must be above zero, got {self.std}")

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, M) -> (B, L, M): the first window, filled up with zeros, then normalised."""
        features = features[:, : self.max_length]
        missing = self.max_length - features.shape[1]
        if missing > 0:
            features = F.pad(features, (0, 0, 0, missing))
        return (features - self.mean) / (2 * self.std)

    def windows(self, features: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """What the model is to see of each clip, window after window, for an answer that is their average.

        Returns:
            Model inputs (B, L, M), each with the weight (B,) that it has in a clip's average: its share of the
            clip's frames. None is 1, where one window holds all.
        """
        if features.shape[1] <= self.max_length:
            return [(self(features), None)]
        lengths = clip_lengths(features)
        found: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for start in range(0, int(lengths.max().clamp_min(1)), self.max_length):
            own = (lengths - start).clamp(0, self.max_length)
            found.append((self(features[:, start : start + self.max_length]), own / lengths.clamp_min(1)))
        return found

    @property
    def storage(self) -> SoundStorage:
        """How the sounds it takes are stored."""
        return SoundStorage(self.sampling_rate, self.num_mel_bins)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SoundPreprocess":
        names = ("max_length", "mean", "std", "sampling_rate", "num_mel_bins")
        return cls(**{name: values[name] for name in names})


def clip_lengths(features: torch.Tensor) -> torch.Tensor:
    """(B, F, M) -> (B,) frames of each clip, up to the last that is not all zeros."""
    there = (features != 0).any(dim=2)
    places = torch.arange(1, features.shape[1] + 1, device=features.device)
    return (there * places).amax(dim=1)


def log_mel(waves: torch.Tensor, lengths: torch.Tensor, form: SoundStorage) -> torch.Tensor:
    """Kaldi's log-mel filterbank of a batch.

    Args:
        waves: (B, n) float32 at the form's rate, in [-1, 1].
        lengths: (B,) samples of each clip; what stands behind them is not looked at.

    Returns:
        (B, F, M) float32; zeros for the frames that a clip does not have.
    """
    frames = waves.unfold(1, form.frame_size, form.hop)  # (B, F, frame)
    frames = frames - frames.mean(dim=2, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
    frames = (frames - PREEMPHASIS * before) * _window(form.frame_size).to(waves.device)
    size = fft_size(form)
    power = torch.fft.rfft(frames, n=size).abs().square()[..., : size // 2]  # Kaldi leaves the last one out
    energies = power @ mel_banks(form).to(waves.device).T  # (B, F, M)
    features = energies.clamp_min(torch.finfo(torch.float32).eps).log()
    own = (lengths - form.frame_size).div(form.hop, rounding_mode="floor") + 1  # (B,)
    is_there = torch.arange(features.shape[1], device=waves.device) < own.to(waves.device).unsqueeze(1)
    return torch.where(is_there.unsqueeze(2), features, 0.0)


def fft_size(form: SoundStorage) -> int:
    """The power of two that a frame is filled up to."""
    return 1 << (form.frame_size - 1).bit_length()


@functools.cache
def _window(size: int) -> torch.Tensor:
    return torch.hann_window(size, periodic=False)


@functools.cache
def mel_banks(form: SoundStorage) -> torch.Tensor:
    """Weights (M, fft size / 2) of the triangular bins."""
    from torchaudio.compliance.kaldi import get_mel_banks

    banks, _ = get_mel_banks(form.num_mel_bins, fft_size(form), form.sampling_rate, LOWEST_HZ, 0.0, 100.0, -500.0, 1.0)
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


def stack_sounds(
    load: Callable[[int], Source],
    count: int,
    form: SoundStorage,
    *,
    where: str,
    name: Callable[[int], str],
    max_seconds: float,
    skip_bad: bool = False,
    device: torch.device | None = None,
) -> Stacked:
    """Read `count` sound files and compute their features, in batches on `device`.

    Memory is bounded by the longest of a batch; features lie in a temporary file.

    Args:
        load: index -> path or bytes of a file.
        where: what to call these clips.
        name: index -> what to call one clip in an error.
        max_seconds: what of a longer clip is read.
        skip_bad: leave out files that cannot be read, and count them.

    Raises:
        DataError: a file that cannot be read, or none that can.
    """
    device = device or torch.device("cpu")
    remarks = Remarks()
    kept: list[int] = []
    parts: list[torch.Tensor] = []
    pending: list[torch.Tensor] = []

    def compute() -> None:
        if pending:
            lengths = torch.tensor([len(wave) for wave in pending])
            waves = torch.nn.utils.rnn.pad_sequence(pending, batch_first=True).to(device)
            for features, length in zip(log_mel(waves, lengths, form).cpu(), lengths.tolist(), strict=True):
                parts.append(features[: form.num_frames(length)].clone())
            pending.clear()

    with progress(count, f"reading {where}", unit="clip") as bar:
        for index in range(count):
            try:
                recording = read_sound(load(index), max_seconds=max_seconds)
                wave = _wave(recording, form)
            except UNREADABLE as error:
                if not skip_bad:
                    raise DataError(f"cannot read {name(index)}: {explain_sound(error)}; {HOW_TO_GO_ON}") from error
                remarks.add(SKIPPED, f"{name(index)}: {explain_sound(error)}")
                continue
            finally:
                bar.update()
            _remark(remarks, recording, max_seconds, name(index))
            kept.append(index)
            pending.append(wave)
            if len(pending) == MOST_AT_ONCE:
                compute()
        compute()
    if not kept:
        raise DataError(f"no file can be read ({'; '.join(remarks.notes(where)) or f'{where} has none'})")
    longest = max(len(part) for part in parts)
    stacked = mapped_tensor((len(parts), longest, form.num_mel_bins), torch.float32, f"the features of {where}")
    for row, part in enumerate(parts):
        stacked[row, : len(part)] = part
    return Stacked(stacked, torch.tensor(kept), remarks.notes(where))


def _wave(recording: Recording, form: SoundStorage) -> torch.Tensor:
    """(n,) float32 at the form's rate.

    Raises:
        ValueError: shorter than one frame.
    """
    wave = resampled(torch.from_numpy(recording.samples), recording.rate, form.sampling_rate)
    if len(wave) < form.frame_size:
        seconds = len(recording.samples) / recording.rate
        raise ValueError(f"it lasts {1000 * seconds:.1f} ms; at least {1000 * FRAME_SECONDS:.0f} ms are needed")
    return wave


def _remark(remarks: Remarks, recording: Recording, max_seconds: float, name: str) -> None:
    if recording.is_cut:
        remarks.add(f"longer than --max_seconds {max_seconds:g}, the rest of them not used", name)
    if recording.silent_channels:
        remarks.add("with a silent channel, mixed in all the same", name)
    if recording.is_silent:
        remarks.add("silent throughout", name)


def measure_features(features: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the features (N, F, M), over the frames that are there."""
    count, total, squares = 0, 0.0, 0.0
    for chunk in features.split(256):
        values = chunk[(chunk != 0).any(dim=2)].double()  # (frames, M)
        count, total = count + values.numel(), total + float(values.sum())
        squares += float(values.square().sum())
    mean = total / max(count, 1)
    return mean, max(squares / max(count, 1) - mean**2, 1e-12) ** 0.5
