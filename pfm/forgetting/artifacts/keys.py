"""Files of the keys that prompts started from (`--init_key`): a line a class, which goes with the class."""

from collections.abc import Sequence
from pathlib import Path

from pfm.classes import ClassList
from pfm.errors import ConfigError
from pfm.forgetting.artifacts.kind import Holding, HoldingKind, Left, Look, Rewritten, unreadable
from pfm.model.starts.keys import HEADING, Keys, keys_text, read_keys


class KeysKind(HoldingKind):
    """What `pfm.model.starts.keys` writes."""

    name = "keys"
    is_kept = False
    numbers_classes = False
    is_pointed_to = True

    def recognises(self, look: Look) -> bool:
        return look.head.startswith(f"{HEADING}\n".encode())

    def open(self, path: Path) -> Holding:
        return Holding(classes=ClassList.from_names(list(self._read(path))), still="")

    def left(self, path: Path, gone: Sequence[tuple[int, str]], *, centre_prompts: bool = False) -> list[Left]:
        del centre_prompts
        names = {name for _, name in gone}
        return [Left(name=name) for name in self._read(path) if name not in names]

    def rewrite(
        self, path: Path, classes: Sequence[tuple[int, str]], head: str, *, centre_prompts: bool = False
    ) -> Rewritten | None:
        del head, centre_prompts
        keys, names = self._read(path), {name for _, name in classes}
        if not names & set(keys):
            return None
        left = {name: key for name, key in keys.items() if name not in names}
        return Rewritten(content=keys_text(left).encode(), facts={"keys_removed": len(keys) - len(left)})

    def _read(self, path: Path) -> Keys:
        try:
            return read_keys(path)
        except ConfigError as error:
            raise unreadable(path, str(error)) from error


KEYS = KeysKind()
