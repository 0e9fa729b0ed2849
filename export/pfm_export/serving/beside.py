"""What else is in a bundle's folder and may hold its classes: an erasure of the bundle alone does not touch it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from pfm.classes import listed
from pfm.errors import NotLookedIntoError
from pfm.forgetting.artifacts import Verdict
from pfm.forgetting.artifacts.walk import Seen
from pfm_export.serving.artifacts import BUNDLE, look_at


def beside(folder: Path) -> list[Seen]:
    """Files and bundles in a bundle's folder, in any depth, that are not its own and are not known to be clean.

    A further name of one of its own files, on the same disk, counts too.

    Raises:
        StorageError: something cannot be read.
    """
    found = look_at([folder])
    own = next(seen for seen in found.seen.values() if seen.kind is BUNDLE and seen.path == folder.resolve())
    others = [_said(seen) for seen in found.seen.values() if seen is not own and seen.verdict is not Verdict.CLEAN]
    others += [Seen(part, None, Verdict.CLOSED, "left half written by a killed process") for part in found.parts]
    if found.other_names(own):
        others.append(Seen(own.path, own.kind, Verdict.CLOSED, "a file of it has another name on its disk"))
    return others


def _said(seen: Seen) -> Seen:
    how = seen.how or f"a {seen.kind.name if seen.kind else 'file'}, which holds classes of its own"
    return Seen(seen.path, seen.kind, Verdict.CLOSED, how)


def looked(folder: Path, seen: Sequence[Seen]) -> dict[str, dict[str, str]]:
    """The same for the record."""
    top = folder.resolve()
    names = {
        (entry.path.relative_to(top) if top in entry.path.parents else entry.path).as_posix(): entry.how
        for entry in seen
    }
    return {"not_looked_into": names} if names else {}


def require_nothing_beside(folder: Path, names: Sequence[str], left: Sequence[Seen]) -> None:
    """Say what may still hold classes that were erased from a bundle.

    Args:
        left: what was found beside it.

    Raises:
        NotLookedIntoError: there is something.
    """
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise NotLookedIntoError(
            f"{listed(names)}: erased from the bundle {folder}, but {left[0].path}{more} may hold it and was left "
            f"as it is ({left[0].how}); delete it, move it away, or erase from it too: "
            f"pfm forget --in_place {shlex.quote(str(folder))}"
        )
