"""A second process that trains comparison models, of one thread each: models this small are all overhead in two.

    python -m pfm.audit.comparisons.beside < what `Beside` writes

It gets everything through its standard input and leaves models in the folder where they are kept, one after the other,
while the first process trains others, or attacks what is there. Whoever trains a model holds its folder, so that nobody
trains it twice. What the second process could not train, since it may not know a preset that was registered at run
time, the first one trains when asked.
"""

import contextlib
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import torch

from pfm.audit.comparisons.trained import Comparisons, Job
from pfm.registry import load_plugins


class Beside:
    """The second process.

    Args:
        jobs: in the order in which they will be asked for.
    """

    def __init__(self, comparisons: Comparisons, jobs: Sequence[Job]) -> None:
        self._comparisons = comparisons
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-m", "pfm.audit.comparisons.beside"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
        c = comparisons
        made_of = (c.checkpoint, c.data, c.positions, c.folder, c.device)
        self._sender = threading.Thread(target=_send, args=(self._process, (made_of, list(jobs))))
        self._sender.start()  # beside, since the process takes seconds until it reads

    @property
    def is_at_work(self) -> bool:
        return self._process.poll() is None

    def finish(self, jobs: Sequence[Job]) -> None:
        """Return when these are kept: train what nobody is at, and wait for what the other process is at."""
        for job in jobs:
            self._comparisons.make_if_free(job)
        while self.is_at_work and not all(map(self._comparisons.is_kept, jobs)):
            time.sleep(0.05)

    def close(self) -> None:
        """Stop it; models that it has finished stay."""
        self._process.terminate()
        self._process.wait()
        self._sender.join()


def _send(process: subprocess.Popen[bytes], asked: tuple[object, list[Job]]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # broken: it ended before it had read everything
        pipe.write(pickle.dumps(asked))


def main() -> None:
    """Train what standard input asks for."""
    torch.set_num_threads(1)
    load_plugins()
    (checkpoint, data, positions, folder, device), jobs = pickle.load(sys.stdin.buffer)  # from who started this one
    comparisons = Comparisons(checkpoint, data, positions, folder, device, lambda _: None)
    for job in jobs:
        comparisons.make_if_free(job)


if __name__ == "__main__":
    main()
