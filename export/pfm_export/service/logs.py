"""One JSON object a line on standard error: what happened, when, and how long it took; nothing of whom or what about.

No address, token, file name, class name or text of a client is written. A bug leaves the kind of error and the places
in the code, not its message, which may quote what came in.
"""

import datetime
import errno
import json
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType

from pfm.storage import JsonValue

MOST_PLACES = 6  # in the code, of an error


def log(event: str, **facts: JsonValue) -> None:
    """Write a line."""
    log_all(event, [facts])


def log_all(event: str, lines: Sequence[Mapping[str, JsonValue]]) -> None:
    """Write a line for each of several events, in one go."""
    if not lines:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    sys.stderr.write("".join(json.dumps({"time": now, "event": event, **facts}) + "\n" for facts in lines))
    sys.stderr.flush()


def log_error(event: str, error: BaseException, **facts: JsonValue) -> None:
    """Write a line about a bug of ours, or something that broke, with what the system said of it."""
    found = _system_error(error)
    said = {} if found is None else {"system": errno.errorcode.get(found.errno or 0, "")}
    log(event, error=type(error).__name__, **said, places=_places(error.__traceback__), **facts)


def system_reason(error: BaseException) -> str:
    """Why the system refused, such as "No space left on device", without the file's name; "" where it did not."""
    found = _system_error(error)
    return "" if found is None else found.strerror or ""


def _system_error(error: BaseException | None) -> OSError | None:
    """The error of the system that an error came of."""
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__cause__
    return error


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-MOST_PLACES:]
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]


class LogHandler(logging.Handler):
    """Takes what libraries log, as lines of the same kind; warnings and worse."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            log_error("library", record.exc_info[1], library=record.name)
        else:
            said = str(record.msg).partition("\n")[0]  # behind it, asyncio describes connections
            log("library", library=record.name, level=record.levelname.lower(), message=said[:200])


def capture_libraries() -> None:
    """Send what libraries log to the same place, for a server process."""
    root = logging.getLogger()
    root.handlers = [LogHandler()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
