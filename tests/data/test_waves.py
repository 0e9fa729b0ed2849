"""Sound files of every format and rate, damaged ones, and ones of many hours."""

import importlib.util
import io
import math
import struct
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from making.sounds import tone, write_wav
from pfm.data.waves import MP3_SLACK, UNREADABLE, check_rate, explain_sound, read_sound, stream_sound

# by name: format and subtype of soundfile, and how far a sample may be off (a step of the quantisation)
EXACT: dict[str, tuple[str, str, float]] = {
    "wav8": ("WAV", "PCM_U8", 1 / 127),
    "wav16": ("WAV", "PCM_16", 1 / 32767),
    "wav24": ("WAV", "PCM_24", 1 / 2**22),
    "wav32": ("WAV", "PCM_32", 1e-6),
    "float": ("WAV", "FLOAT", 0.0),
    "double": ("WAV", "DOUBLE", 1e-7),
    "flac": ("FLAC", "PCM_16", 1 / 32767),
}
LOSSY = {"ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}
FORMATS = {name: (kind, subtype) for name, (kind, subtype, _) in EXACT.items()} | LOSSY


def encoded(samples: np.ndarray, rate: int, name: str) -> bytes:
    kind, subtype = FORMATS[name]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def two_channels(seconds: float, rate: int) -> np.ndarray:
    return np.stack([tone(440, seconds, rate=rate), 0.5 * tone(900, seconds, rate=rate, seed=1)], axis=1)


def reason(source: str | Path | bytes, **options: Any) -> str:
    with pytest.raises(UNREADABLE) as caught:
        read_sound(source, **options)
    text = explain_sound(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def no_soundfile(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "soundfile" else find(name))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_gives_the_samples_that_were_written(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    samples = two_channels(0.1, rate)[:, :channels]
    content = encoded(samples, rate, name)
    path = tmp_path / "clip"  # what a file is, its content says, and not its name
    path.write_bytes(content)
    for source in (path, str(path), content):
        recording = read_sound(source)
        assert (recording.rate, recording.samples.dtype) == (rate, np.float32)
        np.testing.assert_allclose(recording.samples, samples.mean(axis=1), atol=EXACT[name][2] + 1e-7, rtol=0)
        assert (recording.silent_channels, recording.is_silent, recording.is_cut) == (0, False, False)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_lossy_file_gives_nearly_those_samples(name: str, rate: int, channels: int) -> None:
    samples = two_channels(1.0, rate)[:, :channels]
    recording = read_sound(encoded(samples, rate, name))
    assert recording.rate == rate
    assert abs(len(recording.samples) - rate) <= (MP3_SLACK if name == "mp3" else 0)
    found = recording.samples
    # a decoder's delay does not matter, the tone does: its place in the spectrum
    loudest = np.abs(np.fft.rfft(found)).argmax() * rate / len(found)
    assert loudest == pytest.approx(440, abs=2)
    assert np.sqrt((found**2).mean()) == pytest.approx(np.sqrt((samples.mean(axis=1) ** 2).mean()), rel=0.05)


@pytest.mark.usefixtures("no_soundfile")
@pytest.mark.parametrize("name", ["wav8", "wav16", "wav24", "wav32"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_is_read_alike_without_soundfile(name: str, channels: int) -> None:
    content = encoded(two_channels(0.1, 11025)[:, :channels], 11025, name)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    recording = read_sound(content)
    np.testing.assert_array_equal(recording.samples, expected.mean(axis=1, dtype=np.float32))
    assert recording.rate == 11025


@pytest.mark.usefixtures("no_soundfile")
@pytest.mark.parametrize("name", ["float", "flac", "ogg", "mp3"])
def test_what_needs_soundfile_says_so_without_it(name: str) -> None:
    text = reason(encoded(tone(440, 0.5), 8000, name))
    assert "without the package soundfile only PCM WAV can be read" in text


# --- damage ---------------------------------------------------------------------------------------


def test_a_missing_and_an_empty_file_are_told_apart(tmp_path: Path) -> None:
    assert reason(tmp_path / "nowhere.wav") == "No such file or directory"
    (tmp_path / "empty.wav").touch()
    assert reason(tmp_path / "empty.wav") == reason(b"") == "it is empty (0 bytes)"


@pytest.mark.parametrize("content", [b"RIF", b"no sound at all\n" * 40, bytes(500), bytes(range(256)) * 20])
def test_bytes_that_are_no_sound_are_called_that(content: bytes) -> None:
    assert reason(content) == "it is not a sound of a known kind (WAV, FLAC, OGG or MP3)"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_a_truncated_file_is_refused(name: str, share: float) -> None:
    content = encoded(tone(440, 3, rate=16000), 16000, name)
    assert "truncated" in reason(content[: int(len(content) * share)])


@pytest.mark.usefixtures("no_soundfile")
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_truncated_wav_is_refused_without_soundfile(share: float) -> None:
    content = encoded(tone(440, 3), 8000, "wav16")
    assert "truncated" in reason(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", ["wav16", "float", "ogg"])
def test_a_file_without_samples_is_refused(name: str) -> None:
    assert reason(encoded(np.zeros(0, np.float32), 16000, name)) == "it holds no samples"


@pytest.mark.usefixtures("no_soundfile")
def test_a_wav_without_samples_is_refused_without_soundfile() -> None:
    assert reason(encoded(np.zeros(0, np.float32), 16000, "wav16")) == "it holds no samples"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    samples = tone(440, 0.2)
    samples[700] = value
    assert reason(encoded(samples, 8000, "float")) == "it holds samples that are NaN or infinite"


def test_silent_channels_are_counted() -> None:
    quiet = two_channels(0.2, 8000)
    quiet[:, 1] = 0
    recording = read_sound(encoded(quiet, 8000, "wav16"))
    assert (recording.silent_channels, recording.is_silent) == (1, False)
    assert np.abs(recording.samples).max() > 0.2
    for channels in (1, 2):
        recording = read_sound(encoded(np.zeros((800, channels), np.float32), 8000, "flac"))
        assert (recording.silent_channels, recording.is_silent) == (0, True)


def test_a_channel_that_only_begins_silent_is_not_silent() -> None:
    late = two_channels(25.0, 8000)  # more than two of the blocks it is read in
    late[: 20 * 8000, 1] = 0
    assert read_sound(encoded(late, 8000, "wav16")).silent_channels == 0


def test_a_wav_from_a_stream_states_no_length_and_is_read_to_its_end() -> None:
    content = bytearray(encoded(tone(440, 0.5), 8000, "wav16"))
    at = content.index(b"data") + 4
    for unknown in (0x7FFFFFFF, 0xFFFFFFFF):
        content[at : at + 4] = struct.pack("<I", unknown)
        assert len(read_sound(bytes(content)).samples) == 4000


# --- length ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wav16", "flac", "ogg", "mp3"])
def test_a_longer_file_is_cut_and_says_so(name: str) -> None:
    content = encoded(tone(440, 2.0), 8000, name)
    cut, whole = read_sound(content, max_seconds=0.5), read_sound(content, max_seconds=60)
    assert (len(cut.samples), cut.is_cut) == (4000, True)
    assert not whole.is_cut
    np.testing.assert_allclose(cut.samples, whole.samples[:4000], atol=1e-6)


@pytest.mark.parametrize("name", ["wav16", "flac", "ogg"])
def test_blocks_put_together_are_the_file(name: str) -> None:
    content = encoded(two_channels(23.0, 8000), 8000, name)
    blocks = list(stream_sound(content))
    assert [(len(block), rate) for block, rate in blocks] == [(80000, 8000), (80000, 8000), (24000, 8000)]
    np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks]), read_sound(content).samples)


def sparse_wav(path: Path, *, hours: float) -> Path:
    """8 kHz, 8 bits: a file of that length which takes no room, since it has holes."""
    size = round(hours * 3600 * 8000)
    with path.open("wb") as file, wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8000)
        sound.writeframes(b"\x90" * 8000)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", len(content) - 8 + size - 8000)
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.truncate(at + 4 + size)
    return path


def peak_mib(work: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_of_ten_hours_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "long.wav", hours=10)
    found = []
    assert peak_mib(lambda: found.append(read_sound(path, max_seconds=30))) < 10  # 10 hours are 1,100 MiB of float32
    assert (len(found[0].samples), found[0].is_cut, found[0].is_silent) == (240_000, True, False)


@pytest.mark.slow
def test_ten_hours_are_streamed_in_bounded_memory(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "long.wav", hours=10)
    total = 0

    def stream() -> None:
        nonlocal total
        total = sum(len(block) for block, _ in stream_sound(path))

    assert peak_mib(stream) < 10
    assert total == 10 * 3600 * 8000


def test_the_first_word_of_a_damaged_stream_comes_before_its_reason() -> None:
    """What was read before the damage is handed out; the damage is named where it is met."""
    content = encoded(tone(440, 25.0), 8000, "float")
    broken = bytearray(content)
    at = len(content) - 400
    broken[at : at + 4] = struct.pack("<f", math.nan)
    blocks = stream_sound(bytes(broken))
    assert len(next(blocks)[0]) == 80000
    next(blocks)
    with pytest.raises(ValueError, match="NaN or infinite"):
        next(blocks)


def test_a_wav_helper_of_the_tests_writes_what_is_read(tmp_path: Path) -> None:
    samples = tone(500, 0.2)
    np.testing.assert_allclose(read_sound(write_wav(tmp_path / "a.wav", samples)).samples, samples, atol=1e-4)


@pytest.mark.parametrize(
    ("rate", "is_fine"), [(8_000, True), (44_100, True), (12_345, True), (44_099, False), (0, False)]
)
def test_a_rate_that_would_take_gigabytes_to_resample_is_refused(rate: int, is_fine: bool) -> None:
    if is_fine:
        check_rate(rate, 16_000)
    else:
        with pytest.raises(ValueError, match=r"no sampling rate|resample the file to a usual rate"):
            check_rate(rate, 16_000)


UNKNOWN_SIZES = [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36, 0xFFFFFFFF]


def piped_wav(size: int, *, riff: int = 0xFFFFFFFF, more: bytes = b"", samples: int = 16000) -> bytes:
    """What a writer leaves that could not go back and fill in how many bytes of samples came."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    head = b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + form + more + b"data" + struct.pack("<I", size)
    return head + (np.sin(np.arange(samples)) * 3e4).astype("<i2").tobytes()


@pytest.mark.parametrize("size", UNKNOWN_SIZES, ids=hex)
@pytest.mark.parametrize("reader", ["soundfile", "wave"])
def test_a_wav_out_of_a_pipe_is_read_to_its_end(request: pytest.FixtureRequest, size: int, reader: str) -> None:
    if reader == "wave":
        request.getfixturevalue("no_soundfile")
    for riff in (0, 0x7FFFF024, size, 0xFFFFFFFF):
        for more in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
            for odd in (b"", b"\1"):  # half a sample, where the writer was killed
                content = piped_wav(size, riff=riff, more=more) + odd
                assert len(read_sound(content).samples) == 16000
                assert sum(len(block) for block, _ in stream_sound(content)) == 16000


def test_a_wav_without_samples_is_not_taken_for_one_out_of_a_pipe() -> None:
    for more in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        assert reason(piped_wav(0, samples=0) + more) == "it holds no samples"
