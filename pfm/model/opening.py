"""A torch file that may be anybody's, opened with nothing executed and memory bounded by the file's own size.

`torch.load(weights_only=True)` runs no code. It does unpack what an archive says it has, makes tensors of any size
over a storage of one number, and returns values of any type; so the archive is looked at before, and everything in
it after.
"""

import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from pfm.errors import CheckpointError, explain

MOST_VALUES = 1_000_000  # containers, numbers, strings and tensors in a file
DEEPEST = 64  # containers within containers
TENSORS = ("model_state_dict", "optimizer_state_dict", "ema_state_dict")  # where tensors of a checkpoint belong
MEMORY = "memory"  # what an exact readout keeps to forget with; `pfm.forgetting.solution` looks into it
# of a checkpoint: type, and whether it has to be there
FIELDS: Mapping[str, tuple[type | tuple[type, ...], bool]] = {
    "classes": (dict, True), "erased": (list, True), "preprocess": (dict, True), "backbone": (dict, True),
    "frozen_sha256": (str, True), "model": (dict, True), "lora": ((dict, type(None)), True), "seed": (int, True),
    "epoch": (int, True), "step": (int, True), "run": (dict, True), "model_state_dict": (dict, True),
    "optimizer_state_dict": (dict, True), "ema_state_dict": (dict, False), "progress": (dict, False),
    "ledger_head": (str, False), "start": (str, False), "init_key": (str, False),
    "unknown_below": ((int, float), False), "pfm": (str, True), "exact": (dict, False), MEMORY: (dict, False),
}  # fmt: skip


def open_torch_file(path: Path) -> Any:
    """What was saved: containers, numbers, strings, and whole tensors on the CPU.

    Raises:
        CheckpointError: it cannot be read, is not such a file, or claims more than it has.
    """
    if not path.is_file():  # a pipe would never end
        raise CheckpointError(f"{path} is not a file")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch finds odd in a file; it is read or refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {explain(error)}") from error
    except Exception as error:  # torch and zipfile raise a dozen kinds for a file that is not their own
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged; nothing in it was executed") from error
    for value in _values(path, content):
        if isinstance(value, torch.Tensor):
            _check_tensor(path, value)
    return content


def misfit(content: Mapping[str, Any]) -> str:
    """What field of a checkpoint is of another type than it has to be; "" where none is."""
    for name, (wanted, is_needed) in FIELDS.items():
        if name not in content and not is_needed:
            continue
        value = content.get(name)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            return f"{name} is {str(value)[:40]!r}"
    backbone = content["backbone"]
    if not isinstance(backbone.get("model_name"), str) or not isinstance(backbone.get("config"), dict):
        return "the backbone is not a name and a configuration"
    classes = content["classes"]
    ids, names = classes.get("ids"), classes.get("names")
    if not _are(ids, int) or not _are(names, str) or min(ids, default=0) < 0:
        return "classes are not numbers and names"
    for entry in content["erased"]:
        if not isinstance(entry, list | tuple) or [type(part) for part in cast("list[Any]", entry)] != [int, str]:
            return "erased is not a list of numbers and names"
    states = [content[TENSORS[0]], content.get(TENSORS[2], {}), *content[TENSORS[1]].values()]
    for state in states:
        if not isinstance(state, Mapping) or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor)
            for key, value in cast("Mapping[Any, Any]", state).items()
        ):
            return "a state is not one of tensors by name"
    return ""


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is kind for value in cast("list[Any]", values))


def hidden(path: Path) -> list[str]:
    """What a checkpoint has beside its trained tensors and plain values, and could hold a class in; a line each.

    Raises:
        CheckpointError: as `open_torch_file`.
    """
    content = open_torch_file(path)
    if not isinstance(content, dict):
        return ["it is not a dictionary"]
    fields = cast("dict[str, Any]", content)
    known = (*TENSORS, MEMORY) if fields.get("exact") else TENSORS
    inside = {id(tensor) for name in known for tensor in _tensors(path, fields.get(name))}
    storages = {tensor.untyped_storage().data_ptr() for tensor in _tensors(path, fields) if tensor.numel()}
    with zipfile.ZipFile(path) as archive:
        stored = [entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size]
        bytes_stored = sum(entry.file_size for entry in stored)
    bytes_held = sum(tensor.nbytes for tensor in _tensors(path, fields))
    found = [
        f"{name} has a tensor in it"
        for name, value in fields.items()
        if name not in known and any(id(tensor) not in inside for tensor in _tensors(path, value))
    ]
    if len(stored) != len(storages) or bytes_stored != bytes_held:
        found.append(f"it stores {bytes_stored} bytes of tensors, and its tensors have {bytes_held}")
    return found


def _check_archive(path: Path) -> None:
    """Refuse what would unpack to more than it is, and what has other bytes than were written.

    Raises:
        ValueError, BadZipFile: it would, or is not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it claims more than it has")
        if archive.testzip() is not None:  # torch does not look at the checksums that it writes
            raise ValueError("some of its bytes are others than were written")


def _check_tensor(path: Path, tensor: torch.Tensor) -> None:
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not is_plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path} is damaged: a tensor in it claims {tuple(tensor.shape)}, more than is stored")


def _tensors(path: Path, content: Any) -> list[torch.Tensor]:
    return [value for value in _values(path, content) if isinstance(value, torch.Tensor)]


def _values(path: Path, content: Any) -> Iterable[Any]:
    """Every value, however deep; what one list holds twice is counted twice, as whoever walks it later would.

    Raises:
        CheckpointError: there are too many, or they are nested too deeply.
    """
    left = MOST_VALUES
    stack = [(content, 0)]
    while stack:
        value, depth = stack.pop()
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise CheckpointError(f"{path} is not a checkpoint: its values are too many, or nested too deeply")
        if isinstance(value, Mapping):
            entries = cast("Mapping[Any, Any]", value)
            stack += [(entry, depth + 1) for pair in entries.items() for entry in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            stack += [(entry, depth + 1) for entry in cast("Iterable[Any]", value)]
        else:
            yield value
