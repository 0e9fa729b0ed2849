"""Runs whose classes start from a common row, from secret keys, or from the seed."""

import secrets
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from making.commands import Refuse, train_arguments
from making.images import coloured_images, write_npz
from making.launching import launch
from pfm.audit.comparisons.trained import recipe_of
from pfm.audit.comparisons.untrained import untrained
from pfm.audit.retraining import retrain
from pfm.cli import pfm, run
from pfm.data.config import DataConfig
from pfm.data.loading import load_data
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import BANK

ONCE = ("--epochs", "1", "--eval_every", "0", "--save_every", "0")
BUT_START = ("--lr", "0")  # what is saved is where it started


@pytest.fixture(autouse=True)
def _preset(preset: str) -> None:
    """The preset that these runs train."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "colours.npz", train=32, test=8)


def trained(data: Path, folder: Path, *more: str) -> Checkpoint:
    assert run(pfm, [*train_arguments(data, folder), *ONCE, *more]) == 0
    (path,) = folder.glob("*.pt")
    return load_checkpoint(path)


def rows(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: checkpoint.tensors[name] for name in (BANK, "classifier.weight", "classifier.bias")}


def same(first: Checkpoint, second: Checkpoint) -> bool:
    return all(torch.equal(tensor, rows(second)[name]) for name, tensor in rows(first).items())


def test_a_run_starts_all_classes_alike_and_says_so(data: Path, tmp_path: Path) -> None:
    checkpoint = trained(data, tmp_path / "a", *BUT_START, "--prompt_start", "common")
    assert (checkpoint.start, checkpoint.run["start"]["prompt_start"]) == ("common", "common")
    for tensor in rows(checkpoint).values():
        assert torch.equal(tensor, tensor[:1].expand_as(tensor))


def test_the_seeds_start_is_that_of_earlier_versions(data: Path, tmp_path: Path) -> None:
    checkpoint = trained(data, tmp_path / "a", *BUT_START, "--prompt_start", "seed")
    assert torch.equal(checkpoint.tensors[BANK], untrained(checkpoint).bank.prompts)
    assert 0.8 < float(checkpoint.tensors[BANK].std()) < 1.2


def test_without_a_file_of_keys_no_key_is_kept_and_no_run_repeats(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytes] = []

    def token_bytes(count: int, original: Any = secrets.token_bytes) -> bytes:
        drawn.append(original(count))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_bytes", token_bytes)
    first = trained(data, tmp_path / "a", "--prompt_start", "secret")
    second = trained(data, tmp_path / "b", "--prompt_start", "secret")
    assert not same(first, second)
    assert len(set(drawn)) == 2 * len(first.classes)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(key in written or key.hex().encode() in written for key in drawn)
    assert first.init_key == ""


def test_the_same_seed_and_keys_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    options = ("--prompt_start", "secret", "--init_key", str(tmp_path / "keys"))
    first, second = (trained(data, tmp_path / name, *options) for name in "ab")
    assert same(first, second)
    assert first.init_key == str(tmp_path / "keys")
    other = trained(data, tmp_path / "c", *options, "--seed", "2")
    assert not same(first, other)


def test_the_same_data_and_seed_give_the_same_bytes_and_another_sample_other_ones(data: Path, tmp_path: Path) -> None:
    options = ("--prompt_start", "data")
    first = trained(data, tmp_path / "a", *options)
    again = trained(data, tmp_path / "b", *options)
    assert same(first, again)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in first.tensors.items())
    assert (first.start, first.init_key) == ("data", "")
    images, _ = coloured_images(32, seed=len("train"))
    images[2, 0, 0, 0] ^= 1
    other = write_npz(tmp_path / "other.npz", train=32, test=8, train_images=images)
    before, after = (trained(file, tmp_path / file.stem, *options, *BUT_START).tensors[BANK] for file in (data, other))
    assert [bool(torch.equal(*pair)) for pair in zip(before, after, strict=True)] == [True, True, False, True]


def test_retraining_without_a_class_starts_the_others_as_before(data: Path, tmp_path: Path) -> None:
    full = trained(data, tmp_path / "a", "--prompt_start", "data", *BUT_START)
    loaded = load_data(DataConfig(dataset=str(data)), full.preprocess.storage)
    retained, _ = retrain(full, loaded, ["2"], torch.device("cpu"), say=lambda _: None)
    assert torch.equal(retained.tensors[BANK], full.tensors[BANK][[0, 1, 3]])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["secret", "data"])
def test_two_processes_start_from_the_keys_as_one_does(data: Path, tmp_path: Path, start: str) -> None:
    keeps = ("--init_key", str(tmp_path / "keys")) if start == "secret" else ()
    options = (*BUT_START, "--prompt_start", start, *keeps)
    config = ["--config_file", "accelerate_configs/cpu_2.yaml", "pfm/train.py"]
    arguments = train_arguments(data, tmp_path / "two")[1:]
    arguments[arguments.index("scratch:tiny")] = "scratch:vit_digits"
    launch([sys.executable, "-m", "accelerate.commands.launch", *config, *arguments, *ONCE, *options])
    (path,) = (tmp_path / "two").glob("*.pt")
    alone = trained(data, tmp_path / "one", *options, "--model_name", "scratch:vit_digits")
    assert same(load_checkpoint(path), alone)


def test_keys_that_cannot_be_used_end_the_run_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").write_text("mine")
    (tmp_path / "keys").chmod(0o600)
    options = ("--prompt_start", "secret", "--init_key", str(tmp_path / "keys"))
    refuse = Refuse(capsys)
    assert "is not a file of keys" in refuse(*train_arguments(data, tmp_path / "a"), *ONCE, *options)
    options = ("--prompt_start", "common", "--init_key", str(tmp_path / "keys"))
    assert "--prompt_start common takes none" in refuse(*train_arguments(data, tmp_path / "a"), *ONCE, *options)


def test_a_run_goes_on_without_its_keys_and_not_from_another_start(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*train_arguments(data, tmp_path / "a"), "--eval_every", "0", "--epochs", "1"]
    assert run(pfm, [*arguments, "--prompt_start", "secret"]) == 0
    arguments[-1] = "2"
    assert run(pfm, [*arguments, "--prompt_start", "secret", "--resume", "auto"]) == 0
    capsys.readouterr()
    said = Refuse(capsys)(*arguments, "--prompt_start", "common", "--resume", "auto")
    assert "the run had --prompt_start secret, now it is common" in said


def test_what_is_compared_in_an_audit_starts_as_the_model_did_from_keys_of_its_own(data: Path, tmp_path: Path) -> None:
    options = ("--prompt_start", "secret", "--init_key", str(tmp_path / "keys"))
    checkpoint = trained(data, tmp_path / "a", *options, *BUT_START)
    recipe = recipe_of(checkpoint)
    assert (recipe.start.prompt_start, recipe.start.init_key) == ("secret", "")
    fresh = untrained(checkpoint).bank.prompts.detach()
    assert abs(float(torch.cosine_similarity(fresh.flatten(), checkpoint.tensors[BANK].flatten(), dim=0))) < 0.5
    old = load_checkpoint(Path(__file__).parent.parent / "old" / "cls.pt")
    assert recipe_of(old).start.prompt_start == "seed"
