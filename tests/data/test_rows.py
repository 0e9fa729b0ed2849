"""Rows that are fetched when they are asked for behave as the tensor that they stand for."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from pfm.data.rows import Rows, join_rows, subset_rows
from pfm.data.store import Store
from pfm.errors import StorageError

WHOLE = torch.arange(60, dtype=torch.uint8).view(10, 3, 2)


class Counting:
    """Counts the rows that it hands out."""

    shape, dtype = WHOLE.shape, WHOLE.dtype

    def __init__(self) -> None:
        self.count = 0

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        self.count += len(index)
        return WHOLE[index]

    def batches(self, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
        return map(self.rows, indices)


USES = pytest.mark.parametrize(
    ("use", "fetched"),
    [
        (lambda rows: rows[torch.tensor([3, 1, 3])], 3),
        (lambda rows: rows[torch.arange(10) > 7], 2),
        (lambda rows: rows[[1, 2]], 2),
        (lambda rows: rows[4], 1),
        (lambda rows: rows[-1], 1),
        (lambda rows: rows[2:5].float(), 3),
        (lambda rows: rows[2:8][1:3][torch.tensor([0])], 1),
        (lambda rows: rows.split(4)[2].double(), 2),
        (lambda rows: rows.index_select(0, torch.tensor([5])), 1),
        (lambda rows: rows[:, 0], 10),
        (lambda rows: rows.permute(1, 0, 2).clone(), 10),
        (lambda rows: torch.cat([rows, rows]), 20),
        (lambda rows: rows.sum(), 10),
        (lambda rows: torch.from_numpy(rows.numpy()), 10),
        (lambda rows: torch.tensor(rows.tolist()), 10),
    ],
)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@USES
def test_whatever_is_done_with_rows_gives_what_a_tensor_gives(
    use: Callable[[torch.Tensor], torch.Tensor], fetched: int, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    source = Counting()
    rows = Rows(source)
    with mode():
        assert torch.equal(use(rows), use(WHOLE))
        assert torch.equal(use(Rows(source)), use(WHOLE))
    assert source.count == 2 * fetched


def test_a_subset_of_rows_fetches_nothing() -> None:
    source = Counting()
    part = subset_rows(Rows(source), torch.tensor([4, 2]))
    joined = join_rows([part, Rows(source)[7:8]])
    assert (joined.shape, joined.nbytes, source.count) == ((3, 3, 2), 18, 0)
    assert torch.equal(joined[:].clone(), WHOLE[[4, 2, 7]])


@pytest.mark.parametrize("where", ["host", "disk"])
def test_a_store_hands_out_what_was_written_to_whoever_opens_it(where: str, tmp_path: Path) -> None:
    store = Store.make((4, 3, 2), torch.float32, where, "a test", is_sparse=True)
    rows = np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    store.write(0, rows[0])
    store.write(3, rows[1][:1])  # shorter than others: the rest is zero
    other = Store.open(store.address, store.shape, torch.float32, where)
    found = other.rows(torch.tensor([3, 0, 1]))
    assert torch.equal(found[1], torch.from_numpy(rows[0]))
    assert found[0].tolist() == [rows[1][0].tolist(), [0, 0], [0, 0]]
    assert not found[2].any()
    index = [torch.tensor([0]), torch.tensor([3, 1]), torch.tensor([2])]
    assert [len(batch) for batch in other.batches(index, 2)] == [1, 2, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_fit_says_so_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"cannot reserve 1 MiB \(disk\) for a test: No space left.*TMPDIR"):
        Store.make((1, 2**20), torch.uint8, "disk", "a test")
