"""What a table says of the files of a folder: `--table FILE`, or a metadata.csv beside the files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfm.data.config import DataConfig
from pfm.data.readers.csv_table import FileNames, TextTable, read_table
from pfm.data.readers.listing import FoundFile, Listing
from pfm.data.readers.roles import role_of
from pfm.errors import DataError

METADATA, FILE_NAME = "metadata.csv", "file_name"
LABEL_NAMES = ("label", "labels", "class", "target")
SPLIT = "split"


@dataclass
class FileFacts:
    """Values of columns by file.

    Attributes:
        where: the tables, to be named in errors.
        columns: names of the columns, but for that of the files.
        rows: by the file's name, its values by column.
        notes: for people.
        is_beside: a metadata.csv, which says something of every file beside it.
        split_column: that holds the split; "" where none does.
    """

    where: str = ""
    columns: tuple[str, ...] = ()
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_beside: bool = False
    split_column: str = ""

    def label_column(self, config: DataConfig) -> str:
        """The column of the labels; "" where there is none and none was asked for.

        Raises:
            DataError: the one that was asked for is not there, or there are several.
        """
        if config.label_column:
            if config.label_column not in self.columns:
                raise DataError(
                    f"{self.where or config.folder} has no column {config.label_column!r} "
                    f"(it has {', '.join(self.columns) or 'none'})"
                )
            return config.label_column
        found = [name for name in self.columns if name.lower() in LABEL_NAMES]
        if len(found) > 1:
            raise DataError(f"{self.where} has {len(found)} label columns ({', '.join(found)}); see --label_column")
        return found[0] if found else ""

    def values(self, files: Sequence[FoundFile], column: str) -> list[str]:
        """A column's value of each file; "" for a file of which the table says nothing."""
        return [self.rows.get(file.name, {}).get(column, "") for file in files]


def table_path(root: Path, config: DataConfig) -> Path:
    """Where `--table` is: the path as it is given, or in the folder."""
    path = Path(config.table).expanduser()
    return path if path.exists() or not (root / path).exists() else root / path


def read_facts(root: Path, listing: Listing, config: DataConfig) -> FileFacts:
    """What tables say of the files.

    Raises:
        DataError: a table that cannot be read, names files that are not there, or says two things of one file.
    """
    facts = FileFacts()
    if config.table:
        table = read_table(table_path(root, config))
        _add(facts, table, listing, config, folder="")
        named = config.split_column or next((name for name in facts.columns if name.lower() == SPLIT), "")
        if named and named not in facts.columns:
            raise DataError(f"{table.path} has no column {named!r} (it has {', '.join(facts.columns)})")
        facts.split_column = named
        return facts
    for folder in ("", *listing.called.values()):
        if (root / folder / METADATA).is_file():
            facts.is_beside = True
            _add(facts, read_table(root / folder / METADATA), listing, config, folder=folder)
    return facts


def split_roles(files: Sequence[FoundFile], facts: FileFacts) -> list[str]:
    """The role of each file's split: what the table says, or its folder.

    Raises:
        DataError: a file that is in no split.
    """
    if not facts.split_column:
        roles = [file.role for file in files]
        beside = next((file.name for file, role in zip(files, roles, strict=True) if not role), None)
        if beside is not None:
            raise DataError(
                f"{beside} is in no split; leave its folder out with --ignore, or say the split in {facts.where} "
                "(see --split_column)"
            )
        return roles
    found: list[str] = []
    for file, value in zip(files, facts.values(files, facts.split_column), strict=True):
        role = role_of(value.strip())
        if role is None:
            raise DataError(
                f"{facts.where}: the split of {file.name} is {value!r} in column {facts.split_column}; splits are "
                "called train, val or test"
            )
        found.append(role)
    return found


def _add(facts: FileFacts, table: TextTable, listing: Listing, config: DataConfig, *, folder: str) -> None:
    """Put a table's rows to the files of a folder that they are about."""
    inside = [file for file in listing.files if not folder or file.name.startswith(f"{folder}/")]
    find = FileNames(inside, folder)
    key = config.input_column
    if not key and (FILE_NAME in table.columns or facts.is_beside):
        key = FILE_NAME
    key = key or find.column(table)
    names = table.column(key, "--input_column")
    facts.where = f"{facts.where} and {table.path}" if facts.where else str(table.path)
    facts.notes += table.notes
    facts.columns += tuple(name for name in table.columns if name != key and name not in facts.columns)
    missing: list[tuple[str, int]] = []
    before = len(facts.rows)
    for value, row, line in zip(names, table.rows, table.lines, strict=True):
        file = find(value)
        if file is None:
            missing.append((value, line))
            continue
        said = dict(zip(table.columns, row, strict=True))
        known = facts.rows.setdefault(file.name, said)
        if known != said:
            raise DataError(f"{table.path}, line {line}: {value} stands in the table before, with other values")
    if missing:
        first, line = missing[0]
        text = f"{len(missing):,} files that {table.path} names are not there; first: {first} (line {line})"
        if not config.skip_bad:
            raise DataError(f"{text}; correct the table, or give --skip_bad")
        facts.notes.append(text)
    unnamed = [file.name for file in inside if file.name not in facts.rows]
    if facts.is_beside and unnamed and len(facts.rows) > before:
        raise DataError(
            f"{table.path} says nothing of {unnamed[0]}" + (f" and {len(unnamed) - 1:,} more" if unnamed[1:] else "")
        )
