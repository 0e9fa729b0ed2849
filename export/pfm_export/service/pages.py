"""Two pages for people: one to try a file and switch classes off, one that shows the interface; nothing from elsewhere.

What a browser may load and run is stated by the hashes of what is in the page, so that nothing that somebody smuggles
into it runs.
"""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import FastAPI, Request
from starlette.responses import Response

from pfm_export.service.guard import JSON, note_of
from pfm_export.service.service import Service
from pfm_export.service.tenants import Right
from pfm_export.service.tensors import as_json

_INLINE = {f"{tag}-src": re.compile(f"<{tag}>(.*?)</{tag}>", re.DOTALL) for tag in ("script", "style")}


class Pages:
    """`/`, `/docs`, and the list of models that the first of them needs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._page, self._interface = _Page("page.html"), _Page("interface.html")

    def add_to(self, app: FastAPI) -> None:
        """Register them."""
        app.add_api_route("/", self.page, methods=["GET"], include_in_schema=False)
        app.add_api_route("/docs", self.interface, methods=["GET"], include_in_schema=False)
        app.add_api_route("/v1/models", self.models, methods=["GET"], tags=["pfm"], summary="Names of the models")

    async def page(self, request: Request) -> Response:
        """To try a file."""
        note_of(request).route = "page"
        return self._page()

    async def interface(self, request: Request) -> Response:
        """What the interface is."""
        note_of(request).route = "page"
        return self._interface()

    async def models(self, request: Request) -> Response:
        """In the order in which they were named when the server was started."""
        note_of(request).route = "models"
        self._service.admit(request, Right.PREDICT)
        return Response(as_json({"models": list(self._service.models)}), media_type=JSON)


class _Page:
    """A page and what it may do."""

    def __init__(self, name: str) -> None:
        self._text = files("pfm_export.service").joinpath(name).read_text(encoding="utf-8")
        allowed = {what: " ".join(map(_hash, found.findall(self._text))) for what, found in _INLINE.items()}
        rules = {"default-src": "'none'", "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'"}
        policy = {**rules, **allowed, "frame-ancestors": "'none'"}
        self._headers = {
            "content-security-policy": "; ".join(f"{what} {value}" for what, value in policy.items()),
            "referrer-policy": "no-referrer",
        }

    def __call__(self) -> Response:
        return Response(self._text, media_type="text/html", headers=self._headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
