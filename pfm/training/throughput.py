"""How fast a run is: samples a second, step time, arithmetic, memory and the time it waited for data."""

import re
import sys
import time
from dataclasses import dataclass

import torch

# dense matrix products in bfloat16 / float16, in units of 10¹² a second, from the makers' data sheets
PEAK_TFLOPS = {
    "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "GH200": 989, "B200": 2250, "A100": 312, "A800": 312,
    "L40S": 362, "L40": 181, "L4": 121, "A40": 150, "A30": 165, "A10": 125, "V100": 125, "T4": 65,
    "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip


def peak_tflops(device: torch.device) -> float | None:
    """What the device could do in half precision; None where we have no figure (a CPU, another GPU)."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """By the name that the driver has for a GPU; whole words of it, so that an RTX A4000 is not an A40."""
    return next((peak for key, peak in PEAK_TFLOPS.items() if re.search(rf"\b{key}\b", name)), None)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory so far: what torch allocated on a GPU, or what this process held in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a run has been for a while.

    Attributes:
        samples_per_s: over all processes.
        step_ms: of one step, waiting included.
        tflops_per_device: 10¹² floating-point operations a second and device.
        mfu: of those that the device could do; None where we have no figure of it.
        data_wait: share of the time in which steps waited for their inputs.
        peak_memory_mib: most memory of this process so far.
    """

    samples_per_s: float
    step_ms: float
    tflops_per_device: float
    mfu: float | None
    data_wait: float
    peak_memory_mib: float


@dataclass
class Meter:
    """Counts the work of an epoch against the clock.

    Attributes:
        flops_per_sample: arithmetic of one sample in one step.
        waited_s: time in which the step waited for its images.
    """

    device: torch.device
    num_processes: int
    flops_per_sample: float
    samples: int = 0
    steps: int = 0
    waited_s: float = 0.0
    started: float = 0.0

    def start(self) -> None:
        self.samples, self.steps, self.waited_s, self.started = 0, 0, 0.0, time.perf_counter()

    def add(self, samples: int, waited_s: float) -> None:
        """Count one step over all processes."""
        self.samples += samples
        self.steps += 1
        self.waited_s += waited_s

    def rates(self) -> Rates:
        """Per second and per step, since `start`; call it where the device has been waited for."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        rate = self.samples / seconds
        tflops = rate * self.flops_per_sample / 1e12 / self.num_processes
        peak = peak_tflops(self.device)
        return Rates(
            samples_per_s=round(rate, 1),
            step_ms=round(1000 * seconds / max(self.steps, 1), 3),
            tflops_per_device=round(tflops, 4),
            mfu=None if peak is None else round(tflops / peak, 4),
            data_wait=round(self.waited_s / seconds, 4),
            peak_memory_mib=round(peak_memory_mib(self.device), 1),
        )
