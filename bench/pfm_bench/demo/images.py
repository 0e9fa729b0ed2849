"""The demo on grey images, whichever they are."""

from dataclasses import dataclass
from typing import Any

import torch

from pfm.evaluation.pictures import show_pixels
from pfm_bench.demo.task import Task
from pfm_export.serving.session import Prediction, PromptSession


@dataclass(frozen=True, kw_only=True)
class ImagesTask(Task):
    """Images of one channel.

    Attributes:
        colors: the colour map that shows them.
        limits: the shares of the largest value that are shown as its two ends; closer, and edges look sharper.
        margin: pixels of zeros around an image that is shown, so that a stroke at its edge does not look cut off.
    """

    colors: str
    limits: tuple[float, float] = (0.0, 1.0)
    margin: int = 0

    def ask(self, session: PromptSession, stored: torch.Tensor, without: tuple[str, ...]) -> Prediction:
        return session.predict_images(list(stored[:, 0].numpy()), without=without)

    def show(self, stored: torch.Tensor, axis: Any) -> None:
        framed = torch.nn.functional.pad(stored, (self.margin,) * 4)
        low, high = (share * float(stored.max()) for share in self.limits)
        show_pixels(axis, framed[0].numpy(), colors=self.colors, low=low, high=high)
