"""Which device a run uses: the one place that decides between CPU, GPU and several processes."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.errors import ConfigError, DeviceError
from pfm.options import Section, option

if TYPE_CHECKING:  # the options are listed without it
    import torch


def available_cores() -> list[int]:
    """Numbers of the cores that this process may run on, in order."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where a single-process run computes; a launcher decides for several processes."""

    section: ClassVar = Section.DEVICE
    gpu_id: int = option(0, "GPU of a single-process run; where there is none, GPU 0 is the CPU.", minimum=0)
    cpu: bool = option(False, "Use the CPU even where there is a GPU.")
    mixed_precision: str = option(
        "no", "Autocast to this precision.", choices=("no", "bf16", "fp16"), section=Section.SPEED
    )
    frozen_dtype: str = option(
        "auto",
        "How frozen weights are stored: auto is bf16 where --mixed_precision is, since autocast would cast them at "
        "every call.",
        choices=("auto", "fp32", "bf16"),
        section=Section.SPEED,
    )

    @property
    def stores_frozen_in_bf16(self) -> bool:
        return self.frozen_dtype == "bf16" or (self.frozen_dtype == "auto" and self.mixed_precision == "bf16")


def launched_on_cpu() -> bool:
    """Whether an accelerate config file asked for the CPU."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")


def launched_precision() -> str | None:
    """The precision that `accelerate launch` or its config file asked for, if we were started by it."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION")


def resolve_device(
    config: DeviceConfig, *, gpu_was_asked_for: bool, say: Callable[[str], None] = print
) -> "torch.device":
    """The device of a single-process run.

    Args:
        say: told where GPU 0 was asked for and the run is on the CPU.

    Raises:
        ConfigError: a GPU number under a multi-process launch, or fp16 without a GPU.
        DeviceError: a GPU other than 0 was asked for that is not there.
    """
    import torch

    count = torch.cuda.device_count()
    if gpu_was_asked_for:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("--gpu_id is for single-process runs; under a launcher each process has its own GPU")
        if config.cpu:
            raise ConfigError("--gpu_id and --cpu exclude each other")
        if config.gpu_id >= max(count, 1):
            found = f"GPUs 0 to {count - 1}" if count else "no GPU"
            raise DeviceError(f"--gpu_id {config.gpu_id}: this machine has {found}; leave it out to use what is there")
    use_cpu = config.cpu or launched_on_cpu() or count == 0
    if use_cpu and gpu_was_asked_for:
        reason = "this machine has no GPU" if count == 0 else "the launcher asked for the CPU"
        say(f"note: --gpu_id {config.gpu_id}: {reason}; running on the CPU")
    device = torch.device("cpu") if use_cpu else torch.device("cuda", min(config.gpu_id, count - 1))
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError("--mixed_precision fp16 needs a GPU; use bf16 or no on a CPU")
    if device.type == "cuda":
        compute_in_float32()
    return device


def compute_in_float32() -> None:
    """What is float32 is computed in it on a GPU too: torch lets cuDNN round the factors of convolutions to TF32."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _alone(tensor: "torch.Tensor") -> "torch.Tensor":
    return tensor


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that share a piece of work out among them, seen from one of them; by default there is one.

    Attributes:
        device: of this process.
        rank: its number, from 0; the main process is 0.
        world_size: how many there are.
        reduce: sums a tensor over all of them; every process has to call it.
        autocast: the precision that a model runs in, as a context.
    """

    device: "torch.device"
    rank: int = 0
    world_size: int = 1
    reduce: "Callable[[torch.Tensor], torch.Tensor]" = _alone
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0


def compile_module(module: "torch.nn.Module") -> None:
    """Compile a module's forward with torch.compile, for batches and prompts of any number."""
    import torch._inductor.config as inductor

    # an analysis of tilings that is not for sizes of any number, and fails on them on a GPU (torch 2.11)
    inductor.triton.coalesce_tiling_analysis = False
    module.compile(dynamic=True)
