"""Sounds whose pitch tells the class."""

import wave
from pathlib import Path

import numpy as np

PITCHES = {"low": 300.0, "middle": 700.0, "high": 1500.0, "top": 3000.0}  # classes of the tone data, in Hz


def tone(pitch: float, seconds: float, *, rate: int = 8000, seed: int = 0) -> np.ndarray:
    """(n,) float32: a pitch with some noise, in [-1, 1]."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    sound = 0.5 * np.sin(2 * np.pi * (pitch * times + random.random()))
    return (sound + 0.02 * random.standard_normal(len(times))).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    """Samples (n,) or (n, c) in [-1, 1] as PCM of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def write_tones(
    folder: Path, *, train: int = 10, test: int = 4, seconds: float = 0.3, classes: tuple[str, ...] = tuple(PITCHES)
) -> Path:
    """PATH/train/<class>/… and PATH/test/<class>/… of clips whose pitch tells the class, 8 kHz, up to `seconds`.

    Args:
        train, test: clips of each class; 0 leaves the split out.
    """
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            for name in classes:
                length = seconds * (0.7 + 0.3 * number / max(count - 1, 1))
                samples = tone(PITCHES[name], length, seed=number + 1000 * len(split))
                write_wav(folder / split / name / f"{name}_{number}.wav", samples)
    return folder
