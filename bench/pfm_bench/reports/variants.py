"""Variants of one piece of work beside a reference: as JSON, as a table, as a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pfm.evaluation.pictures import new_figure, save_figure
from pfm.storage import Json
from pfm_bench.measuring.rounds import Samples
from pfm_bench.measuring.stats import Percentiles, Ratio
from pfm_bench.reports.header import Header

REFERENCE_COLOR, VARIANT_COLOR = "#7f8c8d", "#2471a3"
# what the facts of a variant may hold -> heading and form in the table
COLUMNS = {
    "forwards": ("forwards", "{:d}"),
    "gflop_per_image": ("GFLOP/image", "{:.3g}"),
    "gflop_per_s": ("GFLOP/s", "{:.0f}"),
    "share_of_ceiling": ("of ceiling", "{:.0%}"),
    "peak_memory_mib": ("peak MiB", "{:.0f}"),
}


class Facts(Protocol):
    """More to say of a variant; a number under a key of `COLUMNS` is a column of the table."""

    def to_dict(self) -> Json: ...


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """The figures of a variant, and the samples that they come from.

    Attributes:
        images_per_s: at the median.
        speed: how many times as fast as the reference, on the clock ("wall") and in CPU time ("cpu").
        latency_ms, cpu_ms: raw.
    """

    name: str
    percentiles: Percentiles
    cpu_p50_ms: float
    images_per_s: float
    speed: Mapping[str, Ratio]
    facts: Facts
    latency_ms: list[float]
    cpu_ms: list[float]

    def to_dict(self) -> Json:
        return {
            "name": self.name,
            **self.percentiles.to_dict(),
            "cpu_p50_ms": self.cpu_p50_ms,
            "images_per_s": self.images_per_s,
            "speed_to_reference": {clock: ratio.to_dict() for clock, ratio in self.speed.items()},
            **self.facts.to_dict(),
            "latency_ms": self.latency_ms,
            "cpu_ms": self.cpu_ms,
        }


@dataclass(frozen=True, kw_only=True)
class VariantsReport:
    """Several variants of one piece of work, the reference among them."""

    header: Header
    variants: tuple[VariantResult, ...]

    @property
    def title(self) -> str:
        """What was measured, in a few words."""
        settings = self.header.settings
        return f"{settings['model_name']}, batch {settings['batch_size']}, {settings['device']}"

    def to_dict(self) -> Json:
        return {**self.header.to_dict(), "variants": [variant.to_dict() for variant in self.variants]}


def variants_report(
    samples: Samples[str], *, reference: str, images_per_call: int, settings: Json, facts: Mapping[str, Facts]
) -> VariantsReport:
    """The figures of every variant.

    Args:
        reference: the variant that the others are compared with.
        settings: with "device", where everything ran.
        facts: more to say of each variant, by its name.
    """
    variants = []
    for name, latency_ms in samples.latency_ms.items():
        figures = samples.percentiles(name)
        variants.append(
            VariantResult(
                name=name,
                percentiles=figures,
                cpu_p50_ms=float(np.median(samples.cpu_ms[name])),
                images_per_s=1000 * images_per_call / figures.p50_ms,
                speed=samples.speed(name, reference),
                facts=facts[name],
                latency_ms=latency_ms,
                cpu_ms=samples.cpu_ms[name],
            )
        )
    header = Header.of(samples, settings=settings, reference=reference)
    return VariantsReport(header=header, variants=tuple(variants))


def variants_table(report: VariantsReport) -> str:
    """A Markdown table of the variants; on a GPU the CPU time says nothing and is left out."""
    reference = report.header.reference
    clocks = (
        {"wall": "speed"} if report.header.settings["device"] == "cuda" else {"wall": "speed", "cpu": "by CPU time"}
    )
    facts = [variant.facts.to_dict() for variant in report.variants]
    shown = [key for key in COLUMNS if any(known.get(key) is not None for known in facts)]
    headings = ["variant", "p50 ms", "images/s", *(f"{text} to {reference} (95 %)" for text in clocks.values())]
    headings += [COLUMNS[key][0] for key in shown]
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    for variant, known in zip(report.variants, facts, strict=True):
        cells = [variant.name, f"{variant.percentiles.p50_ms:.1f}", f"{variant.images_per_s:.1f}"]
        cells += [variant.speed[clock].describe() for clock in clocks]
        values = [(key, known.get(key)) for key in shown]
        cells += ["" if value is None else COLUMNS[key][1].format(value) for key, value in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_variants(report: VariantsReport, path: Path, *, title: str) -> None:
    """How many times as fast as the reference each variant is; whiskers: 95 % interval of the median."""
    names, reference = [variant.name for variant in report.variants], report.header.reference
    speeds = [variant.speed["wall"] for variant in report.variants]
    widths = np.array([speed.median for speed in speeds])
    # a bootstrap interval holds its median only almost always
    below = np.maximum(0, widths - [speed.low for speed in speeds])
    above = np.maximum(0, np.array([speed.high for speed in speeds]) - widths)
    figure = new_figure(6.2, 0.4 * len(names) + 1.3)
    axis = figure.subplots()
    rows = np.arange(len(names))
    colors = [REFERENCE_COLOR if name == reference else VARIANT_COLOR for name in names]
    axis.barh(rows, widths, 0.66, xerr=[below, above], capsize=4, color=colors, error_kw={"elinewidth": 1.5})
    for row, (speed, width) in enumerate(zip(speeds, widths, strict=True)):
        axis.annotate(f"×{width:.2f}", (max(width, speed.high), row), (5, 0), textcoords="offset points", va="center")
    axis.axvline(1, color=REFERENCE_COLOR, linestyle="--", linewidth=1.5)
    axis.set(yticks=rows, yticklabels=names, xlabel=f"times as fast as {reference}")
    axis.set_xlim(0, 1.15 * max(speed.high for speed in speeds))
    axis.invert_yaxis()
    axis.grid(alpha=0.25, axis="x")
    figure.suptitle(title, weight="bold")
    save_figure(figure, path)
