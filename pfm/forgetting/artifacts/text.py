"""Text: logs, figures, configurations, records, certificates, keys. It names classes and holds none of their numbers.

A text can be written that does hold them: rows of numbers with signs, or a long word of base64. Such a text is not
taken for harmless.
"""

import codecs
import re

from pfm.errors import StorageError
from pfm.forgetting.artifacts.harmless import Harmless
from pfm.forgetting.artifacts.kind import Look
from pfm.storage import explain

_PIECE = 1 << 20
_OVERLAP = 1 << 12  # what is looked for is no longer
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_NUMBER = r"[-+]?\d{1,20}\.\d{1,30}(?:[eE][-+]?\d{1,4})?"
_ROW = re.compile(rf"(?:{_NUMBER}[\s,;\[\]]{{1,40}}){{15}}{_NUMBER}")
_WORD = re.compile(r"(?<!png;base64,)(?<!jpeg;base64,)(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{400,}")


class Text(Harmless):
    """UTF-8 without control characters, rows of signed fractions or long words."""

    name = "text"

    def recognises(self, look: Look) -> bool:
        if _CONTROL.search(look.head.decode("utf-8", "ignore")) or look.members is not None:
            return False
        decoder, tail = codecs.getincrementaldecoder("utf-8")(), ""
        try:
            with look.path.open("rb") as file:
                while piece := file.read(_PIECE):
                    tail += decoder.decode(piece)
                    if _CONTROL.search(tail) or _WORD.search(tail) or any("-" in row for row in _ROW.findall(tail)):
                        return False
                    tail = tail[-_OVERLAP:]
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        except OSError as error:
            raise StorageError(f"cannot read {look.path}: {explain(error)}") from error
        return True

    def how(self, look: Look) -> str:
        del look
        return "text, without rows of numbers that could be a prompt"


TEXT = Text()
