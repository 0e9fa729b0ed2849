"""The classes a model knows, and the one place that says which of them somebody means.

The number is the label in the data the model was trained on and stays with a class for good: `pfm show` prints it
as the class's position. The *position* in code is the place among the classes that are still there, and moves when
one is erased.

In Python a string is one class, by name, and an int is one class, by number: a string is never taken apart.
On a command line (`names_meant`) a name wins, and a number counts where no class can be meant by name.
"""

import difflib
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pfm.errors import ClassNameError

UNKNOWN = "unknown"  # the answer of a model that may say that it is none of the classes
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")
ClassKeys: TypeAlias = str | int | Iterable[str | int]  # one class or several: names and numbers


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
        """Position of a class: a string is its name, blanks included, and an int its number.

        Raises:
            ClassNameError: no such class.
        """
        (checked,) = class_keys([key])
        if not self.knows(checked):
            raise ClassNameError(f"no class {checked!r}{self._hint(checked)} (classes: {self.describe()})")
        return self.names.index(checked) if isinstance(checked, str) else self.ids.index(checked)

    def knows(self, key: str | int) -> bool:
        """Whether there is a class of this name or number."""
        (checked,) = class_keys([key])
        return checked in (self.names if isinstance(checked, str) else self.ids)

    def _hint(self, key: str | int) -> str:
        if isinstance(key, int):
            return ""
        if key in map(str, self.ids):
            return f"; a string is a name, so give a number as an int, {key}"
        return close_to(key, self.names)

    def positions(self, keys: "ClassKeys") -> list[int]:
        """Positions of one class or several, ascending, each once."""
        return sorted({self.position(key) for key in class_keys(keys)})

    def with_erased(self, erased: Iterable[tuple[int, str]]) -> "ClassList":
        """These classes, and behind them those erased from their file, by number and name."""
        ids, names = list(self.ids), list(self.names)
        for number, name in erased:
            if number not in ids and name not in names:
                ids.append(number)
                names.append(name)
        return ClassList(tuple(ids), tuple(names))

    def split_erased(
        self, keys: "ClassKeys", erased: Sequence[tuple[int, str]]
    ) -> tuple[list[int], list[tuple[int, str]]]:
        """Positions of those of several classes that are still there, and number and name of those erased before.

        Raises:
            ClassNameError: a class that is neither.
        """
        ever = self.with_erased(erased)
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
        each = zip(self.ids, self.names, strict=True)
        return ", ".join(f"{i} {listed([name])}" if str(i) != name else name for i, name in each)


def spelled(name: str) -> str:
    """A name, in quotes where blanks at its ends would not be seen."""
    return repr(name) if name != name.strip() or not name else name


def listed(names: Iterable[str]) -> str:
    """Names in a row, those that have a comma in quotes, since they would look like two."""
    return ", ".join(repr(name) if "," in name else spelled(name) for name in names)


