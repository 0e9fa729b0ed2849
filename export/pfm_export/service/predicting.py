"""`POST /v1/predict`: one file in, as it is, and its answer out."""

from functools import partial
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from pfm_export.service.guard import JSON, note_of, require_query
from pfm_export.service.models import read_upload
from pfm_export.service.refusals import bad_request
from pfm_export.service.schemas import UPLOAD
from pfm_export.service.service import Service
from pfm_export.service.tenants import Right
from pfm_export.service.tensors import as_json
from pfm_export.service.views import Selection


class PredictRoute:
    """`/v1/predict`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """Register it."""
        app.add_api_route(
            "/v1/predict", self.predict, methods=["POST"], tags=["pfm"], summary="Classify a file", openapi_extra=UPLOAD
        )

    async def predict(
        self,
        request: Request,
        model: str | None = None,
        active: Annotated[list[str] | None, Query(description="class that may be answered; as often as needed")] = None,
        without: Annotated[list[str] | None, Query(description="class that may not")] = None,
        profile: str | None = None,
    ) -> Response:
        """The body is an image or a sound, in any format that `pfm predict` reads.

        A sound longer than the model's window is cut into windows, whose scores are averaged.
        """
        note = note_of(request)
        note.route = "predict"
        tenant = self._service.admit(request, Right.PREDICT)
        require_query(request, once=("model", "profile"), often=("active", "without"))
        found = self._service.model(request, model)
        selection = Selection(
            active=None if active is None else tuple(active),
            without=tuple(without or ()),
            profile=profile,
        )
        found.view(tenant, profile).choose(selection)  # before anything is decoded
        body = await request.body()
        if not body:
            raise bad_request(f"the body is empty; send one of the {found.input.items} that the model classifies")
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise bad_request("the body is a form; send the file alone, such as with curl --data-binary @FILE")
        batches = await self._service.aside(
            partial(read_upload, body, found.input, max_rows=self._service.config.max_batch)
        )
        chosen = found.view(tenant, profile).choose(selection)
        answer = await found.answer(batches, 1, chosen, timeout=self._service.seconds(None))
        note.active = len(answer.classes)
        shares: list[float] = answer.probabilities[0].tolist()
        document = {
            "model": found.name,
            "label": answer.labels[0],
            "probabilities": dict(zip(answer.classes, shares, strict=True)),
        }
        return Response(as_json(document), media_type=JSON)
