"""Pre-forgettable models: classifiers whose classes can be removed at run time.

What a notebook needs is here: a run from its options, data, checkpoints, erasure. Each is loaded when it is first asked
for, so that `import pfm` costs nothing. (`pfm.train` and `pfm.audit` are modules.)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pfm.data.config import DataConfig
    from pfm.data.loading import load_data
    from pfm.forgetting.erase import erase
    from pfm.model.checkpoint import load_checkpoint, save_checkpoint
    from pfm.training.config import RunConfig
    from pfm.training.run import train as run_training

__version__ = "0.1.0"

__all__ = ["DataConfig", "RunConfig", "erase", "load_checkpoint", "load_data", "run_training", "save_checkpoint"]

# name -> its module, and its name there
_HOMES = {
    "DataConfig": ("pfm.data.config", "DataConfig"),
    "RunConfig": ("pfm.training.config", "RunConfig"),
    "erase": ("pfm.forgetting.erase", "erase"),
    "load_checkpoint": ("pfm.model.checkpoint", "load_checkpoint"),
    "load_data": ("pfm.data.loading", "load_data"),
    "run_training": ("pfm.training.run", "train"),
    "save_checkpoint": ("pfm.model.checkpoint", "save_checkpoint"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
