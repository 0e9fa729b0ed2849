"""Who asks: a token stands for a profile, whose suspended classes are not there for it, and for what it may do.

A file of tokens holds their SHA-256 alone. It is read again when it changes, so that a token taken out of it is
refused from the next request on; while it cannot be read, everybody is refused.
"""

import enum
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pfm.errors import ConfigError, PfmError, StorageError
from pfm.storage import parse_json, read_ordinary
from pfm_export.service.logs import log_error
from pfm_export.service.refusals import RefusedError
from pfm_export.serving import fields

SHORTEST = 32  # characters of a token; whoever makes them up by hand uses fewer
SCHEME = "bearer "


class Right(enum.StrEnum):
    """What a token may do."""

    PREDICT = "predict"
    SUSPEND = "suspend"
    RESTORE = "restore"
    ERASE = "erase"
    METRICS = "metrics"


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """Who asks.

    Attributes:
        tag: for the log; says nothing of a person.
        rights: what is allowed.
        profile: whose suspended classes are left out.
        is_bound: no request of this tenant may name another profile.
        why_not: what to do where a right is missing.
    """

    tag: str
    rights: frozenset[Right]
    profile: str | None = None
    is_bound: bool = False
    why_not: str = "this token may not do that"

    def require(self, right: Right) -> None:
        """
        Raises:
            RefusedError: the right is missing.
        """
        if right not in self.rights:
            raise RefusedError(403, "forbidden", f"{self.why_not} ({right.value})")

    def profile_for(self, asked: str | None) -> str | None:
        """The profile that a request is answered with.

        Raises:
            RefusedError: it names one that is not the tenant's.
        """
        if not self.is_bound:
            return asked
        if asked not in (None, self.profile):
            raise RefusedError(403, "forbidden", "this token has a profile of its own, and no other")
        return self.profile


class Door(Protocol):
    """Lets tenants in."""

    def key(self, authorization: str) -> str:
        """What a tenant is found by, of the header `Authorization`; "" where there was none.

        Raises:
            RefusedError: it has no token.
        """
        ...

    def find(self, key: str) -> Tenant:
        """Who it is now.

        Raises:
            RefusedError: nobody that is known.
        """
        ...

    @property
    def is_whole(self) -> bool:
        """Whether it can tell anybody from others."""
        ...


class OpenDoor:
    """No token is asked for.

    Args:
        is_local: only this machine can reach the port; otherwise nothing can be changed.
    """

    def __init__(self, *, is_local: bool) -> None:
        rights = frozenset(Right) if is_local else frozenset({Right.PREDICT, Right.METRICS})
        self._anybody = Tenant(
            tag="-",
            rights=rights,
            why_not="where other machines reach the port, nothing can be changed without --tokens",
        )

    def key(self, authorization: str) -> str:
        return ""

    def find(self, key: str) -> Tenant:
        return self._anybody

    @property
    def is_whole(self) -> bool:
        return True


class TokenDoor:
    """Whoever has a token of a file.

    Args:
        path: `{"tokens": [{"sha256": …, "profile": …, "rights": [...]}]}`.

    Raises:
        ConfigError: it does not say what it has to.
        StorageError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = str(path)  # looked at for each request: no path is made of it
        self._seen = _stamp(path)
        self._failed: tuple[object, str] | None = None  # what was said of it last
        self._tenants = read_tokens(path)

    def key(self, authorization: str) -> str:
        """The token's SHA-256."""
        token = authorization[len(SCHEME) :].strip() if authorization.lower().startswith(SCHEME) else ""
        if not token:
            raise RefusedError(401, "token", "a token is needed: Authorization: Bearer …")
        if len(token) < SHORTEST:
            raise RefusedError(401, "token", f"a token has {SHORTEST} characters at least")
        return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()

    def find(self, key: str) -> Tenant:
        tenant = self._current().get(key)
        if tenant is None:
            raise RefusedError(401, "token", "this token is not known")
        return tenant

    @property
    def is_whole(self) -> bool:
        try:
            self._current()
        except RefusedError:
            return False
        return True

    def _current(self) -> Mapping[str, Tenant]:
        seen = None
        try:
            if (seen := _stamp(self._place)) != self._seen:
                self._tenants, self._seen = read_tokens(self._path), seen
        except PfmError as error:
            if self._failed != (seen, str(error)):  # once for each state of it
                self._failed = seen, str(error)
                log_error("tokens", error)
            raise RefusedError(503, "tokens", "the file of tokens cannot be read") from error
        return self._tenants


def read_tokens(path: Path) -> dict[str, Tenant]:
    """Tenants by the SHA-256 of their token.

    Raises:
        ConfigError: the file does not say what it has to.
        StorageError: it cannot be read.
    """
    try:
        entries = fields.many(fields.mapping(parse_json(read_ordinary(path)))["tokens"], _entry)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--tokens {path} is not a file of tokens: {_said(error)}; it holds "
            '{"tokens": [{"sha256": "…", "profile": "…", "rights": ["predict"]}]}'
        ) from error
    found = dict(entries)
    if not found or len(found) != len(entries):
        raise ConfigError(f"--tokens {path} has {'a token twice' if found else 'no token'}")
    return found


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _entry(value: Any) -> tuple[str, Tenant]:
    entry = fields.mapping(value)
    odd = set(entry) - {"sha256", "profile", "rights", "name"}
    if odd:
        raise ValueError(f"an entry has no {min(odd)!r}")
    sha256 = fields.digest(entry["sha256"] or None)
    rights = fields.many(entry["rights"], lambda right: fields.one_of(right, {each.value: each for each in Right}))
    profile = fields.text(entry["profile"])
    return sha256, Tenant(tag=sha256[:8], rights=frozenset(rights), profile=profile, is_bound=True)


def _stamp(path: Path | str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return status.st_ino, status.st_mtime_ns, status.st_size
