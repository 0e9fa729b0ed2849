"""Files of a bundle that are not what its manifest states: cut, missing, or others.

Bank, manifest and ledger vouch for each other, and `Bundle.open` compares them. The other files hold no class, so what
takes a class away goes on without them and names them; what serves or copies the bundle refuses it.
"""

import contextlib
from pathlib import Path

from pfm.errors import BundleError
from pfm.storage import sha256
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle

NOT_SERVED = "the bundle is not served until it is put back, or exported again"


def damaged_files(bundle: Bundle, *, but_graphs: bool = False) -> tuple[str, ...]:
    """A sentence on each file that is not there, or not what the manifest states.

    Args:
        but_graphs: leave out the graphs, whose bytes are compared when they are loaded.
    """
    left_out = {BANK, *(bundle.graph_hashes if but_graphs else ())}
    stated = {name: file.sha256 for name, file in bundle.stated.files.items() if name not in left_out}
    return tuple(said for name, expected in sorted(stated.items()) if (said := _said(bundle.folder / name, expected)))


def require_whole(bundle: Bundle) -> None:
    """Refuse to serve a bundle with such a file; its graphs are compared when they are loaded.

    Raises:
        BundleError: which.
    """
    for said in damaged_files(bundle, but_graphs=True):
        raise BundleError(f"{bundle.folder}: {said}; put it back, or export again")


def _said(path: Path, expected: str) -> str:
    found = ""
    with contextlib.suppress(OSError):
        if path.is_file():  # a pipe would never end
            found = sha256(path)
    if found == expected:
        return ""
    if found:
        return f"{path.name} was changed: it is not the file that the manifest states"
    return f"{path.name} {'cannot be read' if path.exists() else 'is missing'}"
