"""Prompts that are centred at an erasure: their sum says nothing of the class, whatever is erased from later."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from making.bundles import make_bundle
from making.checkpoints import same_bytes, trained_state
from pfm.cli import pfm, run
from pfm.forgetting import ledger
from pfm.forgetting.centring import CENTRED_PROMPTS, SUM_LEFT, centred, sums_to_zero
from pfm.forgetting.erase import erase, prompts_are_centred
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.model.classifier import BANK
from pfm.storage import sha256_bytes
from pfm_export.erasing import BEFORE, CENTRED, ERASED, erase_everywhere
from pfm_export.graph.export import export_bundle
from pfm_export.serving import beside
from pfm_export.serving.artifacts import look_at
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession


def sum_of(prompts: np.ndarray) -> float:
    return float(np.abs(prompts.astype(np.float64).sum(axis=0)).max())


def bank_prompts(folder: Path) -> np.ndarray:
    bank = safetensors.numpy.load_file(folder / "bank.safetensors")
    return np.stack([tensor for name, tensor in sorted(bank.items()) if name.startswith("prompt.")])


@pytest.fixture(params=["cls", "prompt"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint with averages, and a bundle of other prompts, which are of two tokens."""
    state = trained_state(readout=request.param)
    make_bundle(tmp_path / "both" / "bundle", request.param, state.classes.names)
    save_checkpoint(tmp_path / "both" / "a.pt", state)
    return tmp_path / "both"


def test_rows_that_were_centred_are_told_from_others() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 1, 64)).astype(np.float32)
    assert not sums_to_zero(rows)
    assert sums_to_zero(centred(rows))
    assert not sums_to_zero(centred(rows)[1:])
    assert not sums_to_zero(rows[:, :0])
    assert sums_to_zero(centred(rows[:1]))  # one class alone: its prompt is zero


def test_the_sum_of_what_is_left_is_zero_in_a_checkpoint_its_averages_and_a_bundle(both: Path) -> None:
    before = load_checkpoint(both / "a.pt")
    _, outcomes = erase_everywhere([both], "blue", centre_prompts=True)
    assert {outcome.what for outcome in outcomes} == {ERASED}
    left = load_checkpoint(both / "a.pt")
    prompts = left.averaged[BANK].numpy()  # which is what an export takes
    assert sum_of(prompts) < 1e-6
    assert sum_of(left.tensors[BANK].numpy()) < 1e-6
    assert sum_of(bank_prompts(both / "bundle")) < 1e-6
    kept = before.averaged[BANK][[0, 1, 3]].numpy()
    assert np.allclose(prompts - prompts[0], kept - kept[0], atol=1e-6)  # moved together
    for place in (both, both / "bundle"):
        (record,) = [r for r in ledger.read(place / "ledger.jsonl") if r["action"] == "erase"]
        assert CENTRED_PROMPTS in record["changed"]
        assert SUM_LEFT not in record["remains"]


def test_by_default_prompts_stay_and_the_record_says_what_their_sum_is_good_for(both: Path) -> None:
    before = load_checkpoint(both / "a.pt").tensors[BANK][[0, 1, 3]]
    erase_everywhere([both], "blue")
    after = load_checkpoint(both / "a.pt")
    assert torch.equal(after.tensors[BANK], before)
    owns_rows = "classifier.weight" in after.tensors
    for place in (both, both / "bundle"):
        (record,) = [r for r in ledger.read(place / "ledger.jsonl") if r["action"] == "erase"]
        assert (SUM_LEFT in record["remains"]) != owns_rows


def test_once_centred_a_later_erasure_centres_again_or_the_one_that_goes_would_be_minus_the_sum(both: Path) -> None:
    erase_everywhere([both], "blue", centre_prompts=True)
    own = load_checkpoint(both / "a.pt").tensors[BANK][0].clone()  # red
    erase_everywhere([both], "red")  # nobody asked
    assert sum_of(bank_prompts(both / "bundle")) < 1e-6
    prompts = load_checkpoint(both / "a.pt").tensors[BANK].numpy()
    assert sum_of(prompts) < 1e-6
    assert np.abs(-prompts.sum(axis=0) - own.numpy()).max() > 0.1
    records = [r for r in ledger.read(both / "ledger.jsonl") if r["action"] == "erase"]
    assert all(CENTRED_PROMPTS in record["changed"] for record in records)
    again = erase(load_checkpoint(both / "a.pt"), ["grey"])  # as a value too
    assert prompts_are_centred(again)


