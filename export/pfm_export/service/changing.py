"""Routes that change a bundle: `POST /v1/models/{model}/erase`, `/suspend` and `/restore`."""

import secrets
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI, Request
from starlette.responses import Response

from pfm_export.service.changes import Changer
from pfm_export.service.guard import JSON, note_of, require_json, require_query
from pfm_export.service.journal import Asked
from pfm_export.service.refusals import bad_request
from pfm_export.service.schemas import CHANGE
from pfm_export.service.service import Service
from pfm_export.service.tenants import Right
from pfm_export.service.tensors import as_json, parse_document
from pfm_export.serving import fields

LONGEST = 1000  # characters of an id or a remark
TEXTS = ("request_id", "reason", "requested_by", "profile")
_FIELDS = "classes is a list of names, centre_prompts true or false; every other field is a text"
KNOWN = ("classes", *TEXTS, "centre_prompts")


@dataclass(frozen=True, kw_only=True)
class Change:
    """The body of such a request.

    Attributes:
        request_id: the client's own; made up where it gave none.
        reason, requested_by: for the record.
        profile: of suspend and restore; None for the tenant's, or the default one.
        centre_prompts: of erase: the prompts that are left are moved to mean zero (see `pfm.forgetting.centring`).
    """

    classes: tuple[str, ...]
    request_id: str
    reason: str = ""
    requested_by: str = ""
    profile: str | None = None
    centre_prompts: bool = False


class ChangeRoutes:
    """`/v1/models/…`."""

    def __init__(self, service: Service, changer: Changer) -> None:
        self._service = service
        self._changer = changer

    def add_to(self, app: FastAPI) -> None:
        """Register them."""
        post = partial(app.add_api_route, methods=["POST"], tags=["pfm"], openapi_extra=CHANGE)
        post("/v1/models/{model}/erase", self.erase, summary="Erase classes for good")
        post("/v1/models/{model}/suspend", self.suspend, summary="Leave classes out of a profile")
        post("/v1/models/{model}/restore", self.restore, summary="Undo a suspension")

    async def erase(self, model: str, request: Request) -> Response:
        """The classes are gone from the bundle's files, for all tenants; the answer has the certificate.

        Any request that starts after the answer is answered without them. This cannot be undone. With
        `centre_prompts` the prompts that are left are moved to mean zero, so that their sum says nothing of what went;
        some answers about other classes change.
        """
        return await self._change(model, request, Right.ERASE)

    async def suspend(self, model: str, request: Request) -> Response:
        """The classes are left out of the answers for a profile; no byte of them is removed."""
        return await self._change(model, request, Right.SUSPEND)

    async def restore(self, model: str, request: Request) -> Response:
        """The classes are answered again for a profile."""
        return await self._change(model, request, Right.RESTORE)

    async def _change(
        self,
        name: str,
        request: Request,
        right: Right,
    ) -> Response:
        note_of(request).route = right.value
        tenant = self._service.admit(request, right)
        model = self._service.model(request, name)
        require_json(request)
        require_query(request)
        change = read_change(await request.body())
        if change.centre_prompts and right is not Right.ERASE:
            raise bad_request("centre_prompts is of erase alone")
        profile = None if right is Right.ERASE else tenant.profile_for(change.profile)
        asked = Asked(
            who=tenant.tag, id=change.request_id, action=right.value, model=model.name, classes=change.classes,
            profile=profile, reason=change.reason, requested_by=change.requested_by,
            centre_prompts=change.centre_prompts,
        )  # fmt: skip
        answer = await self._service.change(partial(self._changer.carry_out, model, tenant, asked))
        return Response(as_json(answer), media_type=JSON)


def read_change(body: bytes) -> Change:
    """The body of a request.

    Raises:
        RefusedError: it does not say what it has to.
    """
    document = parse_document(body)
    odd = [name for name in document if name not in KNOWN]
    if odd:
        raise bad_request(f"no field {odd[0][:40]!r}; there are {', '.join(KNOWN)}")
    try:
        classes = fields.many(document["classes"], fields.text)
        told = {name: fields.text(document[name]) for name in TEXTS if name in document}
    except (KeyError, ValueError, TypeError) as error:
        raise bad_request(_FIELDS) from error
    centre = document.get("centre_prompts", False)
    if not isinstance(centre, bool):
        raise bad_request(_FIELDS)
    if not classes or any(len(text) > LONGEST for text in (*told.values(), *classes)):
        raise bad_request(f"name one class at least; a text has {LONGEST} characters at most")
    return Change(classes=classes, centre_prompts=centre, **{"request_id": secrets.token_hex(8), **told})
