"""The application: routes, errors and the guard around them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pfm import __version__
from pfm.errors import DataError, PfmError
from pfm_export.service.changes import Changer, Changes
from pfm_export.service.changing import ChangeRoutes
from pfm_export.service.guard import Guard, broken, note_of, refused
from pfm_export.service.inference import InferenceRoutes
from pfm_export.service.journal import Journal
from pfm_export.service.lane import Lane
from pfm_export.service.metrics import CONTENT_TYPE
from pfm_export.service.pages import Pages
from pfm_export.service.predicting import PredictRoute
from pfm_export.service.refusals import RefusedError, bad_request
from pfm_export.service.service import Service
from pfm_export.service.shortcut import Shortcut
from pfm_export.service.tenants import Right


def build_app(service: Service, records: Path, changer: Changer | None = None) -> Guard:
    """Everything behind a port; `service` is closed when it ends.

    Args:
        records: folder of the signing key, the certificates, and what was answered to which request.
        changer: of the bundles; by default a thread of this process.
    """
    if changer is None:
        changer = Changes(Journal(records), service.metrics.changed)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        guard.lane = Lane(service, guard)
        yield
        service.close()

    app = FastAPI(title="pfm", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    inference = InferenceRoutes(service)
    inference.add_to(app)
    PredictRoute(service).add_to(app)
    Pages(service).add_to(app)
    ChangeRoutes(service, changer).add_to(app)

    async def metrics(request: Request) -> Response:
        """Counts and times, for Prometheus."""
        note_of(request).route = "metrics"
        service.admit(request, Right.METRICS)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    app.add_api_route("/metrics", metrics, methods=["GET"], tags=["pfm"], summary="Metrics")
    app.add_exception_handler(PfmError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_bug)
    quick = Shortcut(app, inference.infer, _on_error)
    guard = Guard(quick, config=service.config, metrics=service.metrics)
    return guard


async def _on_error(request: Request, error: Exception) -> Response:
    """What the client can put right; anything else of ours is a bug here."""
    if isinstance(error, DataError):
        error = bad_request(str(error))
    if not isinstance(error, RefusedError):
        raise error
    return refused(error, note_of(request))


async def _on_http(request: Request, error: Exception) -> Response:
    """An address or a method that is not there."""
    assert isinstance(error, HTTPException)
    return refused(RefusedError(error.status_code, "address", error.detail.lower()), note_of(request))


async def _on_invalid(request: Request, error: Exception) -> Response:
    return refused(bad_request("a parameter in the address is not as it has to be"), note_of(request))


async def _on_gone(request: Request, error: Exception) -> Response:
    """Nobody is there to read it; it is for the counts."""
    return refused(RefusedError(400, "gone", "the rest of the request did not come"), note_of(request))


async def _on_bug(request: Request, error: Exception) -> Response:
    """It is raised again behind this, and the guard writes it to the log."""
    return broken(note_of(request))
