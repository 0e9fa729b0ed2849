"""Labels that stand in file names, `name:{digit}_{speaker}_{n}`; and the endings of names by the kind of input."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from pfm.errors import ConfigError, DataError

# of the names of files that a folder is looked through for, in small letters
IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jpe", ".jfif", ".dib", ".ppm", ".pgm", ".pbm",
    ".pnm", ".jp2", ".j2k", ".tga", ".avif", ".dcm", ".dicom",
)  # fmt: skip
SOUND_ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".opus")

PREFIX = "name:"
_FIELD = re.compile(r"\{(\w*)\}")


class NamePattern:
    """What the parts of a file's name, its folder and ending left away, are called.

    Args:
        text: fields in braces, what stands between them as it is, such as `{digit}_{speaker}_{n}`.
        label: the field that is wanted: the label, or the group.
        flag: the option that the pattern came with.

    Raises:
        ConfigError: no fields, one twice, or none called `label`.
    """

    def __init__(self, text: str, label: str, flag: str = "--label_from") -> None:
        fields = _FIELD.findall(text)
        if not fields or not all(field.isidentifier() for field in fields) or len(set(fields)) < len(fields):
            raise ConfigError(
                f"{flag} name:{text} has no fields, or one twice; it looks like name:{{digit}}_{{speaker}}_{{n}}"
            )
        if label not in fields and flag == "--label_from":
            raise ConfigError(f"--label {label!r} is not a field of name:{text}; choose one of {', '.join(fields)}")
        if label not in fields:
            raise ConfigError(f"{flag} name:{text} has no field {{{label}}}, which says what is read off the name")
        parts = _FIELD.split(text)  # text, field, text, …, text
        pieces = [f"(?P<{part}>.+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts)]
        self._pattern = re.compile("".join(pieces))
        self.text, self.label, self.fields, self._flag = text, label, tuple(fields), flag

    def labels(self, paths: Sequence[str | None], field: str = "") -> list[str]:
        """The label of each file, or another field.

        Raises:
            DataError: a name that does not fit, or a file without one.
        """
        found = []
        for path in paths:
            match = self._pattern.fullmatch(PurePath(path).stem) if path else None
            if match is None:
                raise DataError(f"the file name {path!r} does not fit {self._flag} name:{self.text}")
            found.append(match[field or self.label])
        return found


def sorted_names(labels: set[str]) -> list[str]:
    """Class names in order: by number where all are numbers."""
    return sorted(labels, key=lambda name: (int(name), name)) if all(n.isdecimal() for n in labels) else sorted(labels)
