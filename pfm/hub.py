"""The Hugging Face hub: files of a repository at one commit, quietly, and in one line what went wrong.

A branch is resolved to its commit once; whatever is read afterwards is read at that commit, so that a model or data
set is of one state of its repository, can be named in a checkpoint, and can be asked for again. What the client does
not check is checked here: that a file has the hash that the hub stated.
"""

import contextlib
import hashlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from pfm.errors import HubError
from pfm.storage import CANNOT_WRITE, sha256

COMMIT = re.compile(r"[0-9a-f]{40}")
_CONNECT_S = 5.0  # after which a hub that does not take the connection counts as out of reach


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a revision.

    Attributes:
        name: its hub id.
        revision: a branch, tag or commit; "" is the main branch.
        kind: "model" or "dataset".
    """

    name: str
    revision: str = ""
    kind: str = "model"


def find_file(repository: Repository, file: str) -> Path | None:
    """A file of a repository in the hub's cache, downloaded where it is not there yet; None where there is none.

    Raises:
        HubError: it cannot be had, or is not what the hub states.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, kind, revision = repository.name, repository.kind, repository.revision or None

    def is_known_missing() -> bool:
        return try_to_load_from_cache(name, file, repo_type=kind, revision=revision) is _CACHED_NO_EXIST

    try:
        if COMMIT.fullmatch(repository.revision) and is_known_missing():
            return None
        with quiet_hub():
            found = Path(hf_hub_download(name, file, repo_type=kind, revision=revision))
    except Exception as error:  # the client's own, those of its HTTP library, and the system's
        is_local = isinstance(error, LocalEntryNotFoundError)
        if isinstance(error, EntryNotFoundError) and (not is_local or is_known_missing()):
            return None
        raise HubError(reason(error, repository)) from error
    check_hash(found)
    return found


def find_commit(repository: Repository, file: str) -> str:
    """The commit that a revision stands for: as the hub says, or where it cannot be asked, as it said last.

    Args:
        file: that repositories of the kind have; it is downloaded.

    Raises:
        HubError: nobody knows.
    """
    if COMMIT.fullmatch(repository.revision):
        return repository.revision
    found = find_file(repository, file)
    if found is not None:
        return found.parent.name
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.file_download import repo_folder_name

    name, kind, revision = repository.name, repository.kind, repository.revision or constants.DEFAULT_REVISION
    try:
        with quiet_hub() as is_offline:
            if is_offline:
                folder = repo_folder_name(repo_id=name, repo_type=kind)
                known = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
                if not known.is_file():
                    raise OfflineModeIsEnabled(f"nothing is known of {name}")
                return known.read_text().strip()
            return HfApi().repo_info(name, repo_type=kind, revision=revision).sha or ""
    except Exception as error:
        raise HubError(reason(error, repository)) from error


def check_hash(path: Path) -> None:
    """A file of the hub's cache is what the hub stated; its name there is its hash, Git's or SHA-256.

    Raises:
        HubError: it is not.
    """
    blob = path.resolve()
    if not (path.is_symlink() and path.exists()):  # a cache on a file system without links does not say
        return
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        found = sha256(blob)
    elif COMMIT.fullmatch(blob.name):
        content = blob.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != blob.name:
        raise HubError(f"{path.name} does not have the checksum that the hub states; delete {blob} and try again")


def reason(error: BaseException, repository: Repository) -> str:
    """What went wrong, in a line: the first cause in an error's chain that says what a user can do."""
    from huggingface_hub import constants, errors

    chain = list(_chain(error))
    asked = f"{constants.ENDPOINT} " + ("(as HF_ENDPOINT says) " if os.environ.get("HF_ENDPOINT") else "")
    data = {"dataset": "data set"}.get(repository.kind, repository.kind)

    def one(*kinds: type[BaseException]) -> BaseException | None:
        return next((found for found in chain if isinstance(found, kinds)), None)

    if found := one(HubError):
        return str(found)
    system = next((found for found in chain if isinstance(found, OSError) and found.errno in CANNOT_WRITE), None)
    if system is not None:
        return (
            f"{system.strerror}: {system.filename or constants.HF_HOME} cannot be written to; free some space there, "
            "or set HF_HOME to another folder"
        )
    if one(errors.GatedRepoError):
        return (
            f"{repository.name} is gated: accept its terms on its page of the hub, then log in with `hf auth login` or "
            "set HF_TOKEN"
        )
    if one(errors.RevisionNotFoundError):
        return f"{repository.name} has no revision {repository.revision or constants.DEFAULT_REVISION!r} on the hub"
    if is_unknown(error):
        return f"{asked}has no {data} {repository.name}, or it is private (log in with `hf auth login` or set HF_TOKEN)"
    if one(errors.HFValidationError):
        return f"{repository.name} is neither a folder that is there nor a hub id (owner/name)"
    answered = one(errors.HfHubHTTPError)
    if isinstance(answered, errors.HfHubHTTPError) and not isinstance(answered, errors.EntryNotFoundError):
        status = answered.response.status_code
        said = answered.response.headers.get("X-Error-Message") or answered.response.reason_phrase
        hint = "check HF_TOKEN or log in anew" if status in (401, 403) else "try again later"
        return f"{asked}answers {status} ({said}); {hint}"
    if is_unasked(error):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{asked}cannot be reached"
        return f"it is not in the cache ({constants.HF_HUB_CACHE}), and the hub was not asked: {why}"
    if str(error).startswith("An error occurred"):  # as `datasets` says of anything
        error = chain[-1]
    text = " ".join(str(error).split()) or type(error).__name__
    if "Consistency check failed" in text or any(type(found).__module__.startswith("http") for found in chain):
        return f"the download broke off ({text.split('. ')[0].rstrip('.')[:120]}); try again"
    return text.split(". ")[0].rstrip(".")


def is_unasked(error: BaseException) -> bool:
    """Whether something is not in the cache, and the hub could not be asked."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    kinds = (LocalEntryNotFoundError, OfflineModeIsEnabled)
    return any(isinstance(found, kinds) or type(found) is ConnectionError for found in _chain(error))


def is_unknown(error: BaseException) -> bool:
    """Whether the hub says that it has no such repository, or none for somebody who did not log in."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    found = [one for one in _chain(error) if isinstance(one, HfHubHTTPError)]
    if any(isinstance(one, GatedRepoError) for one in found):
        return False
    return any(
        isinstance(one, RepositoryNotFoundError)
        # to a stranger; the client takes it as what it means only where the hub's address begins with https
        or (one.response.status_code == 401 and "credentials" not in one.response.headers.get("X-Error-Message", ""))
        for one in found
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of, also where a library hides it."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


@contextlib.contextmanager
def quiet_hub() -> Iterator[bool]:
    """Silence the hub client's remarks, and spare the user its minutes of retries where the hub is out of reach.

    Then the client works from its cache alone, as with HF_HUB_OFFLINE=1; the block is told whether.
    """
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, was_offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = was_offline or not _is_reachable(constants.ENDPOINT)
    try:
        yield constants.HF_HUB_OFFLINE
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = was_offline


def _is_reachable(endpoint: str) -> bool:
    """Whether the host takes a connection; behind a proxy that is the proxy's business."""
    names = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in names):
        return True
    url = urlparse(endpoint)
    try:
        with socket.create_connection((url.hostname, url.port or (80 if url.scheme == "http" else 443)), _CONNECT_S):
            return True
    except OSError:
        return False
