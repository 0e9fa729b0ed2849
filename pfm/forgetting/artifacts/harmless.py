"""Files that hold no tensor of a class, and can be told to from what they are."""

import struct
import zipfile
import zlib

from pfm.forgetting.artifacts.kind import ArtifactKind, Look, Verdict

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
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
    """PNG, JPEG, GIF, TIFF, WebP; one with an archive behind it is no picture."""

    name = "picture"

    def recognises(self, look: Look) -> bool:
        is_webp = look.head[:4] == b"RIFF" and look.head[8:12] == b"WEBP"
        return (look.head.startswith(_PICTURES) or is_webp) and look.members is None

    def how(self, look: Look) -> str:
        del look
        return "a picture; pictures are data, which an erasure does not delete"


class Sound(Harmless):
    """WAV, FLAC, OGG, MP3."""

    name = "sound"

    def recognises(self, look: Look) -> bool:
        is_wave = look.head[:4] == b"RIFF" and look.head[8:12] == b"WAVE"
        return (look.head.startswith(_SOUNDS) or is_wave) and look.members is None

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


def _dtype(archive: zipfile.ZipFile, member: str) -> str:
    """What an .npy file in an archive says of its numbers, as numpy writes it; nothing else of it is read."""
    with archive.open(member) as file:
        head = file.read(256)
    if head[:6] != b"\x93NUMPY":
        return ""
    return head.partition(b"'descr':")[2].partition(b"'")[2].partition(b"'")[0].decode("ascii", "replace")


EMPTY, PICTURE, SOUND, EVENTS, DATA = Empty(), Picture(), Sound(), Events(), Data()
