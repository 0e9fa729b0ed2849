"""Files that hold no tensor of a class, and can be told to from what they are."""

import struct
import zipfile
import zlib

from pfm.errors import StorageError
from pfm.forgetting.artifacts.kind import ArtifactKind, Look, Verdict
from pfm.storage import explain

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_SOUNDS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3")
_WHOLE = ("|u1", "|i1", "|b1", "<u2", "<i2", "<i4", "<u4", "<i8", "<u8")
_SPLITS = ("train_", "val_", "test_")


class Harmless(ArtifactKind):
    """A kind that is clean."""

    verdict = Verdict.CLEAN


class Empty(Harmless):
    """Nothing."""

    name = "empty"

    def recognises(self, look: Look) -> bool:
        return look.size == 0

    def how(self, look: Look) -> str:
        del look
        return "it is empty"


class Picture(Harmless):
    """PNG, JPEG, GIF, TIFF, WebP; one with something behind it is not taken for a picture."""

    name = "picture"

    def recognises(self, look: Look) -> bool:
        if look.head.startswith(_PICTURES[0]) and _last(look, len(_PNG_END)) != _PNG_END:
            return False
        return (look.head.startswith(_PICTURES) or _is_riff(look, b"WEBP")) and look.members is None

    def how(self, look: Look) -> str:
        del look
        return "a picture; pictures are data, which an erasure does not delete"


class Sound(Harmless):
    """WAV, FLAC, OGG, MP3."""

    name = "sound"

    def recognises(self, look: Look) -> bool:
        return (look.head.startswith(_SOUNDS) or _is_riff(look, b"WAVE")) and look.members is None

    def how(self, look: Look) -> str:
        del look
        return "a sound; sounds are data, which an erasure does not delete"


class Events(Harmless):
    """TensorBoard's log: records of a length, its checksum and an event, the first of which says so."""

    name = "tensorboard"

    def recognises(self, look: Look) -> bool:
        return b"brain.Event:" in look.head[:64] and look.members is None

    def how(self, look: Look) -> str:
        del look
        return "a TensorBoard log, in which pfm writes figures only"


class Data(Harmless):
    """An .npz data set: whole numbers by split, as MedMNIST lays them out."""

    name = "data"

    def recognises(self, look: Look) -> bool:
        members = look.members
        if not members or not all(member.startswith(_SPLITS) and member.endswith(".npy") for member in members):
            return False
        try:
            with zipfile.ZipFile(look.path) as archive:
                return all(_dtype(archive, member) in _WHOLE for member in members)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, struct.error, zlib.error):
            return False

    def how(self, look: Look) -> str:
        del look
        return "a data set of whole numbers; data is not deleted by an erasure"


def _is_riff(look: Look, form: bytes) -> bool:
    """A RIFF file of a form, with nothing behind what its length covers."""
    stated = int.from_bytes(look.head[4:8], "little")
    return look.head[:4] == b"RIFF" and look.head[8:12] == form and (look.size <= stated + 9)


def _last(look: Look, count: int) -> bytes:
    try:
        with look.path.open("rb") as file:
            file.seek(max(0, look.size - count))
            return file.read()
    except OSError as error:
        raise StorageError(f"cannot read {look.path}: {explain(error)}; make it readable, or take it away") from error


def _dtype(archive: zipfile.ZipFile, member: str) -> str:
    """What an .npy file in an archive says of its numbers, as numpy writes it; nothing else of it is read."""
    with archive.open(member) as file:
        head = file.read(256)
    if head[:6] != b"\x93NUMPY":
        return ""
    return head.partition(b"'descr':")[2].partition(b"'")[2].partition(b"'")[0].decode("ascii", "replace")


EMPTY, PICTURE, SOUND, EVENTS, DATA = Empty(), Picture(), Sound(), Events(), Data()
