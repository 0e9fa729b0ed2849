"""What `pfm show` found, as a table for people."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pfm.classes import listed, spelled
from pfm.forgetting.artifacts.decoded import DECODED


def as_text(document: Any) -> str:
    """A document of `describe` as a table."""
    return "\n".join(_SHOWN[document["kind"]](document))


def _show_folder(document: Any) -> list[str]:
    lines = [f"folder  {document['path']}"]
    top = os.path.realpath(document["path"])
    for entry in document["artifacts"]:
        lines.append(f"  {entry['kind']:<10}  {_below(top, entry['path'])}: {_in_short(entry)}")
    lines += [
        f"  clean       {count} {'file' if count == 1 else 'files'}: {how}" for how, count in document["clean"].items()
    ]
    closed = document["not_looked_into"]
    return lines + [f"  not looked into  {_below(top, entry['path'])}: {entry['why']}" for entry in closed]


def _below(top: str, path: str) -> str:
    """A path as it is called in the folder; whole where a link led out of it."""
    return os.path.relpath(path, top) if Path(path).is_relative_to(top) else path


def _in_short(entry: Any) -> str:
    if "lines" in entry:
        return f"{len(entry['lines'])} lines"
    if "classes" not in entry:
        return entry["problem"]
    erased = f", erased: {listed(item['name'] for item in entry['erased'])}" if entry["erased"] else ""
    readout = f", readout {entry['readout']}" if "readout" in entry else ""
    return f"{len(entry['classes'])} classes{readout}, {_size(entry['size_bytes'])}{erased}"


def _show_decoded(document: Any) -> list[str]:
    return [*_heading(document), _row("of", document["of"]), _row("rows", f"{document['rows']:,}"),
            _row("holds", _in_short(document))]  # fmt: skip


def _show_checkpoint(document: Any) -> list[str]:
    backbone = document["backbone"]
    stored = [f"{document['numbers_stored']:,} numbers", *document["holds"]]
    return [
        *_heading(document),
        _row("written by", f"pfm {document['pfm']}" if document["pfm"] else "the paper's tool"),
        *_about_model(document),
        _row("backbone", f"{backbone['model_name'] or '?'}, {backbone['layers']} blocks of width "
                         f"{backbone['hidden_size']}, input {backbone['input']}"),
        _row("frozen", f"SHA-256 {backbone['frozen_sha256']}" if backbone["frozen_sha256"] else "nothing: all stored"),
        *_recipe(document["recipe"]),
        _row("stored", ", ".join(stored)),
        _row("resume", "possible" if document["can_be_resumed"] else "not possible"),
        *_ledger_rows(document["ledger"]),
        *[_row("note", note) for note in document["notes"]],
    ]  # fmt: skip


def _show_bundle(document: Any) -> list[str]:
    width = max(map(len, document["files"]))
    files = [
        f"{name:<{width}}  {_size(file['size_bytes']):>10}  SHA-256 {file['sha256']}"
        + ("" if file["is_as_stated"] else "  (NOT what the manifest states)")
        for name, file in document["files"].items()
    ]
    profiles = [f"{name} leaves out {listed(left_out) or 'nothing'}" for name, left_out in document["profiles"].items()]
    stated: Mapping[str, Any] = document["versions"] or {}
    versions = ", ".join(f"{name} {version}" for name, version in stated.items())
    return [
        *_heading(document),
        _row("written by", f"pfm {document['pfm'] or '?'}" + (f" ({versions})" if versions else "")),
        *_about_model(document),
        _row("precision", document["precision"]),
        _row("input", f"{document['input']['name']}, {' x '.join(map(str, document['input'].get('shape', [])))}"),
        *_recipe(document["recipe"]),
        *_rows("files", files),
        *_rows("profiles", profiles or ["none: nothing is suspended"]),
        *_ledger_rows(document["ledger"]),
    ]


def _show_ledger(document: Any) -> list[str]:
    return [*_heading(document), *_ledger_rows(document["lines"])]


def _heading(document: Any) -> list[str]:
    lines = [f"{document['kind']}  {document['path']}", _row("size", _size(document["size_bytes"]))]
    return [*lines, _row("SHA-256", document["sha256"])] if "sha256" in document else lines


def _about_model(document: Any) -> list[str]:
    classes = [f"{'position':>8}  name"]
    classes += [f"{item['position']:>8}  {spelled(item['name'])}" for item in document["classes"]]
    erased = [f"{item['position']} {listed([item['name']])}" for item in document["erased"]]
    below = document["unknown_below"]
    answer = f", `unknown` below a probability of {below:.3g}" if below else ""
    return [
        *_rows("classes", classes),
        _row("erased", ", ".join(erased) or "none"),
        _row("readout", f"{document['readout']}, target without the own prompt: {document['target']}{answer}"),
        *_rows("start", list(document["start"].values())),
        *_rows("exact", _exact(document["exact"])),
    ]


def _exact(found: Any) -> list[str]:
    if not found:
        return []
    kept = f"--memory {found['memory']}, {_size(found['memory_bytes'])}, of {found['samples']:,} samples"
    groups = f" in {found['groups']:,} groups" if found["groups"] else ""
    rows = "solved from what is there" if found["is_exact"] else "rows of a solution for more classes than are there"
    return [
        f"digest {found['digest']}",
        f"weights: {rows}",
        f"{kept}{groups}; personal data" if found["memory_bytes"] else kept,
    ]


def _recipe(recipe: Any) -> list[str]:
    return _rows("recipe", [", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)])


def _ledger_rows(lines: Any) -> list[str]:
    shown: list[str] = []
    for line in lines:
        names = listed(item["name"] for item in line["classes"])
        why = "".join(f", {label} {line[key]!r}" for key, label in (("reason", "reason"), ("requested_by", "by"))
                      if line[key])  # fmt: skip
        shown.append(f"line {line['line']}  {line['time']}  {line['action']} {names}{why}".rstrip())
    return _rows("ledger", shown or ["nothing is recorded"])


def _rows(title: str, values: Sequence[str]) -> list[str]:
    return [_row(title if number == 0 else "", value) for number, value in enumerate(values)]


def _row(title: str, value: str) -> str:
    return f"  {title:<10}  {value}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.1f} KiB"


_SHOWN = {
    "checkpoint": _show_checkpoint, "bundle": _show_bundle, "ledger": _show_ledger, "folder": _show_folder,
    DECODED.name: _show_decoded,
}  # fmt: skip
