"""What a request is refused with: a status of HTTP, a word for the metrics, and one line for the client."""

from pfm.errors import PfmError

UNKNOWN_CLASS = "class"


class RefusedError(PfmError):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        why: in a word, for the metrics.
        retry_after: seconds after which trying again makes sense; None where it does not.
    """

    def __init__(self, status: int, why: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.why = why
        self.retry_after = retry_after


def bad_request(message: str) -> RefusedError:
    """The client can put it right."""
    return RefusedError(400, "malformed", message)


def unknown_class(message: str) -> RefusedError:
    """A class that is not there, or not for this client."""
    return RefusedError(400, UNKNOWN_CLASS, message)


def too_large(message: str) -> RefusedError:
    """More than one request may have."""
    return RefusedError(413, "size", message)


def too_busy(seconds: float) -> RefusedError:
    """The queue is full.

    Args:
        seconds: until it should not be.
    """
    after = max(1, min(60, round(seconds + 0.5)))
    return RefusedError(429, "busy", f"too many requests wait; try again in {after} s", retry_after=after)


def too_slow() -> RefusedError:
    """A body was not there when it had to be."""
    return RefusedError(408, "slow", "the body did not come in time")


def too_late() -> RefusedError:
    """The deadline went by."""
    return RefusedError(504, "deadline", "the request was not answered in time")


def closing() -> RefusedError:
    """The server was told to stop."""
    return RefusedError(503, "closing", "the server is stopping", retry_after=1)
