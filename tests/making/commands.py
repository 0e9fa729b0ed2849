"""Command lines of small runs, and refusals of `pfm`."""

import warnings
from pathlib import Path

import pytest

from pfm.cli import pfm, run


def train_arguments(dataset: str | Path, folder: Path, *more: str) -> list[str]:
    return [
        "train", "--dataset", str(dataset), "--model_name", "scratch:tiny", "--epochs", "2", "--lr", "0.01",
        "--save_dir", str(folder), "--cpu", *more,
    ]  # fmt: skip


def train_on_sounds(dataset: str | Path, folder: Path, *more: str) -> list[str]:
    return [*train_arguments(f"audiofolder:{dataset}", folder), "--model_name", "scratch:tiny_ast", *more]


# Python shows these to developers only
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


class Refuse:
    """Runs `pfm` with arguments it must refuse, and returns the one line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str | Path) -> str:
        self.capsys.readouterr()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            code = run(pfm, [str(argument) for argument in arguments])
        error = self.capsys.readouterr().err
        assert (code, len(error.splitlines())) == (2, 1), error
        assert error.startswith("pfm: ")
        assert error.endswith("\n")
        assert [str(one.message) for one in caught if not issubclass(one.category, HIDDEN)] == []
        return error