def test_a_class_that_was_erased_before_leaves_prompts_that_can_be_centred_now(both: Path) -> None:
    erase_everywhere([both], "blue")
    _, outcomes = erase_everywhere([both], "blue", centre_prompts=True)
    assert {outcome.what for outcome in outcomes} == {CENTRED}
    assert sum_of(load_checkpoint(both / "a.pt").tensors[BANK].numpy()) < 1e-6
    assert sum_of(bank_prompts(both / "bundle")) < 1e-6
    assert Bundle.open(both / "bundle").held_again == ""
    whole = {path: path.read_bytes() for path in both.rglob("*") if path.is_file()}
    _, outcomes = erase_everywhere([both], "blue", centre_prompts=True)
    assert {outcome.what for outcome in outcomes} == {BEFORE}
    assert whole == {path: path.read_bytes() for path in both.rglob("*") if path.is_file()}


def test_a_backup_of_the_bank_is_centred_too_and_is_known_as_the_bundles_own_afterwards(both: Path) -> None:
    bundle = both / "bundle"
    shutil.copy(bundle / "bank.safetensors", bundle / "bank.safetensors.bak")
    erase_everywhere([bundle / "bank.safetensors.bak"], "blue", centre_prompts=True)  # it alone: as a killed one leaves
    found, outcomes = erase_everywhere([bundle], "blue", centre_prompts=True)
    assert found.closed == []
    assert sorted(outcome.what for outcome in outcomes) == [ERASED, BEFORE]
    assert (bundle / "bank.safetensors").read_bytes() == (bundle / "bank.safetensors.bak").read_bytes()


def test_what_has_no_prompts_is_not_centred() -> None:
    state = trained_state(readout="cls")
    none = dataclasses.replace(state, tensors={**state.tensors, BANK: state.tensors[BANK][:, :0]})
    assert not prompts_are_centred(none)


# --- the record, the certificate, the command -------------------------------------------------------


def key_of(certificate: Path) -> str:
    return json.loads(certificate.read_text())["public_key"]


