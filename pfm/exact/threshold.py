"""When to answer `unknown`, from the stored samples alone: each is asked of the solution that never saw it.

Of a ridge regression the answer that a sample gets from the fit without it follows from the fit with it (leave one out,
Allen's PRESS, 1974), class weights and penalty held as they are:

    h_i = w_c z_iᵀ A⁻¹ z_i        f_{-i}(z_i) = (f(z_i) - h_i y_i) / (1 - h_i)

The threshold is the quantile of the largest probability among these. It is a function of the samples that are there,
whichever order they came in, and no sample has to be held out for it.

Letters: N samples, C classes, P columns of the projection, E = P + 1 with the constant behind.
"""

import numpy as np

from pfm.errors import ConfigError
from pfm.exact.memory import Memory
from pfm.exact.recipe import SHARPNESS, Ints16
from pfm.exact.solve import factorised, one_thread, substituted_forward
from pfm.exact.sums import Doubles

AT_ONCE = 512  # samples; always as many, so that equal samples give equal bytes


def leave_one_out_threshold(memory: Memory, share: float) -> float:
    """The largest probability that a `share` of the stored samples stays under, all classes there.

    Raises:
        ConfigError: no samples are stored.
    """
    if memory.rows is None:
        raise ConfigError(
            f"--abstain with --memory {memory.keeps}: the threshold is a function of the samples; keep them, with "
            "--memory features"
        )
    recipe, counts = memory.recipe, memory.counts
    values, labels = _in_canonical_order(memory)
    weights = np.array([sum(counts) / (len(counts) * own) for own in counts])
    largest = np.empty(len(values))
    with one_thread():
        sums = map(memory.class_sums, memory.classes)
        factor, targets = factorised(sums, counts, width=recipe.width, alpha=recipe.alpha)
        halves = substituted_forward(factor, targets)  # (E, C)
        for start in range(0, len(values), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            rows = np.zeros((AT_ONCE, recipe.width + 1))
            own = memory.projection.project(values[part], recipe)
            rows[: len(own)] = own
            largest[part] = _largest(substituted_forward(factor, rows.T), halves, labels[part], weights)[: len(own)]
    return float(np.quantile(largest, share))


def _in_canonical_order(memory: Memory) -> tuple[Ints16, np.ndarray]:
    """Integers (N, D) and classes (N,), by class and then by the integers: ids have a key that is another each time."""
    rows = memory.rows
    assert rows is not None
    keys = np.ascontiguousarray(rows.values, ">i2").view(f"V{2 * rows.values.shape[1]}")[:, 0]
    order = sorted(range(len(rows)), key=lambda place: (rows.labels[place], keys[place].tobytes()))
    return rows.values[order], rows.labels[order]


def _largest(halves: Doubles, targets: Doubles, labels: np.ndarray, weights: Doubles) -> Doubles:
    """The largest probability of each sample, as a fit without it would answer.

    Args:
        halves: (E, n) L⁻¹ z of each.
        targets: (E, C) L⁻¹ B.
        labels: (m,) of the first m, at most n.
        weights: (C,).
    """
    count = len(labels)
    scores = (halves.T @ targets)[:count]  # (m, C)
    own = np.zeros_like(scores)
    own[np.arange(count), labels] = SHARPNESS
    leverage = weights[labels] * (halves * halves).sum(axis=0)[:count]
    without = (scores - leverage[:, None] * own) / np.maximum(1 - leverage, np.finfo(np.float64).eps)[:, None]
    shifted = np.exp(without - without.max(axis=1, keepdims=True))
    return shifted.max(axis=1) / shifted.sum(axis=1)
