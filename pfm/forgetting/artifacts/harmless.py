"""Files that hold no tensor of a class, and can be told to from what they are."""

from collections.abc import Mapping
from typing import ClassVar

from pfm.forgetting.artifacts import endings
from pfm.forgetting.artifacts.endings import Ending
from pfm.forgetting.artifacts.kind import ArtifactKind, Look, Verdict

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


class Headed(Harmless):
    """A kind that its head tells, if nothing stands behind its end.

    Attributes:
        heads: how files of it begin, and how their end is found; of RIFF, what it is of stands at the ninth byte.
    """

    heads: ClassVar[Mapping[bytes, Ending]]

    def begins(self, look: Look) -> Ending | None:
        """How the end of a file is found that begins like this kind; None for others."""
        return self.ending_of(look.head)

    def ending_of(self, start: bytes) -> Ending | None:
        """The same of how a content starts."""
        form = start[:4] + b"...." + start[8:12]
        return next((end for head, end in self.heads.items() if start.startswith(head) or form == head), None)

    def recognises(self, look: Look) -> bool:
        ending = self.begins(look)
        return ending is not None and look.members is None and endings.is_whole(look.path, ending)


class Picture(Headed):
    """PNG, JPEG, GIF, TIFF, WebP."""

    name = "picture"
    heads: ClassVar[Mapping[bytes, Ending]] = {
        b"\x89PNG\r\n\x1a\n": endings.png_end,
        b"\xff\xd8\xff": endings.jpeg_end,
        b"GIF87a": endings.gif_end,
        b"GIF89a": endings.gif_end,
        b"II*\x00": endings.tiff_end,
        b"MM\x00*": endings.tiff_end,
        b"RIFF....WEBP": endings.riff_end,
    }

    def how(self, look: Look) -> str:
        del look
        return "a picture; pictures are data, which an erasure does not delete"


class Sound(Headed):
    """WAV, FLAC, OGG, MP3."""

    name = "sound"
    heads: ClassVar[Mapping[bytes, Ending]] = {
        b"fLaC": endings.flac_end,
        b"OggS": endings.ogg_end,
        b"ID3": endings.mp3_end,
        **{b"\xff" + second: endings.mp3_end for second in (b"\xfb", b"\xfa", b"\xf3", b"\xf2", b"\xe3", b"\xe2")},
        b"RIFF....WAVE": endings.riff_end,
    }

    def how(self, look: Look) -> str:
        del look
        return "a sound; sounds are data, which an erasure does not delete"


class Events(Headed):
    """TensorBoard's log: records of a length, its checksum and an event, the first of which says so."""

    name = "tensorboard"

    def begins(self, look: Look) -> Ending | None:
        return endings.events_end if b"brain.Event:" in look.head[:64] else None

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
            return endings.has_only_members(look.path) and all(endings.whole_number_arrays(look.path))
        except endings.BROKEN:
            return False

    def how(self, look: Look) -> str:
        del look
        return "a data set of whole numbers; data is not deleted by an erasure"


EMPTY, PICTURE, SOUND, EVENTS, DATA = Empty(), Picture(), Sound(), Events(), Data()
