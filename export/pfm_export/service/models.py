"""The bundles of a server by name: what a tenant sees of each, and an answer from its engine."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from pfm.errors import BundleError, ClassNameError, DataError, PfmError
from pfm_export.service.engine import Engine
from pfm_export.service.refusals import RefusedError, bad_request, too_large, too_late, unknown_class
from pfm_export.service.tenants import Tenant
from pfm_export.service.views import View
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.kinds import Batch, InputKind
from pfm_export.serving.session import PromptSession


class Model:
    """One bundle in service."""

    def __init__(self, name: str, session: PromptSession, engine: Engine) -> None:
        self.name = name
        self.session = session
        self.engine = engine
        self._views: tuple[Bundle | None, dict[str | None, View]] = (None, {})

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

    def view(self, tenant: Tenant, asked: str | None = None, *, is_fresh: bool = True) -> View:
        """What there is for a tenant, as the bundle is now.

        Args:
            asked: the profile that a request names.
            is_fresh: look at the files; else it is the bundle that was seen last.

        Raises:
            RefusedError: nothing.
        """
        profile = tenant.profile_for(asked)
        try:
            bundle = self.session.bundle if is_fresh else self.session.seen
            owner, views = self._views
            if owner is not bundle:  # something was erased, suspended or restored
                views = {}
                self._views = (bundle, views)
            if profile not in views:
                names = tuple(bundle.classes.names[p] for p in ActiveSet(profile=profile).positions(bundle))
                views[profile] = View(classes=names, profile=profile, is_whole=len(names) == len(bundle.classes))
            return views[profile]
        except ClassNameError as error:
            if tenant.is_bound:
                raise RefusedError(403, "forbidden", f"this token is not for the model {self.name}") from error
            raise bad_request(f"there is no profile {str(profile)[:80]!r}") from error
        except BundleError as error:
            raise unserved(self.name) from error

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


def unserved(name: str) -> RefusedError:
    """The bundle was damaged or replaced; where it is, is not for clients."""
    return RefusedError(503, "bundle", f"the model {name} cannot be served: its files were changed or damaged")


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
