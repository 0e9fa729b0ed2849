"""How a run is started: one Accelerator for one process, or for whatever a launcher started."""

import datetime
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin

from pfm.data.sharing import Host
from pfm.device import DeviceConfig, Processes
from pfm.errors import ConfigError
from pfm.training.launcher import watch_launcher

# more than enough for a thread to be given the processor again
DRAIN_S = 0.5
# processes wait for the one that decodes for all of a host
LOAD_TIMEOUT = datetime.timedelta(days=7)
# tracker -> the package it needs
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio", "aim": "aim",
            "comet_ml": "comet_ml", "dvclive": "dvclive", "swanlab": "swanlab"}  # fmt: skip


def start_accelerator(
    device: torch.device, config: DeviceConfig, *, trackers: tuple[str, ...] = (), project_dir: str | None = None
) -> Accelerator:
    """One Accelerator for a single process on `device`, or for whatever the launcher started.

    Raises:
        ConfigError: the launcher asks for something this trainer does not do.
    """
    watch_launcher()
    if _asked_for("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            "the launch config asks for DeepSpeed, which pfm does not drive; accelerate_configs/zero2_8.yaml shares "
            "gradients and optimizer state out in the same way (ZeRO-2) with what torch brings"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # a second run in this process may want another device or precision than the first
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)  # the CPU too: it outlasts the run that set it
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=config.mixed_precision,
        log_with=list(trackers) or None,
        project_dir=project_dir,
        fsdp_plugin=_fsdp_plugin(device),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def processes_of(accelerator: Accelerator) -> Processes:
    """What rooms that know no Accelerator need of one."""

    def total(tensor: torch.Tensor) -> torch.Tensor:
        return accelerator.reduce(tensor, reduction="sum")  # type: ignore[return-value]  # a tensor in, a tensor out

    return Processes(
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        reduce=total,
        autocast=lambda: accelerator.autocast(),
    )


def host_of(accelerator: Accelerator) -> Host:
    """The processes of this host, which load the same data; every process has to call it.

    They wait for each other in a group of their own, for as long as the one that decodes may take.
    """
    if accelerator.num_processes == 1:
        return Host()
    import torch.distributed as dist

    own = (accelerator.process_index - accelerator.local_process_index, accelerator.process_index)
    gathered: list[Any] = [None] * accelerator.num_processes
    dist.all_gather_object(gathered, own)
    everyone: list[tuple[int, int]] = list(gathered)
    leaders = sorted({leader for leader, _ in everyone})
    groups = {}
    for leader in leaders:  # every process makes every group, in the same order
        ranks = [rank for of, rank in everyone if of == leader]
        groups[leader] = dist.new_group(ranks, timeout=LOAD_TIMEOUT, backend="gloo"), len(ranks)
    group, size = groups[own[0]]

    def exchange(value: Any) -> Any:
        told = [value]
        dist.broadcast_object_list(told, src=own[0], group=group)
        return told[0]

    return Host(rank=accelerator.local_process_index, size=size, exchange=exchange)


def _asked_for(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")


def _fsdp_plugin(device: torch.device) -> FullyShardedDataParallelPlugin | None:
    """What the launch config says of FSDP2, None where it does not ask for it."""
    if not _asked_for("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise ConfigError("the launch config asks for FSDP1; pfm runs under FSDP2: fsdp_version: 2")
    if device.type == "cpu":  # where Accelerate would pass over it without a word
        raise ConfigError(
            "the launch config shares the model out among GPUs (FSDP2), and this run is on the CPU; there every "
            "process holds the whole model: accelerate_configs/cpu_2.yaml"
        )
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # weights travel in float32 and autocast computes in bf16, as under DDP; Accelerate's own policy would hand the
    # classifier bf16 weights, which is to compute in float32
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def split_trackers(text: str) -> tuple[str, ...]:
    """The trackers of `--report_to`, all of them installed.

    Raises:
        ConfigError: an unknown one, or one whose package is missing.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--report_to {name}: choose from {', '.join(TRACKERS)}")
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise ConfigError(f"--report_to {name} needs its package: pip install {TRACKERS[name].replace('_', '-')}")
    return names


@contextmanager
def tracking(accelerator: Accelerator, name: str, config: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Trackers, if any were asked for, are open while the block runs."""
    flat = {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
    plain = {key: value if isinstance(value, int | float | str | bool) else str(value) for key, value in flat.items()}
    accelerator.init_trackers(name, config=plain)
    try:
        yield
    finally:
        leave(accelerator)


def leave(accelerator: Accelerator) -> None:
    """Close trackers and process groups.

    A gloo thread that has just finished an operation still has to let go of its tensors, for which it needs Python's
    lock. Whoever destroys its group right then holds that lock and waits for the thread: for ever, on a busy machine.
    """
    if accelerator.num_processes > 1:
        time.sleep(DRAIN_S)
    accelerator.end_training()


def hint_at_launcher(say: Callable[[str], None]) -> None:
    """Tell who starts one process on a machine with several GPUs how to use them all."""
    count = torch.cuda.device_count()
    if count > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        say(
            f"note: this machine has {count} GPUs and this run uses one; all of them: accelerate launch "
            f"--multi_gpu --num_processes {count} pfm/train.py with the same options"
        )
