"""Threads take turns more often while something long runs, and as before once it is done."""

import sys

import pytest

from pfm_export.serving.switching import INTERVAL, quick_switches


def test_the_interval_is_put_back_by_the_last_one_out() -> None:
    before = sys.getswitchinterval()
    first, second = quick_switches(), quick_switches()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(INTERVAL)
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(before)
    with pytest.raises(RuntimeError), quick_switches():
        raise RuntimeError
    assert sys.getswitchinterval() == pytest.approx(before)
