"""The bundles of a server by name, and an answer from the engine of each."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from pfm.errors import BundleError, ClassNameError, DataError, PfmError
from pfm_export.service.engine import Engine
from pfm_export.service.refusals import RefusedError, bad_request, too_large, too_late, unknown_class
from pfm_export.service.shown import Shown, unserved
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.kinds import Batch, InputKind
from pfm_export.serving.session import PromptSession


class Model(Shown):
    """One bundle in service."""

    def __init__(self, name: str, session: PromptSession, engine: Engine) -> None:
        super().__init__(name, session)
        self.session = session
        self.engine = engine

    @property
    def input(self) -> InputKind:
        """What the graph takes."""
        return self.session.input

    @property
    def is_ready(self) -> bool:
        """Whether the bundle on disk is whole, and the one that was opened."""
        try:
            return len(self.session.classes) > 0
        except PfmError:
            return False

    async def answer(self, batches: Sequence[Batch], count: int, chosen: ActiveSet, *, timeout: float) -> Prediction:
        """Wait for the pass of a request.

        Raises:
            RefusedError: it was not answered.
        """
        loop = asyncio.get_running_loop()
        answer = self.engine.submit(batches, count, chosen, timeout=timeout, post=loop.call_soon_threadsafe)
        is_answered = loop.create_future()
        answer.add_done_callback(partial(_tell, loop, is_answered))
        try:
            async with asyncio.timeout(timeout):
                await is_answered
            return answer.result()
        except TimeoutError as error:
            raise too_late() from error
        except ClassNameError as error:  # whose message may name classes that this tenant does not see
            raise unknown_class("a class that was named is not there any more, or none is left") from error
        except DataError as error:
            raise bad_request(str(error)) from error
        except BundleError as error:
            raise unserved(self.name) from error
        finally:
            answer.cancel()  # where nobody waits any more and its pass has not begun


def _tell(loop: asyncio.AbstractEventLoop, is_answered: "asyncio.Future[None]", _: "Future[Prediction]") -> None:
    """Wake who waits; called by the engine, mostly where the loop runs."""

    def wake() -> None:
        if not is_answered.done():
            is_answered.set_result(None)

    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if is_here:
        wake()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(wake)


def read_upload(content: bytes, kind: InputKind, *, max_rows: int) -> tuple[Batch, ...]:
    """One file's bytes as graph inputs: an image, or a sound of so many windows.

    Raises:
        DataError: it cannot be read.
        RefusedError: it is longer.
    """
    batches: list[Batch] = []
    for batch in kind.batches(kind.as_items(content)):
        batches.append(batch)
        if sum(len(each.inputs) for each in batches) > max_rows:
            raise too_large(f"the file has more than {max_rows} windows of the model; cut it into shorter ones")
    return tuple(batches)


def find(models: Mapping[str, Model], name: str | None) -> Model:
    """A model by name; the only one where none is named.

    Raises:
        RefusedError: there is none.
    """
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name is None:
        raise bad_request("there are several models; name one")
    if name not in models:
        raise RefusedError(404, "model", f"there is no model {name[:80]!r}")
    return models[name]
