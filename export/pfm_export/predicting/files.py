"""The files that paths, folders, patterns and a list name, one after another: memory does not grow with them."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfm.data.dicom import ending_of
from pfm.errors import DataError

LIST = "-"  # stands for the names on standard input
MARK = "\ufeff"  # of UTF-8, at the start of a list that Windows wrote


def check_there(paths: Sequence[str]) -> None:
    """Refuse a name that is of nothing, before a model is loaded; patterns and lists are for `Search`.

    Raises:
        DataError: which.
    """
    for path in paths:
        if path != LIST and not glob.has_magic(path) and not os.path.exists(path):
            raise DataError(f"cannot read {path}: it is not there; correct the name, or give --skip_bad")


@dataclass
class Search:
    """What is looked for, and what was passed over.

    Attributes:
        endings: of the files that a folder is looked through for, in small letters.
        others: how many files of a folder have another ending, by that ending.
    """

    endings: tuple[str, ...]
    others: "Counter[str]" = field(default_factory=Counter[str])

    def files(self, paths: Sequence[str], listed: Iterable[str] = ()) -> Iterator[str]:
        """The files, in the order of the paths, those of a folder in the order of their names.

        A file that is named is taken whatever it is called, and whether it is there or not. What exists is never
        taken for a pattern.

        Args:
            paths: files, folders, patterns with *, ? or [], and `-` for `listed`. Where a pattern fits nothing, its
                brackets are taken for part of a name.
            listed: a file or folder a line.

        Raises:
            DataError: a pattern that fits nothing.
        """
        for path in paths:
            if path == LIST:
                for number, line in enumerate(listed):
                    name = line.rstrip("\r\n")
                    if name := name.removeprefix(MARK) if number == 0 else name:
                        yield from self._of(name)
            elif glob.has_magic(path) and not os.path.lexists(path):
                yield from self._matching(path)
            else:
                yield from self._of(path)

    def _matching(self, pattern: str) -> Iterator[str]:
        found = glob.glob(pattern, recursive=True) or glob.glob(pattern.replace("[", "[[]"), recursive=True)
        if not found:
            raise DataError(f"nothing fits {pattern}")
        for path in sorted(found):
            yield from self._of(path)

    def _of(self, path: str) -> Iterator[str]:
        if not os.path.isdir(path):
            yield path
            return
        for folder, folders, names in os.walk(path, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                ending = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    continue
                if ending not in self.endings:  # a DICOM file needs none
                    ending = ending_of(Path(folder, name))
                if ending in self.endings:
                    yield os.path.join(folder, name)
                else:
                    self.others[ending] += 1

    def note(self) -> str:
        """What was passed over, in words; "" where nothing was."""
        if not self.others:
            return ""
        kinds = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in self.others.most_common(5))
        return f"not looked at in folders: {kinds}" + (", …" if len(self.others) > 5 else "")
