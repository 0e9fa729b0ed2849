"""A checkpoint as an ONNX graph whose input is the set of active classes, and its service without torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pfm_export.serving.session import PromptSession

__all__ = ["PromptSession"]


def __getattr__(name: str) -> Any:
    """Loads what it names only then, so that `import pfm_export` costs nothing."""
    if name in __all__:
        return getattr(importlib.import_module("pfm_export.serving.session"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
