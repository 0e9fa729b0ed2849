"""A process beside a worker that changes bundles, and yields to whatever answers requests.

In a thread of the worker a change would take the interpreter from requests, for milliseconds where a class is suspended
and for more where one is erased: files are written, hashed, and searched for what went. The worker is told which
classes are about to go and hides them at once; what was changed it sees in the files, as it sees what other workers
change.

Requests and answers are lines of JSON on standard input and output, one at a time.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pfm.errors import BundleError, PfmError
from pfm.storage import Json
from pfm_export.service.changes import UNDONE, Changes
from pfm_export.service.journal import Asked, Journal
from pfm_export.service.logs import capture_libraries, log, log_error
from pfm_export.service.orders import Named
from pfm_export.service.refusals import RefusedError
from pfm_export.service.shown import Shown, unserved
from pfm_export.service.tenants import Right, Tenant
from pfm_export.serving.served import ServedBundle

LEAVING = "leaving "  # begins a line that names the classes that are about to be erased
NICENESS = 5  # a third of the share that a worker gets of a core that both want


class Clerk:
    """The process, as a worker sees it; started at once, since starting takes longer than what it is for.

    Args:
        bundles: that it changes.
        records: folder of its journal.
        count: is told what was done: of which model, what, to how many classes.
    """

    def __init__(self, bundles: Sequence[Named], records: Path, count: Callable[[str, str, int], None]) -> None:
        self._order = {"bundles": {each.name: str(each.folder) for each in bundles}, "records": str(records)}
        self._count = count
        self._lock = threading.Lock()
        self._process = self._start()

    def carry_out(self, model: Shown, tenant: Tenant, asked: Asked) -> Json:
        """Have it done; see `Changes`.

        Raises:
            RefusedError: as there; or the process has ended meanwhile.
        """
        line = json.dumps({"tenant": {**asdict(tenant), "rights": sorted(tenant.rights)}, "asked": asdict(asked)})
        try:
            with self._lock:
                answer = self._tell(line, model)
        except BundleError as error:
            raise unserved(model.name) from error
        for what in answer["done"]:
            self._count(*what)
        if "refused" in answer:
            status, why, message, retry_after = answer["refused"]
            raise RefusedError(status, why, message, retry_after=retry_after)
        return answer["answer"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> None:
        """End it, when it has done what it is at."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # it has ended, and what was not sent yet cannot be
                continue
        self._process.wait()

    def _tell(self, line: str, model: Shown) -> dict[str, Any]:
        """Hand a request on, and hide what is about to go until it is answered.

        Raises:
            RefusedError: the process has ended.
            BundleError: the bundle cannot be read afterwards.
        """
        if self._process.poll() is not None:  # while it had nothing to do
            self._renew()
        answer: dict[str, Any] | None = None
        with ExitStack() as hidden:
            try:
                self._write(line)
                while (said := self._heard()).startswith(LEAVING):
                    hidden.enter_context(model.served.leaving(tuple(json.loads(said[len(LEAVING) :]))))
                answer = json.loads(said)
            except Exception as error:  # it has ended; or what it says is not understood, and would be out of step
                log_error("clerk", error)
        if answer is None:  # what it had begun is completed when it is asked for again
            self._renew()
            raise RefusedError(500, "change", UNDONE)
        return answer

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _heard(self) -> str:
        """The next line that it says; none, or a part of one, where it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _renew(self) -> None:
        """Start it anew; where that cannot be, the next change tries again."""
        self.close()
        log("clerk ended", code=self._process.returncode)
        try:
            self._process = self._start()
        except OSError as error:
            log_error("clerk", error)

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from pfm_export.service.clerk import main; main()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._order) + "\n")
        process.stdin.flush()
        return process


class _Announced(ServedBundle):
    """Says which classes go, once nothing speaks against it and before a file is changed."""

    @contextmanager
    def leaving(self, names: tuple[str, ...]) -> Generator[None]:
        print(LEAVING + json.dumps(names), flush=True)
        with super().leaving(names):
            yield


def main() -> None:
    """Entry of the process; it ends when its standard input does, and for no signal to all of a group half way."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    capture_libraries()
    order = json.loads(sys.stdin.readline())
    done: list[tuple[str, str, int]] = []

    def count(model: str, what: str, classes: int) -> None:
        done.append((model, what, classes))

    changes = Changes(Journal(Path(order["records"])), count)
    shown: dict[str, Shown] = {}
    for line in sys.stdin:
        done.clear()
        asking = json.loads(line)
        answer = _answer(changes, shown, order["bundles"], asking)
        print(json.dumps({**answer, "done": done}), flush=True)


def _answer(changes: Changes, shown: dict[str, Shown], folders: Mapping[str, str], asking: Mapping[str, Any]) -> Json:
    given, told = dict[str, Any](asking["asked"]), dict[str, Any](asking["tenant"])
    given["classes"], told["rights"] = tuple(given["classes"]), frozenset(map(Right, told["rights"]))
    asked, tenant = Asked(**given), Tenant(**told)
    try:
        if asked.model not in shown:
            try:
                shown[asked.model] = Shown(asked.model, _Announced(folders[asked.model]))
            except PfmError as error:
                raise unserved(asked.model) from error
        return {"answer": changes.carry_out(shown[asked.model], tenant, asked)}
    except RefusedError as error:
        return {"refused": [error.status, error.why, str(error), error.retry_after]}
    except Exception as error:  # a bug of ours, or an interruption of the system's
        log_error("bug", error)
        return {"refused": [500, "change", UNDONE, None]}
