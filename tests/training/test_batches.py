"""Batches as a step takes them: the same whatever the parts and the processes, and made no sooner than asked for."""

import pytest
import torch

from making.batches import CPU, IMAGES, LABELS, PREPROCESS, make_loader
from making.models import tiny_model
from pfm.data.config import AugmentConfig
from pfm.data.feed import Feed
from pfm.device import Processes
from pfm.model.trunk_cache import cache_trunk
from pfm.seeds import make_generator
from pfm.training.batches import Batch, Part
from pfm.training.shares import epoch_order

VARIED = AugmentConfig(shift=1, hflip=True)


def joined(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch in one piece."""
    parts = list(batch)
    assert len(parts) == batch.num_parts
    return {
        "inputs": torch.cat([part.inputs for part in parts]),
        "labels": torch.cat([part.labels for part in parts]),
        "mixed": torch.cat([part.presents[0] for part in parts]),
        "wrong": torch.cat([part.presents[1] for part in parts]),
        "row_keys": torch.cat([part.row_keys for part in parts], dim=1),
        "mean_shares": torch.cat([part.mean_shares for part in parts]),
    }


@pytest.mark.parametrize("part_size", [1, 2, 4])
def test_the_parts_of_a_batch_are_the_whole_one(part_size: int) -> None:
    whole = [joined(batch) for batch in make_loader(VARIED, global_batch=4).epoch(0)]
    parts = [joined(batch) for batch in make_loader(VARIED, global_batch=4, part_size=part_size).epoch(0)]
    assert [len(batch["labels"]) for batch in whole] == [4, 2]
    for one, other in zip(whole, parts, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_holds_its_examples_augmented_and_preprocessed() -> None:
    (batch,) = make_loader(VARIED).epoch(3)
    found = joined(batch)
    order = epoch_order(6, 1, 3)
    drawn = PREPROCESS.draw_augmentation(6, VARIED, make_generator(1, 3, 0, "augment"))
    assert torch.equal(found["inputs"], PREPROCESS(drawn(IMAGES[order])))
    assert torch.equal(found["labels"], LABELS[order])
    assert not torch.equal(found["inputs"], PREPROCESS(IMAGES[order]))


def test_processes_see_the_examples_of_one_with_the_same_prompts_keys_and_augmentation() -> None:
    alone = [joined(batch) for batch in make_loader(VARIED, global_batch=5).epoch(0)]
    both = [Processes(device=CPU, rank=rank, world_size=2) for rank in range(2)]
    shared = [[joined(b) for b in make_loader(VARIED, global_batch=5, processes=one).epoch(0)] for one in both]
    for number, whole in enumerate(alone):
        for rank in range(2):
            mine = shared[rank][number]
            count = int((mine["mean_shares"] > 0).sum())  # behind them what only fills up an uneven share
            for name, values in whole.items():
                own = values[:, rank::2] if name == "row_keys" else values[rank::2]
                assert torch.equal(mine[name][..., :count] if name == "row_keys" else mine[name][:count], own), name


def test_an_epoch_that_is_gone_on_with_leaves_out_what_was_seen() -> None:
    whole = [joined(batch) for batch in make_loader(VARIED, global_batch=2).epoch(1)]
    rest = [joined(batch) for batch in make_loader(VARIED, global_batch=2).epoch(1, first=2)]
    assert len(whole) == 3
    assert len(rest) == 1
    assert all(torch.equal(rest[0][name], whole[2][name]) for name in rest[0])


def test_a_part_is_not_read_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Feed.__call__

    def counting(self: Feed, index: torch.Tensor) -> torch.Tensor:
        read.append(len(index))
        return original(self, index)

    monkeypatch.setattr(Feed, "__call__", counting)
    (batch,) = make_loader(AugmentConfig(), part_size=2).epoch(0)
    assert read == []
    for number, part in enumerate(batch, start=1):
        assert isinstance(part, Part)
        assert read == [2] * number


def test_a_cached_trunk_stands_in_for_the_inputs() -> None:
    model = tiny_model(tune="prompts", prompt_layer=1)
    loader = make_loader(AugmentConfig())
    cache = cache_trunk(model, loader.examples.stored, "host", Processes(device=CPU), batch_size=4, name="train")
    (batch,) = make_loader(AugmentConfig(), part_size=4, tokens=cache).epoch(0)
    parts = list(batch)
    assert all(part.from_tokens for part in parts)
    tokens = torch.cat([part.inputs for part in parts])
    with torch.no_grad():
        torch.testing.assert_close(tokens, model.trunk(PREPROCESS(IMAGES[epoch_order(6, 1, 0)])))
