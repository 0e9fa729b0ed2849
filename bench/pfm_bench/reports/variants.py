"""A measurement and the facts of its host; variants of one piece of work as JSON, as a table, as a picture."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.evaluation.pictures import new_figure, save_figure
from pfm_bench.latency import Samples

FORMAT = "pfm-bench"
REFERENCE_COLOR, VARIANT_COLOR = "#7f8c8d", "#2471a3"


def host_facts() -> dict[str, Any]:
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


def header(settings: dict[str, Any], *runs: Samples[Any]) -> dict[str, Any]:
    """What every measurement says of itself; `runs` are its interleaved runs, one after another."""
    return {
        "format": FORMAT,
        "command": "pfm " + " ".join(sys.argv[1:]),
        "host": host_facts(),
        "settings": {
            **settings,
            "rounds": min(samples.rounds for samples in runs),
            "warmup_rounds": runs[0].warmup_rounds,
            "pause_ms": runs[0].pause_ms,
            "stopped_by_budget": any(samples.budget_was_spent for samples in runs),
        },
    }


def variants_to_json(
    samples: Samples[str],
    *,
    reference: str,
    images_per_call: int,
    settings: dict[str, Any],
    facts: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Several variants of one piece of work, each beside the `reference` variant.

    Args:
        facts: more to say of a variant, by its name; a number under a key of `COLUMNS` is a column of the table.
    """
    variants = []
    for name, latency_ms in samples.latency_ms.items():
        figures = samples.percentiles(name)
        variants.append(
            {
                "name": name,
                **figures,
                "cpu_p50_ms": float(np.median(samples.cpu_ms[name])),
                "images_per_s": 1000 * images_per_call / figures["p50_ms"],
                "speed_to_reference": samples.speed(name, reference),
                **facts[name],
                "latency_ms": latency_ms,
                "cpu_ms": samples.cpu_ms[name],
            }
        )
    return {**header({**settings, "reference": reference}, samples), "variants": variants}


# what a variant may say of itself -> heading and form in the table
COLUMNS = {
    "forwards": ("forwards", "{:d}"),
    "gflop_per_image": ("GFLOP/image", "{:.3g}"),
    "gflop_per_s": ("GFLOP/s", "{:.0f}"),
    "share_of_ceiling": ("of ceiling", "{:.0%}"),
    "peak_memory_mib": ("peak MiB", "{:.0f}"),
}


def variants_table(document: dict[str, Any]) -> str:
    """A Markdown table of the variants; on a GPU the CPU time says nothing and is left out."""
    reference = document["settings"]["reference"]
    clocks = {"wall": "speed"} if document["settings"]["device"] == "cuda" else {"wall": "speed", "cpu": "by CPU time"}
    shown = [key for key in COLUMNS if any(variant.get(key) is not None for variant in document["variants"])]
    headings = ["variant", "p50 ms", "images/s", *(f"{text} to {reference} (95 %)" for text in clocks.values())]
    headings += [COLUMNS[key][0] for key in shown]
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    for variant in document["variants"]:
        cells = [variant["name"], f"{variant['p50_ms']:.1f}", f"{variant['images_per_s']:.1f}"]
        for clock in clocks:
            speed = variant["speed_to_reference"][clock]
            cells.append(f"×{speed['median']:.2f} ({speed['low']:.2f}–{speed['high']:.2f})")
        values = [(key, variant.get(key)) for key in shown]
        cells += ["" if value is None else COLUMNS[key][1].format(value) for key, value in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_variants(document: dict[str, Any], path: Path, *, title: str) -> None:
    """How many times as fast as the reference each variant is; whiskers: 95 % interval of the median."""
    variants = document["variants"]
    speeds = [variant["speed_to_reference"]["wall"] for variant in variants]
    widths = np.array([speed["median"] for speed in speeds])
    # a bootstrap interval holds its median only almost always
    below = np.maximum(0, widths - [speed["low"] for speed in speeds])
    above = np.maximum(0, np.array([speed["high"] for speed in speeds]) - widths)
    figure = new_figure(7.2, 0.42 * len(variants) + 1.5)
    axis = figure.subplots()
    rows = np.arange(len(variants))
    names, reference = [variant["name"] for variant in variants], document["settings"]["reference"]
    colors = [REFERENCE_COLOR if name == reference else VARIANT_COLOR for name in names]
    axis.barh(rows, widths, 0.62, xerr=[below, above], capsize=3, color=colors)
    for row, (speed, width) in enumerate(zip(speeds, widths, strict=True)):
        axis.annotate(
            f"×{width:.2f}", (max(width, speed["high"]), row), (5, 0), textcoords="offset points", va="center"
        )
    axis.axvline(1, color=REFERENCE_COLOR, linestyle="--", linewidth=1)
    axis.set(
        yticks=rows,
        yticklabels=[variant["name"] for variant in variants],
        xlabel=f"times as fast as {document['settings']['reference']}",
    )
    axis.set_xlim(0, 1.15 * max(speed["high"] for speed in speeds))
    axis.invert_yaxis()
    axis.grid(alpha=0.25, axis="x")
    axis.set_title(title)
    save_figure(figure, path)
