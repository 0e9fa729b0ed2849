"""A scenario: how a deployment feels, measured on what is served. MLPerf's in small, and the time to forget.

Scenarios run one target after another, so a machine that others load weighs on them more than on
the interleaved latencies. The rules of MLPerf Inference on run lengths and query counts are not followed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pfm.registry import Registry
from pfm_bench.scenarios.clock import Call
from pfm_bench.targets.plan import Plan

if TYPE_CHECKING:  # a report imports torch, which the names of the scenarios need not
    from pfm_bench.reports.serving_report import Case, ScenarioResult


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served at one number of threads, and how it is to be asked.

    Attributes:
        plans: the targets.
        calls: of every target, prepared.
        batch_sizes: ascending.
        num_prompts: active ones in a query.
        seconds: of a scenario of one target, about.
        bound_ms: on the latency of a query.
        folders: the bundles.
        workplace: a folder for copies of them.
        device: where a session of the bundles runs.
    """

    plans: Sequence[Plan]
    calls: "Mapping[Case, Call]"
    batch_sizes: Sequence[int]
    num_prompts: int
    seconds: float
    bound_ms: float
    seed: int
    threads: int
    folders: Sequence[Path]
    workplace: Path
    device: str

    def call(self, plan: Plan, batch_size: int) -> Call:
        """The call with the most prompts."""
        from pfm_bench.reports.serving_report import Case

        return self.calls[Case(batch_size, self.num_prompts, plan.name, plan.threads)]


class Scenario(Protocol):
    """One way to ask."""

    def __call__(self, served: Served) -> "Iterable[ScenarioResult]":
        """A result for each target, or for each bundle."""
        ...


SCENARIOS: Registry[Scenario] = Registry("scenario")
