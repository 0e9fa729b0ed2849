"""What every measurement says of itself: the host, the command, the settings, how its rounds went."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from pfm.storage import Json
from pfm_bench.measuring.rounds import Samples

FORMAT = "pfm-bench"


@dataclass(frozen=True, kw_only=True)
class Header:
    """The head of a document.

    Attributes:
        reference: the case or variant that the others are compared with.
        settings: what the user chose, and what is particular to this measurement.
        rounds: of the shortest interleaved run.
        warmup_rounds: before them, not counted.
        pause_ms: before each call.
        stopped_by_budget: a run had no time for all its rounds.
    """

    reference: str
    settings: Json
    rounds: int
    warmup_rounds: int
    pause_ms: float
    stopped_by_budget: bool

    @classmethod
    def of(cls, *runs: Samples, settings: Json, reference: str) -> "Header":
        """Of interleaved runs, one after another."""
        return cls(
            reference=reference,
            settings=settings,
            rounds=min(samples.rounds for samples in runs),
            warmup_rounds=runs[0].warmup_rounds,
            pause_ms=runs[0].pause_ms,
            stopped_by_budget=any(samples.budget_was_spent for samples in runs),
        )

    def to_dict(self) -> Json:
        return {
            "format": FORMAT,
            "command": "pfm " + " ".join(sys.argv[1:]),
            "host": host_facts(),
            "settings": {
                **self.settings,
                "reference": self.reference,
                "rounds": self.rounds,
                "warmup_rounds": self.warmup_rounds,
                "pause_ms": self.pause_ms,
                "stopped_by_budget": self.stopped_by_budget,
            },
        }


def host_facts() -> Json:
    """What a reader needs to judge the figures: processor, cores, memory, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("pfm", "torch", "transformers", "onnxruntime", "numpy")},
    }


def _processor() -> str:
    """Model and the instruction sets that matter for matrix products."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
    found = [flag for flag in wanted if flag in facts.get("flags", "").split()]
    return " ".join([facts.get("model name", platform.machine()), *found])


def _version(name: str) -> str:
    for candidate in (f"{name}-gpu", name):
        try:
            return f"{metadata.version(candidate)}" + (" (gpu build)" if candidate.endswith("-gpu") else "")
        except metadata.PackageNotFoundError:
            continue
    return "?"
