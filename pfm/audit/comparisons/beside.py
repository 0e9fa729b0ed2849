"""Comparison models trained in two processes at once, of one thread each: models this small are all overhead in two.

    python -m pfm.audit.comparisons.beside < what `train_beside` writes

The second process gets everything through its standard input and leaves models in the folder where they are kept. What
it could not train, since it may not know a preset that was registered at run time, the first one trains when asked.
"""

import contextlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import torch

from pfm.audit.comparisons.trained import Comparisons, Job
from pfm.registry import load_plugins


def train_beside(comparisons: Comparisons, jobs: Sequence[Job]) -> None:
    """Train what is not kept yet, every other one in a second process."""
    missing = [job for job in jobs if not comparisons.is_kept(job)]
    if len(missing) < 2:
        return
    comparisons.say(f"training {len(missing)} models in two processes")
    with _second(comparisons, missing[1::2]):
        for job in missing[::2]:
            comparisons.make(job)


@contextlib.contextmanager
def _second(comparisons: Comparisons, jobs: Sequence[Job]) -> Iterator[None]:
    """A second process trains while the block runs; it is waited for at the end, and stopped where the block fails."""
    made_of = (comparisons.checkpoint, comparisons.data, comparisons.positions, comparisons.folder, comparisons.device)
    command = [sys.executable, "-m", "pfm.audit.comparisons.beside"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as process:
        sender = threading.Thread(target=_send, args=(process, (made_of, list(jobs))))
        sender.start()  # beside, since the process takes seconds until it reads
        try:
            yield
        except BaseException:
            process.terminate()
            raise
        finally:
            sender.join()


def _send(process: subprocess.Popen[bytes], asked: tuple[object, list[Job]]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended before it had read everything
        process.stdin.write(pickle.dumps(asked))
        process.stdin.close()


def main() -> None:
    """Train what standard input asks for."""
    torch.set_num_threads(1)
    load_plugins()
    (checkpoint, data, positions, folder, device), jobs = pickle.load(sys.stdin.buffer)  # from who started this one
    comparisons = Comparisons(checkpoint, data, positions, folder, device, lambda _: None)
    for job in jobs:
        comparisons.make(job)


if __name__ == "__main__":
    main()
