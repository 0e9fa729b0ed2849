"""Answers as rows of a file: CSV for a spreadsheet, JSON lines for a program."""

import csv
import json
from collections.abc import Sequence
from typing import Protocol, TextIO

from pfm_export.predicting.pipeline import FileAnswer

DIGITS = 6  # of a probability


class Rows(Protocol):
    """Writes answers, one a line."""

    def write(self, answer: FileAnswer) -> None:
        """One row."""
        ...


class CsvRows:
    """`path,answer,unknown,p_<class>…`: `unknown` is the probability of that answer, which some models have.

    The columns are the classes that are active at the start; one that is erased meanwhile is left blank.
    """

    def __init__(self, file: TextIO, classes: Sequence[str]) -> None:
        self._classes = classes
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(["path", "answer", "unknown", *(f"p_{name}" for name in classes)])

    def write(self, answer: FileAnswer) -> None:
        values = _by_class(answer)
        self._writer.writerow(
            [answer.path, answer.label, _unknown(answer), *(values.get(name, "") for name in self._classes)]
        )


class JsonRows:
    """One object a line: `path`, `answer`, `unknown`, `active` and `probabilities` by the active classes' names."""

    def __init__(self, file: TextIO, classes: Sequence[str]) -> None:
        self._file = file

    def write(self, answer: FileAnswer) -> None:
        document = {
            "path": answer.path,
            "answer": answer.label,
            "unknown": _unknown(answer),
            "active": list(answer.classes),
            "probabilities": _by_class(answer),
        }
        self._file.write(json.dumps(document, ensure_ascii=False) + "\n")


def open_rows(format: str, file: TextIO, classes: Sequence[str]) -> Rows:
    """What writes rows of a format of `FORMATS`."""
    return CsvRows(file, classes) if format == "csv" else JsonRows(file, classes)


def _by_class(answer: FileAnswer) -> dict[str, float]:
    return {name: _short(float(p)) for name, p in zip(answer.classes, answer.probabilities, strict=True)}


def _unknown(answer: FileAnswer) -> float:
    """What the classes leave to `unknown`; what is only rounding is none."""
    rest = 1.0 - float(answer.probabilities.sum(dtype="float64"))
    return _short(rest) if rest > 1e-6 else 0.0


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
