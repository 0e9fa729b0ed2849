"""Sound files to mono samples, the same way in training and in service; knows no torch.

`soundfile` reads WAV, FLAC, OGG and MP3 with what its own wheel brings. Where it is not installed,
as on a small server, WAV is read with the standard library.

Letters: n samples, c channels.
"""

import importlib.util
import io
import math
import os
import re
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pfm.data.limits import Counted

Source = str | os.PathLike[str] | bytes

# what a file that is damaged, or no sound, ends in
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, wave.Error)

BLOCK_SECONDS = 10.0
MOST_TAPS = 2 * 10**7  # of a resampling kernel, 80 MB
_most_taps = [MOST_TAPS]
# frames by which the length that an MP3's header gives may be off: a decoder's delay and padding
MP3_SLACK = 4 * 1152
_OPENING = re.compile(r"^Error opening <.*?>: ")  # soundfile names a stream by its place in memory
_LONGEST_PAGE = 27 + 255 + 255 * 255  # bytes of OGG's
# what writers that could not go back leave in a WAV's header for the bytes of samples: nothing at all, the largest
# number with or without a sign, that less a header, sox's and arecord's
_UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36, 0xFFFFFFFF)


@dataclass(frozen=True)
class Recording:
    """A sound file, read.

    Attributes:
        samples: (n,) float32, the mean of the channels, in [-1, 1] for integer formats.
        rate: samples per second.
        silent_channels: how many of the file's channels are zero throughout, while another is not.
        is_silent: all of them are.
        is_cut: the file goes on after these samples.
    """

    samples: np.ndarray
    rate: int
    silent_channels: int = 0
    is_silent: bool = False
    is_cut: bool = False


def read_sound(source: Source, *, max_seconds: float | None = None) -> Recording:
    """Read a sound file, at most its first `max_seconds`; memory is bounded by what is kept.

    Args:
        source: a path, or the bytes of a file.

    Raises:
        OSError, ValueError: a file that is missing, empty, damaged, truncated, without samples or with NaN.
    """
    with _opened(source) as sound:
        rate = sound.samplerate
        wanted = sound.frames if max_seconds is None else min(sound.frames, round(max_seconds * rate))
        kept, loudest = [], np.zeros(sound.channels, np.float32)
        for block in _blocks(sound, wanted):
            loudest = np.maximum(loudest, np.abs(block).max(axis=0))
            kept.append(block.mean(axis=1, dtype=np.float32))
        silent = int((loudest == 0).sum())
        return Recording(
            samples=np.concatenate(kept),
            rate=rate,
            silent_channels=silent if silent < sound.channels else 0,
            is_silent=silent == sound.channels,
            is_cut=wanted < sound.frames,
        )


def length_bound(source: Source) -> float:
    """Seconds that a file lasts at the most, by its header; infinite where that does not say.

    Raises:
        OSError, ValueError: as `read_sound`, as far as the header shows it.
    """
    with _opened(source) as sound:
        return sound.frames / sound.samplerate if sound.frames > 0 and sound.samplerate > 0 else math.inf


def stream_sound(source: Source) -> Iterator[tuple[np.ndarray, int]]:
    """A sound file of any length as blocks (n,) float32, mixed to mono, each with its rate.

    Raises:
        OSError, ValueError: as `read_sound`, when the place is reached.
    """
    with _opened(source) as sound:
        for block in _blocks(sound, sound.frames):
            yield block.mean(axis=1, dtype=np.float32), sound.samplerate


def limit_resampling(most_taps: int) -> None:
    """Refuse sounds that need a longer kernel from now on, in this process: some seconds and gigabytes go into one."""
    _most_taps[0] = most_taps


