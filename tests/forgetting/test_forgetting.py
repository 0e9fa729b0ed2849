"""Erasing: what is gone is gone from every byte, what stays is bit-identical."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from making.models import tiny_model, tiny_spec
from pfm.data.images import ImagePreprocess
from pfm.errors import ClassNameError, ConfigError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.artifacts import Request
from pfm.forgetting.erase import erase
from pfm.forgetting.files import erase_file, erased_path
from pfm.forgetting.suspend import active_positions
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, snapshot
from pfm.model.classifier import BANK, class_row_names

INPUTS = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["cls", "prompt"])
def state(request: pytest.FixtureRequest) -> Checkpoint:
    """A model with moments in its optimizer."""
    model = tiny_model(readout=request.param)
    optimizer = torch.optim.Adam(model.trained_tensors().values())
    for _ in range(2):
        logits = model.logits(INPUTS, torch.tensor([[0, 1, 2, 3]] * 5))
        (logits.square() * torch.tensor([1.0, 2.0, 3.0, 4.0])).mean().backward()
        optimizer.step()
    preprocess = ImagePreprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return snapshot(model, spec=tiny_spec(), preprocess=preprocess, lora=None, optimizer=optimizer)


def row_bytes(state: Checkpoint, position: int) -> list[bytes]:
    """The bytes of everything that belongs to one class: its rows, and the moments of its rows."""
    rows = [state.tensors[name][position] for name in class_row_names() if name in state.tensors]
    rows += [
        value[position] for name in class_row_names() for value in state.moments.get(name, {}).values() if value.ndim
    ]
    return [row.numpy().tobytes() for row in rows if row.numel() > 1]  # a bias is 4 bytes: too short to search


def test_an_erased_class_is_in_no_byte_of_the_file(state: Checkpoint, tmp_path: Path) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    save_checkpoint(source, state)
    erase_file(source, load_checkpoint(source), ["blue"], target)
    secrets = row_bytes(state, 2)
    assert len(secrets) == (6 if state.model.readout == "cls" else 3)
    before, after = source.read_bytes(), target.read_bytes()
    assert all(secret in before for secret in secrets)  # the control: the search can find them
    assert not any(secret in after for secret in secrets)
    half = [np.frombuffer(secret, np.float32).astype(np.float16).tobytes() for secret in secrets]
    assert not any(secret in after for secret in half)
    for kept in (0, 1, 3):
        assert state.tensors[BANK][kept].numpy().tobytes() in after


@torch.no_grad()
def test_what_stays_is_bit_identical_or_centred_and_answers_as_before(state: Checkpoint) -> None:
    model, smaller = state.build_model(), erase(state, ["blue", 0]).build_model()
    assert smaller.classes.names == ("green", "grey")
    assert smaller.classes.ids == (1, 3)
    kept = torch.tensor([1, 3])
    for name, tensor in smaller.state_dict().items():
        whole = model.state_dict()[name]
        if name in model.readout.class_rows:
            torch.testing.assert_close(tensor, whole[kept] - whole[kept].mean(dim=0), atol=1e-7, rtol=0)
        else:
            assert torch.equal(tensor, whole[kept] if name == BANK else whole)
    expected = model.logits(INPUTS, torch.tensor([[1, 3]] * 5))[:, kept]
    found = smaller.logits(INPUTS, torch.tensor([[0, 1]] * 5))
    # a matrix product of another width rounds differently; centring moves both logits by one number
    torch.testing.assert_close(found.softmax(dim=1), expected.softmax(dim=1), atol=1e-6, rtol=0)
    if not model.readout.class_rows:
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_all_moments_go(state: Checkpoint) -> None:
    """Gradients of a softmax sum to zero over the classes: those that are left would give the one that went."""
    assert state.moments
    assert erase(state, [2]).moments == {}


def test_an_erased_class_cannot_be_answered_or_named(state: Checkpoint) -> None:
    smaller = erase(state, ["blue"])
    with pytest.raises(ClassNameError, match="no class 'blue'"):
        erase(smaller, ["blue"])
    assert smaller.erased == ((2, "blue"),)
    assert erase(smaller, [3]).erased == ((2, "blue"), (3, "grey"))
    assert smaller.build_model().num_classes == 3


def test_the_last_class_is_not_erased(state: Checkpoint) -> None:
    with pytest.raises(ClassNameError, match="would leave no class"):
        erase(state, ["red", "green", "blue", "grey"])


def test_the_source_is_left_alone_and_the_record_says_what_happened(state: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    save_checkpoint(source, state)
    content = source.read_bytes()
    checkpoint = load_checkpoint(source)
    target = erased_path(source, checkpoint, [1, 2])
    assert target.name == "a_without_1-2.pt"
    record = erase_file(source, checkpoint, ["green", "blue"], target, request=Request("request 7", "ward 3"))
    assert source.read_bytes() == content
    assert record == ledger.read(tmp_path / "ledger.jsonl")[-1]
    assert [entry["name"] for entry in record["classes"]] == ["green", "blue"]
    assert (record["reason"], record["requested_by"]) == ("request 7", "ward 3")
    assert any("shared weights" in remark for remark in record["remains"])
    assert json.dumps(record)


def test_the_source_itself_is_no_target(state: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    save_checkpoint(source, state)
    with pytest.raises(ConfigError, match="is the source itself"):
        erase_file(source, load_checkpoint(source), ["blue"], source)
    assert load_checkpoint(source).classes == state.classes


def test_an_existing_file_is_not_overwritten_and_a_broken_record_stops_the_erasure(
    state: Checkpoint, tmp_path: Path
) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    save_checkpoint(source, state)
    erase_file(source, load_checkpoint(source), ["blue"], target)
    content = target.read_bytes()
    with pytest.raises(StorageError, match="exists; choose another"):
        erase_file(source, load_checkpoint(source), ["red"], target)  # would bring blue back
    assert target.read_bytes() == content
    (tmp_path / "ledger.jsonl").write_text("{}\n")
    with pytest.raises(StorageError, match="line 1"):
        erase_file(source, load_checkpoint(source), ["red"], tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


def test_suspending_is_a_choice_of_active_positions() -> None:
    classes = tiny_model().classes
    assert active_positions(classes, ["green", 3]) == [0, 2]
    with pytest.raises(ClassNameError):
        active_positions(classes, ["red", "green", "blue", "grey"])
