"""The demo on a folder of sounds that the user has."""

import dataclasses
import shlex
from typing import Any, ClassVar

import torch

from pfm.data.config import DataConfig
from pfm.data.inputs import preprocess_from_dict
from pfm.data.mel import MelSettings, clip_lengths, log_mel, mel_bin
from pfm.data.wave_augmentation import wave_lengths
from pfm.errors import ConfigError
from pfm_bench.demo.task import RECIPE, Task
from pfm_export.serving.session import Prediction, PromptSession

SOUND_RECIPE = dataclasses.replace(RECIPE, epochs=20, batch_size=64, lr=3e-3, weight_decay=0.05)


class SoundsTask(Task):
    """Clips, shown as log-mel features."""

    axis_room: ClassVar[tuple[float, float]] = (0.5, 0.45)

    def ask(self, session: PromptSession, stored: torch.Tensor, without: tuple[str, ...]) -> Prediction:
        """Of clips as they were read: the first window of each."""
        preprocess = preprocess_from_dict(session.manifest["preprocess"])
        return session.predict(preprocess(stored).numpy(), without=without)

    def show(self, stored: torch.Tensor, axis: Any) -> None:
        if stored.ndim == 1:  # samples
            waves = stored[None, : int(wave_lengths(stored[None]))]
            stored = log_mel(waves, torch.tensor([waves.shape[1]]), MelSettings())[0]
        settings = MelSettings(num_mel_bins=stored.shape[1])
        length = int(clip_lengths(stored[None]))
        seconds = length * settings.hop / settings.sampling_rate
        extent = (0, seconds, -0.5, settings.num_mel_bins - 0.5)
        axis.imshow(stored[:length].T.numpy(), origin="lower", aspect="auto", cmap="magma", extent=extent)
        kilohertz = (0.5, 1, 2, 4)
        axis.set_yticks([mel_bin(1000 * value, settings) for value in kilohertz], [f"{value:g}" for value in kilohertz])
        axis.set(xlabel="seconds", ylabel="kHz")
        axis.locator_params(axis="x", nbins=4)
        axis.tick_params(labelsize=9)


def sounds_task(data: DataConfig | None, forget: str) -> SoundsTask:
    """The sounds, without one class; they are looked at before anything is trained.

    Raises:
        ConfigError: none are given.
        ClassNameError: no class of that name.
    """
    if data is None:
        raise ConfigError("no sounds come with the package; give --dataset audiofolder:PATH")
    task = SoundsTask(
        command=f"pfm demo --data_type audio{_typed(data, forget)}",
        data=data,
        model_name="scratch:ast_mini",
        forgotten=forget,
        recipes={
            "cls": SOUND_RECIPE, "prompt": dataclasses.replace(SOUND_RECIPE, epochs=30, max_grad_norm=1.0)
        },
    )  # fmt: skip
    classes = task.load().classes
    return dataclasses.replace(task, forgotten=classes.names[classes.position(forget) if forget else -1])


def _typed(data: DataConfig, forget: str) -> str:
    """The options behind the command, the place of the data left out."""
    parts = {"dataset": "audiofolder:PATH", "label_from": data.label_from, "label": data.label, "forget": forget}
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in parts.items() if value)