def test_an_earlier_certificate_holds_over_a_later_erasure_that_centres(both: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    named = [str(both / "a.pt"), str(both / "bundle")]
    assert run(pfm, ["forget", "--class", "blue", "--in_place", *named, "--certificate", str(first)]) == 0
    forget = ["forget", "--class", "red", "--in_place", *named, "--centre_prompts"]
    assert run(pfm, [*forget, "--certificate", str(second), "--key", str(first.with_suffix(".key"))]) == 0
    verify = ["verify", str(first), *named, "--public_key", key_of(first)]
    assert run(pfm, verify) == 3  # nothing is broken, and whose the prompts are now, only the second one says
    assert run(pfm, [*verify, "--later", str(second)]) == 0
    assert run(pfm, ["verify", str(second), *named, "--public_key", key_of(second)]) == 0
    other = tmp_path / "other.json"  # by somebody else's key
    assert run(pfm, [*forget, "--certificate", str(other), "--key", str(tmp_path / "other.key")]) == 0
    assert run(pfm, [*verify, "--later", str(other)]) == 2
    # another class's prompt in place of one that is left, and whatever it takes to make the sum zero
    path = both / "a.pt"
    state, before = load_checkpoint(path), path.read_bytes()
    prompts = state.tensors[BANK].clone()
    prompts[0] += 1
    prompts[1] -= 1
    save_checkpoint(path, dataclasses.replace(state, tensors={**state.tensors, BANK: prompts}))
    sha = [sha256_bytes(content) for content in (before, path.read_bytes())]
    line = {"file": "a.pt", "prompts_centred": True, "sha256_before": sha[0], "sha256_after": sha[1]}
    ledger.append(both / "ledger.jsonl", {"action": "erase", "classes": [{"id": 9, "name": "x"}], "files": [line]})
    verify = ["verify", str(first), str(path), "--public_key", key_of(first)]
    assert run(pfm, verify) == 3
    assert run(pfm, [*verify, "--later", str(second)]) == 3
    entries = json.loads(second.read_text())["artifacts"]
    assert all(entry["content"]["prompts_centred"] is True for entry in entries)


def test_verify_looks_whether_the_prompts_still_sum_to_zero(
    both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, path = tmp_path / "c.json", both / "a.pt"
    forget = ["forget", "--class", "blue", "--in_place", str(path), "--certificate", str(certificate)]
    assert run(pfm, [*forget, "--centre_prompts"]) == 0
    # somebody moves the prompts, and writes a ledger line of an erasure that would lead there
    state = load_checkpoint(path)
    before = path.read_bytes()
    moved = dataclasses.replace(state, tensors={**state.tensors, BANK: state.tensors[BANK] + 1})
    save_checkpoint(path, moved)
    entry = {"file": "a.pt", "source": "a.pt", "prompts_centred": True}
    sha = [sha256_bytes(content) for content in (before, path.read_bytes())]
    line = {**entry, "sha256_before": sha[0], "sha256_after": sha[1]}
    ledger.append(both / "ledger.jsonl", {"action": "erase", "classes": [{"id": 9, "name": "x"}], "files": [line]})
    assert run(pfm, ["verify", str(certificate), str(path), "--public_key", key_of(certificate)]) == 2
    assert "do not sum to zero any more" in capsys.readouterr().out


def test_the_command_says_how_many_answers_change_or_that_the_sum_is_left(
    both: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owns_rows = "classifier.weight" in load_checkpoint(both / "a.pt").tensors
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(both / "a.pt")]) == 0
    assert (SUM_LEFT in capsys.readouterr().out) != owns_rows
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(both / "a.pt"), "--centre_prompts"]) == 0
    said = capsys.readouterr().out
    assert "% of 256 random inputs are answered otherwise than before the prompts were centred" in said
    assert SUM_LEFT not in said
    assert f"{CENTRED}  " in said
    assert run(pfm, ["forget", "--class", "red", "--ckpt", str(both / "a.pt"), "--out", str(both / "c.pt")]) == 0
    assert prompts_are_centred(load_checkpoint(both / "c.pt"))


@pytest.mark.slow(seconds=6)
def test_a_session_centres_as_the_command_does_and_looks_at_its_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trained_state(readout="prompt")
    export_bundle(state, tmp_path / "bundle")
    looks: list[Sequence[Path]] = []
    monkeypatch.setattr(beside, "look_at", lambda paths: looks.append(paths) or look_at(paths))
    session = PromptSession(tmp_path / "bundle", device="cpu")
    session.erase("blue", centre_prompts=True)
    assert len(looks) == 1
    assert Bundle.open(tmp_path / "bundle").prompts_centred
    # an export takes the averages, and both are centred by one routine, to the last bit
    smaller = erase(state, ["blue"], centre_prompts=True)
    assert np.array_equal(smaller.averaged[BANK].numpy(), bank_prompts(tmp_path / "bundle"))
    export_bundle(smaller, tmp_path / "other")
    assert Bundle.open(tmp_path / "other").prompts_centred


# --- killed at any moment ---------------------------------------------------------------------------


@pytest.mark.slow(seconds=10)
@pytest.mark.parametrize("renames", range(7))
def test_killed_at_any_moment_it_is_completed_to_the_same_bytes(
    both: Path, tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    other = tmp_path / "other"
    shutil.copytree(both, other)
    erase_everywhere([other], "blue", centre_prompts=True)
    real, left = os.replace, [renames]

    def replace(source: str, target: str) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with contextlib.suppress(Killed):
        erase_everywhere([both], "blue", centre_prompts=True)
    monkeypatch.setattr(os, "replace", real)
    erase_everywhere([both], "blue", centre_prompts=True)
    pair = [load_checkpoint(folder / "a.pt") for folder in (both, other)]
    assert same_bytes(*(dataclasses.replace(state, ledger_head="") for state in pair))
    assert (both / "bundle/bank.safetensors").read_bytes() == (other / "bundle/bank.safetensors").read_bytes()
