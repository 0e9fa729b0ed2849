"""Text: logs, figures, configurations, records, certificates, keys. It names classes and holds none of their numbers.

A text can be written that does hold them: rows of numbers with signs, however they are laid out, or bytes written as
letters. Such a text is not taken for harmless. Small whole numbers without signs are: tables of pixels have those, and
so are pictures that a page has in it, if they are whole and nothing is behind their end.
"""

import base64
import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from pfm.errors import StorageError, explain
from pfm.forgetting.artifacts import endings
from pfm.forgetting.artifacts.harmless import PICTURE, Harmless
from pfm.forgetting.artifacts.kind import Look

_PIECE = 1 << 20
_OVERLAP = 1 << 13  # what is looked for shows itself in less
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")

# numbers one after another, as JSON, YAML, CSV, or what a program prints has them
_NUMBER = r"[-+]?\d{1,20}(?:\.\d{1,30})?(?:[eE][-+]?\d{1,4})?"
_GAP = r"(?:[\s,;:|=\[\](){}\"']|-\s){1,40}"  # a line of YAML begins with a dash
_NUMBERS = re.compile(rf"(?<![\w.+-]){_NUMBER}(?:{_GAP}{_NUMBER}){{31,}}")
_ONE = re.compile(_NUMBER)
LEAST_FRACTIONS = 32  # in a row, some of them negative: a prompt has more
LEAST_WHOLE = 64  # the same of whole numbers, which may be scaled, or the bits of a float
_DIGITS = 9  # that the bits of a float have at least, nearly always

# bytes as letters: in one long word, in lines of one word each, in groups of hexadecimal digits
_WORD = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_=-]{400,}")
_DENSE = re.compile(r"[^\s\"',:./\\\[\]]{400,}")
_LINES = re.compile(r"(?<![A-Za-z0-9+/_=-])(?:[A-Za-z0-9+/_=-]{32,399}(?:\\[rn]|[\s\"',]){1,20}){8,}")
_GROUPS = re.compile(r"\b(?:(?:0x)?[0-9A-Fa-f]{2,8}[\s,]{1,4}){128,}")
_DUMP = re.compile(r"(?:(?<=\n)[0-9A-Fa-f]{6,16}:?[ \t]+(?:[0-9A-Fa-f]{2,8}[ \t]+){8,16}[^\n]{0,40}\n){8,}")
_PICTURE = re.compile(r"data:image/[a-z]{1,8};base64,([A-Za-z0-9+/]*={0,2})")
_LONGEST_START = 40  # letters of an address before the picture itself
_MOST_PICTURE = 1 << 26  # letters of one
LEAST_LETTERS = 4  # that differ in such a word; a line of dashes has one
_MOST_LETTERS = 40  # fewer are in a word of some other writing


class Text(Harmless):
    """UTF-8 without control characters, rows of signed numbers, or bytes written as letters."""

    name = "text"

    def recognises(self, look: Look) -> bool:
        if _CONTROL.search(look.head.decode("utf-8", "ignore")) or look.members is not None:
            return False
        tail = "\n"
        try:
            for piece in _without_pictures(look.path):
                tail += piece
                if _CONTROL.search(tail) or may_hold_numbers(tail):
                    return False
                tail = tail[-_OVERLAP:]
        except UnicodeDecodeError:
            return False
        except OSError as error:
            raise StorageError(f"cannot read {look.path}: {explain(error)}") from error
        return True

    def how(self, look: Look) -> str:
        del look
        return "text, without numbers or bytes in it that could be a prompt"


def _without_pictures(path: Path) -> Iterator[str]:
    """A text piece by piece, without the pictures in it that are whole.

    Raises:
        UnicodeDecodeError, OSError: it is not UTF-8, or cannot be read.
    """
    decoder, held = codecs.getincrementaldecoder("utf-8")(), ""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            held += decoder.decode(piece)
            at = max(0, len(held) - _LONGEST_START)
            last = next((found for found in _PICTURE.finditer(held) if found.end() > at), None)
            if last is not None and len(held) - last.start() <= _MOST_PICTURE:
                at = min(at, last.start())  # it may go on in the next piece
            yield _PICTURE.sub(_or_nothing, held[:at])
            held = held[at:]
    yield _PICTURE.sub(_or_nothing, held + decoder.decode(b"", final=True))


def _or_nothing(found: re.Match[str]) -> str:
    """What stands there, and nothing for a picture."""
    try:
        content = base64.b64decode(found[1], validate=True)
    except ValueError:
        return found[0]
    ending = PICTURE.ending_of(content)
    return "" if ending is not None and endings.ends_itself(content, ending) else found[0]


def may_hold_numbers(text: str) -> bool:
    """Whether rows of a class could be written in a text."""
    return any(_is_row(match[0]) for match in _NUMBERS.finditer(text)) or any(_as_letters(text))


def _is_row(numbers: str) -> bool:
    found = _ONE.findall(numbers)
    fractions = [number for number in found if "." in number or "e" in number.lower()]
    whole = [number for number in found if number.lstrip("+-").isdecimal()]
    long = sum(len(number) >= _DIGITS for number in whole)
    return (
        (len(fractions) >= LEAST_FRACTIONS and any(number.startswith("-") for number in fractions))
        or (len(whole) >= LEAST_WHOLE and any(number.startswith("-") for number in whole))
        or long >= LEAST_WHOLE
    )


def _as_letters(text: str) -> Iterator[bool]:
    for pattern, least in ((_WORD, LEAST_LETTERS), (_LINES, LEAST_LETTERS), (_DENSE, _MOST_LETTERS)):
        yield any(len(set(match[0])) >= least for match in pattern.finditer(text))
    yield any(re.search("[a-fA-F]", match[0]) is not None for match in _GROUPS.finditer(text))
    yield _DUMP.search(text) is not None


TEXT = Text()
