"""Around every request: what is refused unread, a bounded body, one line for an error, and a line in the log.

A request is refused that two servers in a row could read differently (a length and chunks), that is compressed (a few
bytes would become many), or that names another host where only this machine is served (a web page that points a name
of its own at this machine).
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pfm.storage import Json
from pfm_export.service.config import LOCALHOST, ServeConfig
from pfm_export.service.logs import log_all, log_error
from pfm_export.service.metrics import Metrics
from pfm_export.service.plain import Headers
from pfm_export.service.refusals import RefusedError, bad_request, too_busy, too_large, too_slow
from pfm_export.service.room import Held, Room
from pfm_export.service.tensors import as_json

NOTE = "pfm.note"  # in the scope of a request
BODIES_AT_ONCE = 16  # of the largest size, in memory together
JSON = "application/json"
ONCE = ("authorization", "content-type", "content-encoding", "inference-header-content-length", "origin")  # headers
QUIET = ("live", "ready")  # routes that are asked every few seconds
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)

Client = tuple[str, int] | None  # address and port


@dataclass
class Note:
    """What is known of a request so far, for log and metrics.

    Attributes:
        route: what was asked for, in a word.
        model: a name that the server knows.
        tag: of the tenant.
        active: classes that it was answered with.
        why: it was refused, in a word.
        held: of its body in memory.
        is_read: nothing of its body is left to come; else the connection ends with the answer.
    """

    id: str = field(default_factory=lambda: f"{random.getrandbits(64):016x}")
    route: str = ""
    model: str = ""
    tag: str = ""
    active: int = 0
    why: str = ""
    held: Held = field(default_factory=Held)
    is_read: bool = False


def note_of(request: Request) -> Note:
    """The note of a request that came through the guard."""
    return request.scope[NOTE]


class Guard:
    """The outermost layer of the application.

    Attributes:
        room: for bodies.
        is_closing: the server was told to stop; every connection ends with the answer that is next on it.
    """

    def __init__(self, app: ASGIApp, *, config: ServeConfig, metrics: Metrics) -> None:
        self._app = app
        self._config = config
        self._metrics = metrics
        self._is_local = config.is_local
        self.room = Room(BODIES_AT_ONCE * self._most)
        self.is_closing = False
        self.lane: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note, begun, status = Note(), time.monotonic(), 0
        scope[NOTE] = note

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                is_last = self.is_closing or not note.is_read  # of a body that was not read, the rest would follow
                more = ((b"connection", b"close"),) if is_last else ()
                own = (*HEADERS, (b"x-request-id", note.id.encode()), *more)
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            self.check(scope["headers"], note)
            await self._app(scope, self._bounded(receive, note, scope.get("client")), watched)
        except RefusedError as error:
            note.is_read = False  # whether or not something follows on this connection, it is not looked at
            if not status:
                await refused(error, note)(scope, receive, watched)
        except ClientDisconnect:
            note.why = "gone"
        except Exception as error:  # a bug of ours: the client gets a number, the log the place
            log_error("bug", error, request=note.id)
            note.why = "bug"
            if not status:
                await broken(note)(scope, receive, watched)
        finally:
            self.room.let_go(note.held)
            self.tell([(note, status, time.monotonic() - begun)])

    def tell(self, ended: Sequence[tuple[Note, int, float]]) -> None:
        """Count and log requests that have ended: each with its status and its seconds."""
        lines: list[Json] = []
        for note, status, seconds in ended:
            if note.why:
                self._metrics.refused(note.why)
            if note.route in QUIET:
                continue
            self._metrics.answered(
                model=note.model, route=note.route, status=status, seconds=seconds, active=note.active
            )  # fmt: skip
            lines.append({
                "request": note.id, "route": note.route, "model": note.model, "tenant": note.tag, "status": status,
                "ms": round(1000 * seconds, 2), "active": note.active, "why": note.why,
            })  # fmt: skip
        log_all("request", lines)
        self._metrics.catch_up()

    def whose(self, note: Note, client: Client) -> str:
        """By whom bodies are counted: the token; where none is asked for, the address that it comes from."""
        return note.tag if self._config.tokens is not None else client[0] if client else ""

    def check(self, given: Headers, note: Note) -> None:
        """Look at the headers of a request.

        Raises:
            RefusedError: they are enough to refuse it.
        """
        headers, names = headers_of(given), [name.lower() for name, _ in given]
        note.is_read = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        if "transfer-encoding" in headers and "content-length" in headers:
            raise bad_request("a request has a Content-Length or a Transfer-Encoding, not both")
        twice = next((name for name in ONCE if names.count(name.encode()) > 1), None)
        if twice is not None:
            raise bad_request(f"the header {twice} is there more than once")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "malformed", "compressed bodies are not taken; send it as it is")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            raise bad_request("the Content-Length is not a number")
        if int(length) > self._most:
            raise self._too_large()
        if self._is_local and not self._is_own(headers.get("host", "")):
            raise RefusedError(421, "host", "this server is for this machine; ask for it by a name of this machine")

    @property
    def _most(self) -> int:
        """Bytes of a body."""
        return self._config.max_mib << 20

    def _too_large(self) -> RefusedError:
        return too_large(f"the body has more than {self._config.max_mib} MiB (--max_mib)")

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name in (LOCALHOST, "127.0.0.1", "::1", self._config.host.lower())

    def _bounded(self, receive: Receive, note: Note, client: Client) -> Receive:
        """What hands out a body of bounded size, in bounded time."""
        until = asyncio.get_running_loop().time() + self._config.timeout

        async def bounded() -> Message:
            if note.is_read:  # from now on only the client's going away can come
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise too_slow() from error
            if message["type"] == "http.request":
                is_whole = not message.get("more_body", False)
                note.held.whose = note.held.whose or self.whose(note, client)
                has_room = self.room.add(note.held, len(message.get("body", b"")), is_whole=is_whole)
                if note.held.size > self._most:
                    raise self._too_large()
                if not has_room:
                    raise too_busy(1)
                note.is_read = is_whole
            return message

        return bounded


def headers_of(given: Headers) -> Mapping[str, str]:
    """By their names in lower case; of one that occurs several times, the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in given}


def require_json(request: Request) -> None:
    """Refuse a change that a form or script of another site could have sent from a user's browser.

    Raises:
        RefusedError: the body is not said to be JSON, or another site sends it.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise RefusedError(415, "malformed", f"the body is to be sent as {JSON}")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        raise RefusedError(403, "forbidden", "changes are not taken from pages of other sites")


def require_query(request: Request, *, once: Sequence[str] = (), often: Sequence[str] = ()) -> None:
    """Refuse what stands in an address and would change nothing: `?withuot=red` would be answered with all classes.

    Raises:
        RefusedError: a parameter that is not known, or one that cannot be there twice.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    known = (*often, *once)
    for name in names:
        if name not in known:
            raise bad_request(f"no parameter {name[:40]!r} in the address; known: {', '.join(known) or 'none'}")
        if name in once and names.count(name) > 1:
            raise bad_request(f"the parameter {name} is there more than once")


def refused(error: RefusedError, note: Note) -> Response:
    """The answer to a request that is refused."""
    note.why = error.why
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        as_json({"error": " ".join(str(error).split())}), status_code=error.status, media_type=JSON, headers=headers
    )


def broken(note: Note) -> Response:
    """The answer where a bug of ours stands in the way."""
    text = f"the server failed; its log has more under {note.id}"
    return Response(as_json({"error": text}), status_code=500, media_type=JSON)
