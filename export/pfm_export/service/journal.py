"""What was answered to which request: one that comes again, after an answer that got lost, is not done again.

A request is announced before anything is changed and its answer kept behind it, so that after a crash in between the
same request completes what it began. One at a time, over all workers.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm.errors import ClassNameError, StorageError, explain
from pfm.forgetting.ledger import LOCK
from pfm.locks import locked
from pfm.storage import Json, parse_json, read_ordinary, write_bytes
from pfm_export.service.refusals import RefusedError


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A change that is asked for.

    Attributes:
        who: of the tenant; the ids of two tenants are apart.
        id: the client's own for it.
        action: "erase", "suspend" or "restore".
        model: by name.
        classes: names.
        profile: of suspend and restore.
        reason, requested_by: for the record; may differ where the request comes again.
        centre_prompts: of erase.
    """

    who: str
    id: str
    action: str
    model: str
    classes: tuple[str, ...]
    profile: str | None = None
    reason: str = ""
    requested_by: str = ""
    centre_prompts: bool = False

    @property
    def key(self) -> str:
        """A name for its file that says nothing."""
        return hashlib.sha256(f"{self.who}\n{self.id}".encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def digest(self) -> str:
        """Of what is asked."""
        centred = ["centre_prompts"] if self.centre_prompts else []
        what = [self.action, self.model, sorted(self.classes), self.profile, *centred]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """What is known of a request: that it was begun, or its answer."""

    asked: str
    answer: Json | None


class Journal:
    """Requests and answers in a folder that only its owner reads.

    Args:
        folder: made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def key_file(self) -> Path:
        """The key that certificates are signed with."""
        return self._folder / "signing.key"

    def certificate(self, asked: Asked) -> Path:
        """Where the certificate of a request is kept."""
        return self._folder / "certificates" / f"{asked.key}.json"

    def once(self, asked: Asked, check: Callable[[], None], act: Callable[[], Json]) -> Json:
        """The answer to a request, which is acted on where it has none yet.

        Args:
            check: refuses a request that was never begun.
            act: does it, or the rest of it, and answers.

        Raises:
            RefusedError: the id was used for something else.
            StorageError: the folder cannot be written.
        """
        path = self._folder / "requests" / f"{asked.key}.json"
        with self._alone():
            kept = _read(path)
            if kept is not None and kept.asked != asked.digest:
                raise RefusedError(409, "id", "this request_id was used for another request; each needs its own")
            if kept is not None and kept.answer is not None:
                return kept.answer
            if kept is None:
                check()
                _write(path, {"asked": asked.digest})
            try:
                answer = act()
            except ClassNameError:
                if kept is None:
                    path.unlink(missing_ok=True)  # nothing was changed
                raise
            _write(path, {"asked": asked.digest, "answer": answer})
            return answer

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        try:
            for folder in (self._folder, self._folder / "requests", self._folder / "certificates"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self._folder}: {explain(error)}; choose another --records") from error
        with locked(self._folder / LOCK):
            yield


def _read(path: Path) -> Kept | None:
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = parse_json(read_ordinary(path))
        return Kept(values["asked"], values.get("answer"))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is damaged; delete it where the request is not to come again") from error


def _write(path: Path, content: Json) -> None:
    write_bytes(path, json.dumps(content).encode(), is_private=True)
