"""The examples do what they say, with none of our modules on the path."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from making.checkpoints import image_checkpoint, sound_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving.session import PromptSession

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
EXAMPLE, SOUND_EXAMPLE = EXAMPLES / "serve_onnxruntime.py", EXAMPLES / "serve_onnxruntime_audio.py"


@pytest.mark.parametrize("name", ["cls", "prompt"])
def test_plain_onnxruntime_gives_the_sessions_answers(name: str, tmp_path: Path) -> None:
    export_bundle(image_checkpoint(name), tmp_path / "bundle")
    random = np.random.default_rng(0)
    images = [tmp_path / f"{number}.png" for number in range(6)]
    for path in images:
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    session = PromptSession(tmp_path / "bundle", device="cpu")
    everything = session.predict_images(images).labels
    for without in ([], [everything[0]]):
        command = [sys.executable, "-I", EXAMPLE, tmp_path / "bundle", *images, "--without", *without]
        said = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
        answers = [line.rsplit(" ", 1)[1] for line in said.splitlines()]
        assert answers == session.predict_images(images, without=without).labels


@pytest.mark.parametrize("name", ["cls", pytest.param("prompt", marks=pytest.mark.slow)])
def test_plain_onnxruntime_serves_wav_files(name: str, tmp_path: Path) -> None:
    export_bundle(sound_checkpoint(name), tmp_path / "bundle", form=GraphForm(with_frontend=True))
    session = PromptSession(tmp_path / "bundle", device="cpu")
    rate = session.manifest["preprocess"]["sampling_rate"]
    random = np.random.default_rng(0)
    sounds = [tmp_path / f"{number}.wav" for number in range(4)]
    for path in sounds:
        soundfile.write(path, random.uniform(-0.5, 0.5, rate // 20), rate, subtype="PCM_16")
    everything = session.predict_sounds(sounds).labels
    for without in ([], [everything[0]]):
        command = [sys.executable, "-I", SOUND_EXAMPLE, tmp_path / "bundle", *sounds, "--without", *without]
        said = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
        answers = [line.rsplit(" ", 1)[1] for line in said.splitlines()]
        assert answers == session.predict_sounds(sounds, without=without).labels


def test_the_examples_are_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 100  # half of it decodes files as training does
    assert len(SOUND_EXAMPLE.read_text().splitlines()) < 40
