"""Each model is traced once: what `torch.onnx.export` gave is kept, for all processes of a run, and for later runs.

A trace of a tiny model takes seconds, a bundle made of it milliseconds, and most tests of bundles are not about the
trace. A trace is that of another only where all it is made from is the same: the modules, what they are set to, every
weight, the inputs' shapes and names; and all our code and the libraries' versions, of which each state has a folder. A
test that is about tracing itself asks for the fixture `traced_anew`.
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import torch

# parameters, buffers and modules are looked at one by one; the threshold is for answers, a graph gives scores
ELSEWHERE = ("_parameters", "_buffers", "_modules", "unknown_below")


class Traces:
    """Stands in for `torch.onnx.export`, which it calls for what it has not seen yet.

    Args:
        folder: shared by the processes of a test run, and by later runs of the same code.
        export: `torch.onnx.export` itself.
        is_current: the code is still what the folder is for; what was edited since may be loaded or not, so that
            nothing is kept then.
    """

    def __init__(
        self, folder: Path, export: Callable[..., Any], *, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        self.folder = folder
        self.export = export
        self.is_current = is_current

    def __call__(self, model: torch.nn.Module, args: tuple[torch.Tensor, ...], **settings: Any) -> SimpleNamespace:
        path = self.folder / f"{fingerprint(model, args, settings)}.trace"
        if path.exists():
            return SimpleNamespace(model_proto=onnx.load_model_from_string(path.read_bytes()))
        content = self.export(model, args, **settings).model_proto.SerializeToString()
        if self.is_current():
            unfinished = path.with_suffix(f".{os.getpid()}")
            unfinished.write_bytes(content)
            unfinished.replace(path)
        return SimpleNamespace(model_proto=onnx.load_model_from_string(content))


def fingerprint(model: torch.nn.Module, args: tuple[torch.Tensor, ...], settings: dict[str, Any]) -> str:
    """Of all that a trace is made from; of the inputs the shapes and types, since their values leave no mark."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name}: {type(module)} {described(vars(module))}\n".encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}: {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    shapes = [(tensor.dtype, tuple(tensor.shape)) for tensor in args]
    digest.update(f"{shapes} {described(settings)}".encode())
    return digest.hexdigest()


def described(settings: dict[str, Any]) -> str:
    """What a module is set to, without the addresses of what it refers to; a configuration with all its entries."""
    entries = {}
    for name, value in sorted(settings.items()):
        if name in ELSEWHERE:
            continue
        inside = vars(value) if hasattr(value, "to_dict") else ""
        entries[name] = re.sub(r" at 0x[0-9a-f]+", "", f"{value!r} {inside}")
    return str(entries)
