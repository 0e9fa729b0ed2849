"""Choosing each sample's prompts and laying them out as tokens: ours as one tensor, plain sample by sample."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pfm.model.bank import PromptBank
from pfm.model.draws import others
from pfm.seeds import make_generator
from pfm.storage import Json
from pfm_bench.measuring.ceilings import synchronise
from pfm_bench.measuring.rounds import measure
from pfm_bench.measuring.stats import Ratio
from pfm_bench.targets.plain import choose_with_own
from pfm_bench.targets.workbench import PLAIN, Workbench, build_plain

BATCH_SIZES = (32, 256)
OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class PromptBuilding:
    """Times of one batch size.

    Attributes:
        prompts: a sample's own and half of the others.
        p50_ms: "ours" and "plain".
        speed_to_plain: how many times as fast ours is, by clock.
        latency_ms: raw, "ours" and "plain".
    """

    batch_size: int
    prompts: int
    p50_ms: Mapping[str, float]
    speed_to_plain: Mapping[str, Ratio]
    latency_ms: Mapping[str, list[float]]

    def to_dict(self) -> Json:
        return {
            "batch_size": self.batch_size,
            "prompts": self.prompts,
            "p50_ms": self.p50_ms,
            "speed_to_plain": {clock: ratio.to_dict() for clock, ratio in self.speed_to_plain.items()},
            "latency_ms": self.latency_ms,
        }

    def describe(self) -> str:
        """A line."""
        return (
            f"building {self.prompts} prompts a sample, batch {self.batch_size}: {self.p50_ms[OURS]:.2f} ms, "
            f"plain {self.p50_ms[PLAIN]:.2f} ms, {self.speed_to_plain['wall'].describe(1)}"
        )


def bench_prompt_building(
    bench: Workbench, batch_sizes: Sequence[int] = BATCH_SIZES, rounds: int = 30
) -> tuple[PromptBuilding, ...]:
    """Measure each batch size, of random labels."""
    num_classes, width = bench.config.num_classes, bench.spec.hidden_size
    size = num_classes // 2
    bank = PromptBank(num_classes, 1, width).to(bench.device)
    plain = build_plain(bench)
    dice, generator = random.Random(0), make_generator(0)
    result = []
    for batch_size in batch_sizes:
        labels = torch.randint(num_classes, (batch_size,), generator=make_generator(batch_size))
        on_device = labels.to(bench.device)

        def ours(labels: torch.Tensor = labels) -> None:
            present = torch.cat([labels[:, None], others(labels, num_classes, size, generator)], dim=1)
            bank.gather(present.to(bench.device))
            synchronise(bench.device)

        def in_a_loop(labels: torch.Tensor = on_device) -> None:
            plain.stack_prompts(choose_with_own(labels, num_classes, size, dice))
            synchronise(bench.device)

        samples = measure({OURS: ours, PLAIN: in_a_loop}, rounds=rounds, pause_ms=0)
        result.append(
            PromptBuilding(
                batch_size=batch_size,
                prompts=1 + size,
                p50_ms={name: samples.percentiles(name).p50_ms for name in samples.latency_ms},
                speed_to_plain=samples.speed(OURS, PLAIN),
                latency_ms=samples.latency_ms,
            )
        )
    return tuple(result)
