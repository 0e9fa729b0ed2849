"""Answers of items with a set each are those that each of them would get alone."""

import numpy as np
import pytest

from pfm.classes import ClassList
from pfm_export.serving.answers import Unknown, answers_of, answers_of_each

CLASSES = ClassList.from_names([f"c{number}" for number in range(20)])


@pytest.mark.parametrize("unknown", [Unknown(), Unknown(score=0.5), Unknown(below=0.3)])
def test_answers_of_different_sets_are_those_of_each_alone(unknown: Unknown) -> None:
    random = np.random.default_rng(0)
    actives = [tuple(sorted(random.permutation(20)[: random.integers(1, 20)].tolist())) for _ in range(50)]
    rows = [random.standard_normal(len(active)).astype(np.float32) for active in actives]
    for active, row, found in zip(
        actives, rows, answers_of_each(CLASSES, actives, rows, unknown, [None] * 50), strict=True
    ):
        alone = answers_of(CLASSES, active, row[None], unknown)
        assert (found.labels, found.classes) == (alone.labels, alone.classes)
        # padding moves where partial sums end
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-6)
        assert found.probabilities.shape == (1, len(active))
