"""What is said of a file that no kind recognises: what it seems to be, and why that is not looked into."""

import tarfile

from pfm.forgetting.artifacts.harmless import EVENTS, PICTURE, SOUND
from pfm.forgetting.artifacts.kind import Look

_ARCHIVES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"(\xb5/\xfd", "a zstandard archive"),
    (b"\x04\x22M\x18", "an lz4 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"!<arch>\n", "an ar archive"),
    (b"hsqs", "a squashfs image"),
)
_TENSORS = (
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
)


def why_not(look: Look) -> str:
    """Why a file that nothing recognised is not looked into."""
    for magic, what in _ARCHIVES:
        if look.head.startswith(magic):
            if look.members and all(member.endswith(".npy") for member in look.members):
                return "numpy arrays (.npz), which may hold a class's numbers"
            return f"{what}, which is not opened"
    if look.head[257:262] == b"ustar" or _is_tar(look):
        return "a tar archive, which is not opened"
    if look.members is not None:
        return "a zip archive stands at its end, which is not opened"
    for kind, what in ((PICTURE, "a picture"), (SOUND, "a sound"), (EVENTS, "a TensorBoard log")):
        if kind.begins(look):
            return f"{what} that does not end where its file does, or breaks off"
    for magic, what in _TENSORS:
        if look.head.startswith(magic):
            return f"{what}, which may hold a class's numbers"
    if look.head[8:9] == b"{" and int.from_bytes(look.head[:8], "little") < look.size:
        return "tensors (safetensors) that belong to no bundle beside them"
    if look.head[:1] == b"\x80" and look.head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, which is not opened since that could run code"
    return "nothing tells what it is"


def _is_tar(look: Look) -> bool:
    """Old tar files have no magic; the checksum of their first header tells."""
    if len(look.head) < 512 or look.size % 512:
        return False
    try:
        tarfile.TarInfo.frombuf(look.head[:512], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True