def check_rate(rate: int, wanted: int) -> None:
    """Refuse a rate whose resampling would take gigabytes, since it shares too little with the one wanted.

    Raises:
        ValueError: such a rate, or one that makes no sense.
    """
    if rate <= 0:
        raise ValueError(f"{rate} samples per second are no sampling rate")
    divisor = math.gcd(rate, wanted)
    if (rate // divisor) * (wanted // divisor) > _most_taps[0]:
        raise ValueError(
            f"its {rate:,} samples per second cannot be brought to {wanted:,} with reasonable memory; "
            "resample the file to a usual rate"
        )


def too_short(num_samples: int, rate: int, least: int) -> str:
    """What is wrong with a clip of fewer than `least` samples, in words."""
    return f"it lasts {1000 * num_samples / rate:.1f} ms; at least {1000 * least / rate:.0f} ms are needed"


def explain_sound(error: Exception) -> str:
    """What is wrong with a file, for the end of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _OPENING.sub("", " ".join(str(error).split())).rstrip(".")
    if "without the package soundfile" in text:
        return text
    if "Format not recognised" in text or "unknown format" in text:
        return "it is not a sound of a known kind (WAV, FLAC, OGG or MP3)"
    # the last two are what is said of an OGG and an MP3 that end within their header
    damaged = ("lost sync", "malformed", "unimplemented format", "not a regular file")
    if any(sign in text for sign in damaged):
        return "it is damaged or truncated"
    return text or type(error).__name__


def _blocks(sound: Any, wanted: int) -> Iterator[np.ndarray]:
    """The first `wanted` frames as (n, c) float32, checked."""
    size = max(1, round(BLOCK_SECONDS * sound.samplerate))
    done = 0
    while done < wanted:
        block = sound.read(min(size, wanted - done))
        if len(block) == 0:
            break
        if not np.isfinite(block).all():
            raise ValueError("it holds samples that are NaN or infinite")
        done += len(block)
        yield block
    if done == 0:
        raise ValueError("it holds no samples")
    if done < wanted - (MP3_SLACK if sound.format == "MP3" else 0):
        raise ValueError(f"it is truncated: {done:,} of {wanted:,} samples are there")


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """A reader with samplerate, channels, frames, format and read(count) -> (n, c) float32."""
    with Counted(source) if isinstance(source, bytes) else Path(source).open("rb") as stream:
        if not stream.read(1):
            raise ValueError("it is empty (0 bytes)")
        stated = _stated_wav_size(stream)
        _check_ogg_end(stream)
        stream.seek(0)
        readable: Any = stream if stated is None else _Restated(stream, stated)
        if importlib.util.find_spec("soundfile") is None:
            yield _WavReader(readable)
            return
        import soundfile

        with soundfile.SoundFile(readable) as sound:
            yield _SoundFileReader(sound)


class _SoundFileReader:
    def __init__(self, sound: Any) -> None:
        self.samplerate, self.channels, self.format = sound.samplerate, sound.channels, sound.format
        self.frames = sound.frames
        self._sound = sound

    def read(self, count: int) -> np.ndarray:
        return self._sound.read(count, dtype="float32", always_2d=True)


class _WavReader:
    """PCM of 8, 16, 24 or 32 bits through the standard library."""

    format = "WAV"

    def __init__(self, stream: BinaryIO) -> None:
        try:
            self._wave = wave.open(stream)  # noqa: SIM115  # the caller closes the stream
        except (wave.Error, EOFError) as error:
            raise ValueError(f"{error}; without the package soundfile only PCM WAV can be read") from error
        self.samplerate, self.channels = self._wave.getframerate(), self._wave.getnchannels()
        self.frames = self._wave.getnframes()

    def read(self, count: int) -> np.ndarray:
        width, raw = self._wave.getsampwidth(), self._wave.readframes(count)
        if width == 3:  # to the upper three bytes of four
            parts = np.frombuffer(raw, np.uint8).reshape(-1, 3)
            values = np.pad(parts, ((0, 0), (1, 0))).copy().view("<i4")[:, 0].astype(np.float32) / 2**31
        elif width == 1:
            values = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
        else:
            values = np.frombuffer(raw, {2: "<i2", 4: "<i4"}[width]).astype(np.float32) / 2.0 ** (8 * width - 1)
        return values.astype(np.float32).reshape(-1, self.channels)


class _Restated(io.RawIOBase):
    """A stream of which a few bytes read otherwise, as the sizes in a header that its writer could not fill in.

    Args:
        changes: place -> bytes that stand there.
    """

    def __init__(self, stream: BinaryIO, changes: Mapping[int, bytes]) -> None:
        self._stream = stream
        self._changes = changes

    def readinto(self, buffer: Any) -> int:
        at, view = self._stream.tell(), memoryview(buffer).cast("B")
        part = bytearray(self._stream.read(len(view)))
        for place, content in self._changes.items():
            for number, value in enumerate(content, place - at):
                if 0 <= number < len(part):
                    part[number] = value
        view[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _stated_wav_size(stream: BinaryIO) -> dict[int, bytes] | None:
    """What the header of a WAV has to say instead, where its writer did not know how many samples would come.

    A WAV says how many bytes of samples it holds; readers take fewer without a word.

    Returns:
        Bytes by their place, so that all samples are read; None where the header says it.

    Raises:
        ValueError: fewer are there than it says, or none.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    at, frame_bytes = 12, 1
    while at + 8 <= size:
        stream.seek(at)
        chunk = stream.read(24)
        length = int.from_bytes(chunk[4:8], "little")
        if chunk[:4] == b"data":
            there = size - at - 8
            if length not in _UNKNOWN_SIZES or (length == 0 and _are_chunks(stream, at + 8, size)):
                if length > there:
                    raise ValueError(f"it is truncated: {there:,} of {length:,} bytes of samples are there")
                return None
            there -= there % frame_bytes
            if at + there > 0xFFFFFFFF:
                raise ValueError("its header does not say how long it is, and it is longer than a WAV can be, 4 GB")
            return {4: (at + there).to_bytes(4, "little"), at + 4: there.to_bytes(4, "little")}
        if chunk[:4] == b"fmt " and len(chunk) >= 22:
            frame_bytes = max(1, int.from_bytes(chunk[20:22], "little"))
        at += 8 + length + length % 2
    raise ValueError("it is truncated: there are no samples behind its header")


def _are_chunks(stream: BinaryIO, at: int, size: int) -> bool:
    """Whether what stands from `at` on is chunks to the last byte, and not samples."""
    while at + 8 <= size:
        stream.seek(at)
        at += 8 + (length := int.from_bytes(stream.read(8)[4:], "little")) + length % 2
    return at == size


def _check_ogg_end(stream: BinaryIO) -> None:
    """The last page of an OGG is marked as such; readers do without it.

    Raises:
        ValueError: it is not there, or not whole.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return
    stream.seek(max(0, size - _LONGEST_PAGE))
    tail = stream.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]  # 5: flags; 26: number of segments, their lengths behind it
    count = page[26] if len(page) > 26 else 255
    if len(page) < 27 + count + sum(page[27 : 27 + count]) or not page[5] & 4:
        raise ValueError("it is truncated: its last page is not there")
