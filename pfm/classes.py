"""The classes a model knows: a number and a name each, in order.

The number is the label in the data the model was trained on and stays with a class for good; the
*position* is the place among the classes that are still there, and moves when one is erased.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pfm.errors import ClassNameError


@dataclass(frozen=True)
class ClassList:
    """Classes in order.

    Attributes:
        ids: label of each class in the training data, ascending.
        names: name of each class, unique.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ClassNameError(f"{len(self.ids)} class numbers but {len(self.names)} names")
        for what, values in (("number", self.ids), ("name", self.names)):
            if len(set(values)) != len(values):
                twice = next(value for value in values if values.count(value) > 1)
                raise ClassNameError(f"the class {what} {twice!r} occurs twice; each class needs its own")

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "ClassList":
        return cls(ids=tuple(range(len(names))), names=tuple(str(name) for name in names))

    def __len__(self) -> int:
        return len(self.ids)

    def position(self, key: str | int) -> int:
        """Position of a class given by name or number; a name wins over a number.

        Raises:
            ClassNameError: no such class.
        """
        text = str(key).strip()
        position = self._find(text)
        if position is None:
            in_lower_case = {name.lower(): name for name in self.names}
            close = difflib.get_close_matches(text.lower(), in_lower_case, n=1, cutoff=0.5)
            hint = f"; did you mean {in_lower_case[close[0]]!r}?" if close else ""
            raise ClassNameError(f"no class {text!r}{hint} (classes: {self.describe()})")
        return position

    def _find(self, text: str) -> int | None:
        if text in self.names:
            return self.names.index(text)
        if text.isdecimal() and int(text) in self.ids:
            return self.ids.index(int(text))
        return None

    def positions(self, keys: Iterable[str | int]) -> list[int]:
        """Positions of several classes, ascending, each once.

        A name that holds commas, as MedMNIST has some, may come in the pieces that `split_names` makes of it.
        """
        pieces = [str(key).strip() for key in keys]
        in_pieces = [[piece.strip() for piece in name.split(",")] for name in self.names]
        found = set()
        while pieces:
            count = 1
            if self._find(pieces[0]) is None:
                count = next((len(name) for name in in_pieces if pieces[: len(name)] == name), 1)
            found.add(self.position(pieces[0]) if count == 1 else in_pieces.index(pieces[:count]))
            del pieces[:count]
        return sorted(found)

    def split_erased(
        self, keys: Iterable[str | int], erased: Sequence[tuple[int, str]]
    ) -> tuple[list[int], list[tuple[int, str]]]:
        """Positions of those of several classes that are still there, and number and name of those erased before.

        Raises:
            ClassNameError: a class that is neither.
        """
        ever = ClassList((*self.ids, *(i for i, _ in erased)), (*self.names, *(name for _, name in erased)))
        found = ever.positions(keys)
        present = [position for position in found if position < len(self)]
        return present, [(ever.ids[p], ever.names[p]) for p in found if p >= len(self)]

    def keep(self, positions: Iterable[int]) -> "ClassList":
        """The classes at these positions, in order."""
        kept = sorted(set(positions))
        return ClassList(ids=tuple(self.ids[p] for p in kept), names=tuple(self.names[p] for p in kept))

    def without(self, positions: Iterable[int]) -> "ClassList":
        removed = set(positions)
        return self.keep(p for p in range(len(self)) if p not in removed)

    def describe(self) -> str:
        return ", ".join(
            f"{i} {name}" if str(i) != name else name for i, name in zip(self.ids, self.names, strict=True)
        )


def split_names(text: str) -> list[str]:
    """`a, 3` -> `["a", "3"]`.

    Raises:
        ClassNameError: nothing is named.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ClassNameError("no class is named; give names or numbers, separated by commas")
    return names


def check_removal(classes: ClassList, positions: Sequence[int]) -> None:
    """Refuse to remove nothing, or everything.

    Raises:
        ClassNameError: no class would be left.
    """
    if not positions:
        raise ClassNameError("no class is named; give names or numbers, separated by commas")
    if len(positions) >= len(classes):
        raise ClassNameError(
            f"forgetting {', '.join(classes.names[p] for p in positions)} would leave no class; "
            "delete the file if the whole model is to go"
        )
