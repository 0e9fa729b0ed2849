"""Centring: rows that every class has one of are moved together so that they sum to zero.

Gradients of a softmax sum to zero over the classes, so classifier rows keep, all together, about the sum they began
with: of all but one of them, that one follows. Moved by their mean, those that are left say nothing of it any more.
Each logit of a forward changes by the same number, so that probabilities stay; what compares logits of different
forwards (`infer_best`) can change.

Prompts are centred only where that is asked for. Minus the sum of those that are left is a prompt for "none of the
others", which an erased class is often answered with; of prompts that sum to zero there is none. They enter the
transformer, so that some answers change with them. Once centred, they are centred by every later erasure: the prompt
that goes would else be minus the sum of those that stay.

The mean is exact before it is rounded, so that the same rows give the same bytes on any machine.

Letters: C classes, D values of a row.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

CENTRED = ("classifier rows and biases of the classes that are left were centred to mean zero",)
CENTRED_PROMPTS = "prompts of the classes that are left were centred to mean zero, which changes some answers"
SUM_LEFT = (
    "minus the sum of the prompts that are left is a prompt for none of the others, with which an erased class may be "
    "answered, unless the model was trained with --decoys; pfm forget --centre_prompts takes it away, now or later, "
    "and changes some answers about other classes"
)


def centred(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Rows (C, ...) less their mean over the classes, of the same type."""
    if not len(rows):
        return rows.copy()
    wide = rows.astype(np.float64)
    columns = wide.reshape(len(rows), -1).T.tolist()  # (D, C)
    mean = np.array([math.fsum(column) / len(rows) for column in columns]).reshape(rows.shape[1:])
    return (wide - mean).astype(rows.dtype)


def sums_to_zero(rows: npt.NDArray[np.floating], eps: float = float(np.finfo(np.float32).eps)) -> bool:
    """Whether rows (C, ...) were centred: their sums over the classes are what rounding leaves; False of no values.

    Args:
        eps: of the type that they are stored in.
    """
    if not rows.size:
        return False
    wide = rows.astype(np.float64)
    return bool(np.abs(wide.sum(axis=0)).max() <= len(rows) * eps * np.abs(wide).max())


def centred_by_name(
    tensors: Mapping[str, npt.NDArray[np.float32]], kinds: tuple[str, ...]
) -> dict[str, npt.NDArray[np.float32]]:
    """A bank's tensors, `<kind>.<class>`, those of each of the `kinds` centred over the classes."""
    changed = dict(tensors)
    for kind in kinds:
        names = [name for name in tensors if name.rpartition(".")[0] == kind]
        if names:
            rows = centred(np.stack([np.asarray(tensors[name], np.float32) for name in names]))
            changed |= {name: np.asarray(row, np.float32) for name, row in zip(names, rows, strict=True)}
    return changed
