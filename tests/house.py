"""Counts that say how well the house is divided: `python tests/house.py` prints them, the architecture test holds them.

The question of the input kind, and of the readout, is to be answered by the object that knows; each file that asks it
by name is one more that a new kind or readout would have to touch.
"""

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "pfm": ROOT / "pfm",
    "pfm_export": ROOT / "export" / "pfm_export",
    "pfm_bench": ROOT / "bench" / "pfm_bench",
}
ASKS_INPUT_KIND = re.compile(
    r"\bis_audio\b|\bkind\s*[!=]=|\bkind['\"]\]\s*[!=]=|isinstance\([^)]*\b(?:Sound|Image)\w*(?:Form|Preprocess)\b"
)
ASKS_READOUT = re.compile(
    r"\breadout['\"]?\]?\s*[!=]=|\bwrong_target['\"]?\]?\s*[!=]=|\bhas_unknown\b|\bcopies_others\b"
)
ANY_DICT = re.compile(r"dict\[str, Any\]")
MOST_PARAMETERS = 8
MOST_LINES = 400


@dataclass(frozen=True)
class Counts:
    """What is counted, and at most how much of it there may be."""

    files_in_pfm: int
    longest_module: int
    ask_input_kind: tuple[str, ...]
    ask_readout: tuple[str, ...]
    many_parameters: tuple[str, ...]
    any_dicts: int

    LIMITS: ClassVar[dict[str, int]] = {
        "files_in_pfm": 14, "longest_module": MOST_LINES, "ask_input_kind": 6, "ask_readout": 6, "many_parameters": 3,
        "any_dicts": 60,
    }  # fmt: skip

    def numbers(self) -> dict[str, int]:
        return {name: len(value) if isinstance(value := getattr(self, name), tuple) else value for name in self.LIMITS}


@functools.cache
def parsed(text: str) -> ast.Module:
    """A module's tree."""
    return ast.parse(text)


@functools.cache
def sources() -> dict[str, str]:
    """Every module's text, by its path in the checkout."""
    paths = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def count() -> Counts:
    """Count it all."""
    found = sources()
    return Counts(
        files_in_pfm=len(list(PACKAGES["pfm"].glob("*.py"))),
        longest_module=max(text.count("\n") for text in found.values()),
        ask_input_kind=tuple(name for name, text in found.items() if ASKS_INPUT_KIND.search(_code(text))),
        ask_readout=tuple(name for name, text in found.items() if ASKS_READOUT.search(_code(text))),
        many_parameters=tuple(entry for name, text in found.items() for entry in _many_parameters(name, text)),
        any_dicts=sum(len(ANY_DICT.findall(text)) for text in found.values()),
    )


@functools.cache
def _code(text: str) -> str:
    """Without docstrings and comments, which may speak of anything."""
    return ast.unparse(parsed(text))


def _many_parameters(name: str, text: str) -> list[str]:
    result = []
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if sum(argument.arg not in ("self", "cls") for argument in arguments) > MOST_PARAMETERS:
                result.append(f"{name}:{node.name}")
    return result


def main() -> None:
    """Print the counts beside their limits."""
    found = count()
    for name, number in found.numbers().items():
        print(f"{name:<18}{number:>5}  (at most {Counts.LIMITS[name]})")
        value = getattr(found, name)
        if isinstance(value, tuple):
            print("".join(f"    {entry}\n" for entry in value), end="")
    long = [(text.count("\n"), name) for name, text in sources().items() if text.count("\n") > MOST_LINES]
    print("".join(f"    {name}: {lines} lines\n" for lines, name in long), end="")


if __name__ == "__main__":
    main()
