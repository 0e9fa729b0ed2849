"""time_to_forget: from the call of `erase` to the first answer without the class."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pfm.errors import ConfigError
from pfm.storage import Json
from pfm_bench.measuring.stats import Interval, Percentiles, percentile_intervals, percentiles
from pfm_bench.reports.serving_report import ScenarioResult
from pfm_bench.scenarios.clock import SYSTEM, Clock
from pfm_bench.scenarios.scenario import Served
from pfm_bench.targets.choosing import precision_of
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession

NAME = "time_to_forget"
REPEATS = 20


@dataclass(frozen=True, kw_only=True)
class TimeToForget:
    """Milliseconds of each erasure.

    Attributes:
        percentiles, intervals: of `latency_ms`.
        latency_ms: to the first answer without the class.
        erase_ms: to the return of `erase`.
        predict_ms: of a prediction before.
    """

    percentiles: Percentiles
    intervals: Mapping[str, Interval]
    latency_ms: list[float]
    erase_ms: list[float]
    predict_ms: list[float]

    def to_dict(self) -> Json:
        return {
            **self.percentiles.to_dict(),
            "intervals": self.intervals,
            "erase_p50_ms": float(np.median(self.erase_ms)),
            "predict_p50_ms": float(np.median(self.predict_ms)),
            "latency_ms": self.latency_ms,
            "erase_ms": self.erase_ms,
            "predict_ms": self.predict_ms,
        }

    def describe(self) -> str:
        return (
            f"p50 {self.percentiles.p50_ms:.1f} ms, p99 {self.percentiles.p99_ms:.1f} ms "
            f"(erase {np.median(self.erase_ms):.1f}, a prediction {np.median(self.predict_ms):.1f})"
        )


def erase_and_answer(
    session: PromptSession, names: Sequence[str], inputs: np.ndarray, *, clock: Clock = SYSTEM
) -> tuple[float, float]:
    """Milliseconds from the call of `erase` to its return, and to the first answer, which cannot be the classes."""
    called = clock.now()
    session.erase(names, reason="bench")
    erased = clock.now()
    answer = session.predict(inputs)
    answered = clock.now()
    assert not set(names) & set(answer.classes), "the class is still answered"
    return 1000 * (erased - called), 1000 * (answered - called)


def time_to_forget(
    folder: Path,
    workplace: Path,
    *,
    device: str = "cpu",
    threads: int = 1,
    repeats: int | None = None,
    clock: Clock = SYSTEM,
) -> TimeToForget:
    """Erase classes from copies of a bundle, which stays whole.

    A copy gives up one class after another until one is left; then the next copy is made.

    Args:
        workplace: a folder that takes a copy at a time. How long an erasure takes depends on its disk.
        repeats: erasures; None is `REPEATS`.

    Raises:
        ConfigError: the bundle has one class only.
    """
    repeats = repeats or REPEATS
    forget_ms: list[float] = []
    erase_ms: list[float] = []
    predict_ms: list[float] = []
    while len(forget_ms) < repeats:
        with tempfile.TemporaryDirectory(dir=workplace, prefix=".bundle.") as temporary:
            copy = Path(shutil.copytree(folder, Path(temporary) / "bundle"))
            session = PromptSession(copy, device=device, threads=threads)
            names = session.classes.names
            if len(names) < 2:
                raise ConfigError(f"{folder} has one class only; time_to_forget needs one to erase and one to keep")
            inputs = session.input.random(1, np.random.default_rng(0))
            session.predict(inputs)
            for name in names[: min(len(names) - 1, repeats - len(forget_ms))]:
                start = clock.now()
                session.predict(inputs)
                predict_ms.append(1000 * (clock.now() - start))
                erased_ms, answered_ms = erase_and_answer(session, [name], inputs, clock=clock)
                erase_ms.append(erased_ms)
                forget_ms.append(answered_ms)
    return TimeToForget(
        percentiles=percentiles(forget_ms),
        intervals=percentile_intervals(forget_ms),
        latency_ms=forget_ms,
        erase_ms=erase_ms,
        predict_ms=predict_ms,
    )


def scenario(served: Served) -> Iterator[ScenarioResult]:
    """Of each bundle, in a session."""
    for folder in served.folders:
        figures = time_to_forget(folder, served.workplace, device=served.device, threads=served.threads)
        yield ScenarioResult(
            scenario=NAME, target=f"PromptSession {precision_of(Bundle.open(folder))}", figures=figures
        )
