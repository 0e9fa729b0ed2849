"""What the routes of a server share: models, the door, the limits, and threads for what would hold up others."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from pfm_export.service.config import ServeConfig
from pfm_export.service.engine import Engine
from pfm_export.service.guard import note_of
from pfm_export.service.logs import log
from pfm_export.service.metrics import Metrics
from pfm_export.service.models import Model, find
from pfm_export.service.orders import Named
from pfm_export.service.refusals import too_busy, too_late
from pfm_export.service.tenants import Door, OpenDoor, Right, Tenant, TokenDoor
from pfm_export.service.thread_choice import open_session
from pfm_export.service.warming import warm_up

T = TypeVar("T")
SMALL = 1 << 16  # bytes of JSON that are read where they arrive; more would hold up other requests
READERS = 4  # threads that decode
CHANGES = 64  # that may wait for each other


@dataclass(kw_only=True)
class Service:
    """Everything behind the routes."""

    models: Mapping[str, Model]
    door: Door
    config: ServeConfig
    metrics: Metrics
    readers: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    reading: int = 0
    changing: int = 0

    @classmethod
    def open(cls, named: Sequence[Named], config: ServeConfig, *, threads: int = 0) -> "Service":
        """Load every bundle and start its engine.

        Args:
            threads: of one pass on the CPU, or the most that it may have where `config` does not name them; 0 leaves
                the number to the engine.

        Raises:
            PfmError: a bundle or the file of tokens is not as it has to be.
        """
        metrics = Metrics()
        door = OpenDoor(is_local=config.is_local) if config.tokens is None else TokenDoor(config.tokens)
        models: dict[str, Model] = {}
        for bundle in named:
            opened = open_session(
                bundle.folder, device=config.device, threads=threads, spin=config.spin,
                is_fixed=config.threads is not None,
            )  # fmt: skip
            session = opened.session
            metrics.opened(bundle.name, opened.threads)
            log(
                "model", model=bundle.name, provider=session.provider, threads=opened.threads or "all",
                row_ms=None if opened.row_ms is None else round(opened.row_ms, 2),
            )  # fmt: skip
            engine = Engine(
                session,
                mixes_sets=session.stated.signatures.mixes_sets,
                shares_passes=session.stated.is_row_by_row,
                max_batch=config.max_batch,
                max_queue=config.max_queue,
                answer_within=config.answer_within,
                watcher=metrics.watcher(bundle.name),
            )
            engine.start(config.passes, partial(warm_up, session, max_batch=config.max_batch))
            models[bundle.name] = Model(bundle.name, session, engine)
        readers = ThreadPoolExecutor(READERS, thread_name_prefix="reading")
        writer = ThreadPoolExecutor(1, thread_name_prefix="changing")
        return cls(models=models, door=door, config=config, metrics=metrics, readers=readers, writer=writer)

    def close(self) -> None:
        """Answer what waits, and stop."""
        for model in self.models.values():
            model.engine.close(self.config.drain)
        self.readers.shutdown(wait=False, cancel_futures=True)
        self.writer.shutdown(wait=True, cancel_futures=True)

    def admit(self, request: Request, right: Right) -> Tenant:
        """Who asks, allowed to.

        Raises:
            RefusedError: nobody that is known, or without that right.
        """
        tenant = self.door.find(self.door.key(request.headers.get("authorization", "")))
        note_of(request).tag = tenant.tag
        tenant.require(right)
        return tenant

    def model(self, request: Request, name: str | None) -> Model:
        """A model by name; the only one where none is named.

        Raises:
            RefusedError: there is none.
        """
        model = find(self.models, name)
        note_of(request).model = model.name
        return model

    async def aside(self, work: Callable[[], T]) -> T:
        """Do something that takes a while in another thread.

        Raises:
            RefusedError: too much is being done already, or it was not done in time.
        """
        if self.reading >= self.config.max_queue:
            raise too_busy(1)
        self.reading += 1
        try:
            doing = asyncio.get_running_loop().run_in_executor(self.readers, work)
            return await asyncio.wait_for(doing, self.config.timeout)
        except TimeoutError as error:
            raise too_late() from error
        finally:
            self.reading -= 1

    async def change(self, work: Callable[[], T]) -> T:
        """Change a bundle, one change after the other.

        Raises:
            RefusedError: too many wait.
        """
        if self.changing >= CHANGES:
            raise too_busy(1)
        self.changing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.writer, work)
        finally:
            self.changing -= 1

    def seconds(self, asked: float | None) -> float:
        """Until a request is given up."""
        return self.config.timeout if asked is None else min(asked, self.config.timeout)