def close_to(text: str, names: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing where no name is close."""
    in_lower_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(text.lower(), in_lower_case, n=1, cutoff=0.5)
    return f"; did you mean {in_lower_case[close[0]]!r}?" if close else ""


def class_keys(keys: ClassKeys) -> tuple[str | int, ...]:
    """What was given for classes, one key each: a string is one name and never a list of letters.

    Raises:
        ClassNameError: something that is neither a name nor a number.
    """
    if isinstance(keys, str | bytes | numbers.Integral):
        keys = [keys]  # type: ignore[list-item]  # checked below
    if not isinstance(keys, Iterable):
        raise ClassNameError(f"{keys!r} names no class; give a name, a number, or a list of them")
    found: list[str | int] = []
    for key in keys:
        if isinstance(key, str):
            found.append(str(key))
        elif isinstance(key, numbers.Integral) and not isinstance(key, bool):
            found.append(int(key))
        else:
            raise ClassNameError(f"{key!r} names no class; give a name (a string) or a number (an int)")
    return tuple(found)


# --- on the command line ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Typed:
    """What somebody typed for a class.

    Attributes:
        is_literal: it is a name, whatever it looks like.
    """

    text: str
    is_literal: bool = False


def split_names(text: str) -> list[str]:
    """`a, 3` -> `["a", "3"]`.

    Raises:
        ClassNameError: nothing is named.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ClassNameError("no class is named; give names, separated by commas")
    return names


def names_meant(typed: Iterable[Typed], known: Mapping[str, ClassList]) -> list[str]:
    """The names of the classes that were typed, each once.

    A name wins. A number counts only where no class has that name, none of the names looks like a number, and
    it stands for one and the same class everywhere. Parts that make up the name of one class are refused: `1,2` may be
    two classes, or the one that is called so.

    Args:
        known: classes of each artifact, those erased before included, by what to call it in an error.

    Raises:
        ClassNameError: nobody has such a class, the number stands for different ones, or a name was taken apart.
    """
    typed = list(typed)
    _check_whole([entry.text for entry in typed if not entry.is_literal], known)
    return list(dict.fromkeys(_name_meant(entry, known) for entry in typed))


def _check_whole(parts: Sequence[str], known: Mapping[str, ClassList]) -> None:
    """Refuse parts, one behind the other, of a name that has commas."""
    for name in dict.fromkeys(name for classes in known.values() for name in classes.names if "," in name):
        pieces = [piece.strip() for piece in name.split(",") if piece.strip()]
        size = len(pieces)
        if size > 1 and any(parts[at : at + size] == pieces for at in range(len(parts) - size + 1)):
            raise ClassNameError(
                f"{name!r} is the name of one class, and a list of classes is split at commas; name it with --class, "
                "or by its position where there is no such option; if several classes were meant, give them in another "
                "order"
            )


def _name_meant(typed: Typed, known: Mapping[str, ClassList]) -> str:
    text = typed.text
    if any(text in classes.names for classes in known.values()):
        return text
    is_number = _NUMBER.fullmatch(text) is not None and not typed.is_literal
    if is_number and any(name.isdecimal() for classes in known.values() for name in classes.names):
        raise ClassNameError(
            f"no class is called {text!r}, and where names are numbers a number is only ever a name "
            f"({_in_quotes(known)})"
        )
    found = {where: _at(int(text), classes) for where, classes in known.items()} if is_number else {}
    names = {name for name in found.values() if name is not None}
    if not names:
        every = list(dict.fromkeys(name for classes in known.values() for name in classes.names))
        each = {classes.describe() for classes in known.values()}
        raise ClassNameError(
            f"no class {text!r}{close_to(text, every)} (classes: {each.pop() if len(each) == 1 else ', '.join(every)})"
        )
    if len(set(found.values())) > 1:
        each = "; ".join(f"{'nothing' if name is None else repr(name)} in {where}" for where, name in found.items())
        raise ClassNameError(f"number {text} is not the same class everywhere ({each}); give its name")
    return names.pop()


def _at(number: int, classes: ClassList) -> str | None:
    return classes.names[classes.ids.index(number)] if number in classes.ids else None


def _in_quotes(known: Mapping[str, ClassList]) -> str:
    names = dict.fromkeys(name for classes in known.values() for name in classes.names)
    return "classes: " + ", ".join(repr(name) for name in names)


# --- what may not be --------------------------------------------------------------------------------


def check_unknown(classes: ClassList, *, has_answer: bool) -> None:
    """Refuse a class that is called like the answer `unknown` of its model.

    Raises:
        ClassNameError: nobody could tell the two apart.
    """
    if has_answer and UNKNOWN in classes.names:
        raise ClassNameError(
            f"a class is called {UNKNOWN!r}, which is also what this model answers when it is none of them; rename the "
            "class, or train without --wrong_target none and --abstain"
        )


def check_removal(classes: ClassList, positions: Sequence[int]) -> None:
    """Refuse to remove nothing, or everything.

    Raises:
        ClassNameError: no class would be left.
    """
    if not positions:
        raise ClassNameError("no class is named; name at least one")
    if len(positions) >= len(classes):
        raise ClassNameError(
            f"forgetting {listed(classes.names[p] for p in positions)} would leave no class; "
            "delete the file if the whole model is to go"
        )
