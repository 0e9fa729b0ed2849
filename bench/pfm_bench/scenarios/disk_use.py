"""What one epoch leaves on the disk: our checkpoint with moments, and everything as the paper's tool saves it."""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from pfm.model.checkpoint import RunState, save_checkpoint, snapshot
from pfm.storage import Json
from pfm_bench.scenarios.training_steps import OurStep, PlainStep
from pfm_bench.targets.workbench import LORA, Workbench


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """Bytes of an epoch."""

    ours_bytes: int
    plain_bytes: int

    @property
    def ratio(self) -> float:
        """How many times as much plain takes."""
        return self.plain_bytes / self.ours_bytes

    def to_dict(self) -> Json:
        return {"ours_bytes": self.ours_bytes, "plain_bytes": self.plain_bytes, "ratio": self.ratio}

    def describe(self) -> str:
        """A line."""
        return (
            f"on disk per epoch: {self.ours_bytes / 2**20:.2f} MiB, plain {self.plain_bytes / 2**20:.1f} MiB, "
            f"×{self.ratio:.0f} less"
        )


def disk_per_epoch(bench: Workbench, ours: OurStep, plain: PlainStep) -> DiskUse:
    """Write both."""
    state = snapshot(
        ours.model,
        spec=bench.spec,
        preprocess=bench.preprocess,
        lora=LORA,
        optimizer=ours.optimizer.optimizer,
        frozen_sha256="0" * 64,
        state=RunState(epoch=1, step=ours.number),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ours.pt"
        save_checkpoint(path, state)
        own_bytes = path.stat().st_size
    buffer = io.BytesIO()
    content = {"model_state_dict": plain.model.state_dict(), "optimizer_state_dict": plain.optimizer.state_dict()}
    torch.save(content, buffer)
    return DiskUse(ours_bytes=own_bytes, plain_bytes=buffer.getbuffer().nbytes)
