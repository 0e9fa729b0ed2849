"""Inference past the framework, which is asked for everything else: it would take a fifth of the time of a request.

The address is in the interface all the same, and answered there as here where its version is named.
"""

import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pfm.errors import PfmError

_INFER = re.compile(r"/v2/models/([^/]+)/infer")


class Shortcut:
    """Hands requests for one address to their handler, and all others on.

    Args:
        app: takes the others.
        infer: answers for a model of that name.
        on_error: makes an answer of what is raised meanwhile, or raises it again.
    """

    def __init__(
        self,
        app: ASGIApp,
        infer: Callable[[str, Request], Awaitable[Response]],
        on_error: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._infer = infer
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _INFER.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if asked is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await self._infer(asked[1], request)
        except PfmError as error:
            answer = await self._on_error(request, error)
        await answer(scope, receive, send)
