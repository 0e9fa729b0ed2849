"""A session for a server, with one thread a pass where a row of the model takes next to nothing, and all of them else.

A request keeps the event loop busy for a third of a millisecond. A model whose rows take about as long is answered no
sooner by more threads: they wait for each other, and for the loop, which needs a core as well. Of any other model the
passes are what takes time, and all threads share them.

So a row is tried when the server starts, in processor time, which other programs add little to. Only what is quick is
opened again, with one thread; and what is large, and slow whatever it is, is not tried. Nor is what runs on a GPU,
where threads do next to nothing, or in OpenVINO, whose threads wait busily, so that their time says nothing of a row.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from pfm.errors import ClassNameError
from pfm_export.service.warming import warm_up
from pfm_export.serving.runtime import CPU
from pfm_export.serving.session import PromptSession

QUICK_MS = 1.5  # of a row, all threads together; what is quicker has one
SLOW_MS = 6.0  # of one pass, after which no other has to be tried
TRIES = 10  # the quickest counts
LARGE = 1 << 24  # bytes of graphs; the weights in them, each used for 17 tokens, are 0.14 GFLOP a row in float32


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A session, and how it computes.

    Attributes:
        threads: of a pass; 0 is the engine's own choice, from all cores.
        row_ms: processor time of a row, all threads together; None where none was tried.
    """

    session: PromptSession
    threads: int
    row_ms: float | None = None


def open_session(folder: Path, *, device: str, threads: int, spin: bool, is_fixed: bool) -> Opened:
    """Open a bundle.

    Args:
        threads: of a pass on the CPU, or the most that it may have; 0 leaves the number to the engine.
        spin: let idle threads wait busily; whoever says so has cores for them.
        is_fixed: there are so many, and nothing to choose.

    Raises:
        PfmError: the bundle is not as it has to be, or cannot be computed there.
    """
    session = PromptSession(folder, device=device, threads=threads, spin=spin)
    is_asked = not (is_fixed or spin or threads == 1) and session.provider == CPU
    if not is_asked or _graph_bytes(session) > LARGE:
        return Opened(session=session, threads=threads)
    row_ms = row_on_cpu_ms(session)
    if row_ms is None or row_ms >= QUICK_MS:
        return Opened(session=session, threads=threads, row_ms=row_ms)
    del session  # before the other one takes memory
    return Opened(session=PromptSession(folder, device=device, threads=1, spin=spin), threads=1, row_ms=row_ms)


def row_on_cpu_ms(session: PromptSession) -> float | None:
    """Processor time of a row, warm; None where every class is suspended, so that nothing can be tried.

    Raises:
        DeviceError: the graph fails.
    """
    warm_up(session, max_batch=1)
    row, least = session.input.zeros(1), math.inf
    for _ in range(TRIES):
        begun = time.process_time()
        try:
            session.scores(row)
        except ClassNameError:
            return None
        least = min(least, 1000 * (time.process_time() - begun))
        if least > SLOW_MS:
            break
    return least


def _graph_bytes(session: PromptSession) -> int:
    stated = session.stated
    return sum(stated.files[name].size_bytes for name in stated.signatures.files)
