"""Routes of the Open Inference Protocol (V2), for `tritonclient.http`, KServe's clients and others that speak it."""

from enum import Enum
from functools import partial

from fastapi import FastAPI, Request
from starlette.responses import Response

from pfm import __version__
from pfm.storage import Json
from pfm_export.service.guard import JSON, note_of, require_query
from pfm_export.service.models import Model
from pfm_export.service.refusals import RefusedError, bad_request
from pfm_export.service.schemas import INFER
from pfm_export.service.service import SMALL, Service
from pfm_export.service.tenants import Right
from pfm_export.service.tensors import VERSION, as_json, describe, read_infer, write_infer
from pfm_export.serving.kinds import Batch

LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
TAGS: list[str | Enum] = ["Open Inference Protocol"]


class InferenceRoutes:
    """`/v2/…`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register them."""
        get = partial(app.add_api_route, methods=["GET"], tags=TAGS)
        post = partial(app.add_api_route, methods=["POST"], tags=TAGS)
        get("/v2", self.server, summary="What the server is")
        get("/v2/health/live", self.live, summary="Whether it runs")
        get("/v2/health/ready", self.ready, summary="Whether every model can be asked")
        for place in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            is_told = "{version}" not in place
            get(place, self.metadata, summary="What a model takes and gives", include_in_schema=is_told)
            get(f"{place}/ready", self.model_ready, summary="Whether it can be asked", include_in_schema=is_told)
            post(
                f"{place}/infer", self.infer, summary="Classify tensors", openapi_extra=INFER,
                include_in_schema=is_told,
            )  # fmt: skip

    async def server(self, request: Request) -> Response:
        """Name, version, and the extensions of the protocol that are there."""
        note_of(request).route = "server"
        return _json({"name": "pfm", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """It runs."""
        note_of(request).route = "live"
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 where the files of every model and of the tokens are whole; else 503."""
        note_of(request).route = "ready"
        is_ready = self._service.door.is_whole and all(model.is_ready for model in self._service.models.values())
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    async def model_ready(self, model: str, request: Request) -> Response:
        """200 where the files of the model are whole; else 503."""
        note_of(request).route = "ready"
        is_ready = self._found(model, request).is_ready
        return _json({"name": model, "ready": is_ready}, 200 if is_ready else 503)

    async def metadata(self, model: str, request: Request) -> Response:
        """Inputs, outputs, and the classes that there are for this token."""
        note_of(request).route = "metadata"
        tenant = self._service.admit(request, Right.PREDICT)
        found = self._found(model, request)
        return _json(describe(model, found.input, found.view(tenant).classes))

    async def infer(self, model: str, request: Request) -> Response:
        """Tensors in, labels and probabilities out; as JSON, or with binary tensors behind it.

        `parameters` may have `active` and `without` (names of classes: a list, or a list written as a string),
        `profile`, and `timeout` in microseconds.
        """
        note = note_of(request)
        note.route = "infer"
        tenant = self._service.admit(request, Right.PREDICT)
        found = self._found(model, request)
        require_query(request)
        body, length = await request.body(), _length(request)
        read = partial(read_infer, body, length, found.input, max_rows=self._service.config.max_batch)
        asked = read() if (len(body) if length is None else length) <= SMALL else await self._service.aside(read)
        chosen = found.view(tenant, asked.selection.profile).choose(asked.selection)
        rows = len(asked.inputs)
        answer = await found.answer(
            [Batch.of_items(range(rows), asked.inputs)], rows, chosen, timeout=self._service.seconds(asked.timeout)
        )
        note.active = len(answer.classes)
        written = write_infer(model, asked, answer)
        if written.json_length is None:
            return Response(written.body, media_type=JSON)
        return Response(written.body, media_type=BINARY, headers={LENGTH: str(written.json_length)})

    def _found(self, model: str, request: Request) -> Model:
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise RefusedError(404, "model", f"there is no version {version[:20]!r} of it; there is {VERSION}")
        return self._service.model(request, model)


def _length(request: Request) -> int | None:
    """Bytes of JSON at the start of a body that has binary tensors."""
    text = request.headers.get(LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 18):
        raise bad_request(f"{LENGTH} is not a number")
    return int(text)


def _json(document: Json, status: int = 200) -> Response:
    return Response(as_json(document), status_code=status, media_type=JSON)
