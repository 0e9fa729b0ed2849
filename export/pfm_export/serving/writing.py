"""The files of a new bundle."""

from collections.abc import Mapping
from pathlib import Path

from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER
from pfm.storage import Json, sha256_bytes, write_bytes
from pfm_export.serving.bank import BANK, Floats, pack
from pfm_export.serving.manifest import FORMAT, VERSION, write_manifest


def write_bundle(
    folder: Path,
    *,
    graphs: Mapping[str, bytes],
    others: Mapping[str, bytes] | None = None,
    bank: Mapping[str, Floats],
    manifest: Json,
) -> None:
    """Write the files of a new bundle; the manifest, which makes it one, comes last.

    Args:
        graphs: by file name.
        others: further files by name; no class may be named in them.
        manifest: what it says beside format, version and hashes.
    """
    files = {**graphs, **(others or {}), BANK: pack(bank)}
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_bytes(folder / LEDGER, b"")
    hashed = {name: {"sha256": sha256_bytes(content), "size_bytes": len(content)} for name, content in files.items()}
    write_manifest(
        folder, {"format": FORMAT, "version": VERSION, **manifest, "files": hashed, "ledger_head": ledger.START}
    )
