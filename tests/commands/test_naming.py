"""Classes are named and not guessed: in Python a string is one class, and a command says what it is about to do."""

import dataclasses
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from making.bundles import make_bundle
from making.checkpoints import trained_state
from making.commands import Refuse, train_arguments
from making.files import files
from pfm.cli import pfm, run
from pfm.errors import ClassNameError
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm_export.erasing import erase_everywhere
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import write_manifest
from pfm_export.serving.session import ActiveSet, PromptSession

TWELVE = [str(number) for number in range(12)]
ODD = ("a, b", " x", "x ", "c")


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    return Refuse(capsys)


def model(path: Path, names: tuple[str, ...], *, seed: int = 0) -> Path:
    """With another seed other rows: of two models that share them, one would hold what the other is to forget."""
    state = trained_state(seed)
    tensors, averaged = ({n: (1 + seed) * t for n, t in part.items()} for part in (state.tensors, state.averaged))
    classes = dataclasses.replace(state.classes, names=names)
    save_checkpoint(path, dataclasses.replace(state, classes=classes, tensors=tensors, averaged=averaged))
    return path


# --- in Python ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "erase", [lambda folder: Bundle.open(folder).erase("10"), lambda folder: erase_everywhere([folder], "10"),
              lambda folder: erase_everywhere(folder, "10")],
    ids=["bundle", "everywhere", "a bare path"],
)  # fmt: skip
def test_erasing_a_bare_string_erases_one_class(tmp_path: Path, erase: Callable[[Path], object]) -> None:
    """`session.erase("10")` erased the classes 1 and 0."""
    folder = make_bundle(tmp_path / "bundle", names=TWELVE)
    erase(folder)
    assert Bundle.open(folder).classes.names == tuple(name for name in TWELVE if name != "10")


def test_suspending_and_restoring_a_bare_string_is_about_one_class(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "bundle", names=TWELVE)).suspend("10")
    assert bundle.suspended() == {10}
    assert bundle.suspend("11").restore("10").suspended() == {11}


def test_an_active_set_of_a_bare_string_is_one_class(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "bundle", names=TWELVE))
    rest = tuple(position for position in range(12) if position != 10)
    for chosen in (ActiveSet(without="10"), ActiveSet.of(without="10"), ActiveSet.of(without=10)):  # type: ignore[arg-type]  # what a user may well write
        assert chosen.positions(bundle) == rest
    for chosen in (ActiveSet(active="10"), ActiveSet.of("10"), ActiveSet.of(["10"])):  # type: ignore[arg-type]
        assert chosen.positions(bundle) == (10,)
    with pytest.raises(ClassNameError, match="names no class"):
        ActiveSet(without=b"10")  # type: ignore[arg-type]


# --- commands -----------------------------------------------------------------------------------------


def test_a_number_among_classes_named_by_numbers_erases_nothing(tmp_path: Path, refuse: Refuse) -> None:
    path = model(tmp_path / "model.pt", ("2", "3", "5", "7"))
    before = path.read_bytes()
    assert "no class is called '0'" in refuse("forget", "--in_place", "--classes", "0", path)
    assert path.read_bytes() == before
    assert run(pfm, ["forget", "--in_place", "--classes", "3", str(path)]) == 0
    assert load_checkpoint(path).classes.names == ("2", "5", "7")


def test_a_number_that_is_another_class_in_another_model_erases_nothing(tmp_path: Path, refuse: Refuse) -> None:
    pets = model(tmp_path / "pets.pt", ("cat", "dog", "owl", "cow"))
    insects = model(tmp_path / "insects.pt", ("ant", "bee", "fly", "cow"), seed=1)
    said = refuse("forget", "--in_place", "--classes", "1", tmp_path)
    assert "number 1 is not the same class everywhere" in said
    assert "'dog'" in said
    assert "'bee'" in said
    assert run(pfm, ["forget", "--in_place", "--classes", "3", str(tmp_path)]) == 0
    assert load_checkpoint(pets).classes.names == ("cat", "dog", "owl")
    assert run(pfm, ["forget", "--in_place", "--classes", "bee", str(tmp_path)]) == 0
    assert load_checkpoint(pets).classes.names == ("cat", "dog", "owl")
    assert load_checkpoint(insects).classes.names == ("ant", "fly")


def test_the_same_command_twice_erases_one_class(tmp_path: Path) -> None:
    path = model(tmp_path / "model.pt", ("cat", "dog", "owl", "cow"))
    for _ in range(2):
        assert run(pfm, ["forget", "--in_place", "--classes", "1", str(path)]) == 0
        assert load_checkpoint(path).classes.names == ("cat", "owl", "cow")


@pytest.mark.parametrize("name", ODD)
def test_a_name_with_commas_or_blanks_is_given_as_it_is(tmp_path: Path, name: str) -> None:
    path = model(tmp_path / "model.pt", ODD)
    bundle = make_bundle(tmp_path / "bundle", names=ODD)
    assert run(pfm, ["suspend", str(bundle), "--class", name]) == 0
    assert Bundle.open(bundle).suspended() == {ODD.index(name)}
    assert run(pfm, ["restore", str(bundle), "--class", name]) == 0
    assert Bundle.open(bundle).suspended() == set()
    assert run(pfm, ["forget", "--in_place", "--class", name, str(path), str(bundle)]) == 0
    left = tuple(other for other in ODD if other != name)
    assert load_checkpoint(path).classes.names == Bundle.open(bundle).classes.names == left


def test_several_classes_are_named_in_both_ways(tmp_path: Path, refuse: Refuse) -> None:
    path = model(tmp_path / "model.pt", ODD)
    assert "'a, b' is the name of one class" in refuse("forget", "--in_place", "--classes", "a, b", path)
    assert "no class '0'" in refuse("forget", "--in_place", "--class", "0", path)
    assert "Missing option '--class' or '--classes'" in refuse("forget", "--in_place", path)
    assert run(pfm, ["forget", "--in_place", "--class", "a, b", "--class", " x", "--classes", "c", str(path)]) == 0
    assert load_checkpoint(path).classes.names == ("x ",)


@pytest.mark.parametrize(
    ("answer", "code", "is_erased"), [("y\n", 0, True), ("n\n", 2, False), ("\n", 2, False), ("--yes", 0, True)]
)
def test_a_terminal_is_asked_and_told_names_and_files_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    answer: str, code: int, is_erased: bool,
) -> None:  # fmt: skip
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    path = model(tmp_path / "model.pt", ("cat", "dog", "owl", "cow"))
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    more = ["--yes"] if answer == "--yes" else []
    assert run(pfm, ["forget", "--in_place", "--classes", "1", str(path), *more]) == code
    said = capsys.readouterr()
    assert said.out.startswith(f"to be erased for good: 'dog'\n  from  checkpoint  {path}\n")
    assert ("Erase? This cannot be undone" in said.out + said.err) == (not more)
    assert ("dog" not in load_checkpoint(path).classes.names) == is_erased
    assert ("nothing was erased" in said.err) == (not is_erased)


def test_a_script_is_told_and_not_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "model.pt", ("cat", "dog", "owl", "cow"))
    assert run(pfm, ["forget", "--in_place", "--class", "dog", str(path)]) == 0
    assert capsys.readouterr().out.startswith("to be erased for good: 'dog'")
    assert "--yes is about erasing --in_place" in Refuse(capsys)("forget", "--class", "cat", "--ckpt", path, "--yes")


# --- a class called unknown -----------------------------------------------------------------------------


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("options", ["--readout prompt --wrong_target none", "--abstain 0.1"])
def test_a_class_called_unknown_is_refused_where_that_is_an_answer(
    npz: Path, tmp_path: Path, refuse: Refuse, options: str
) -> None:
    names = ["--class_names", "red,green,unknown,grey"]
    said = refuse(*train_arguments(npz, tmp_path / "out", *names, *options.split()))
    assert "a class is called 'unknown', which is also what this model answers" in said
    assert files(tmp_path / "out") == []


def test_a_bundle_with_a_class_called_unknown_is_not_served_with_that_answer(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", "prompt", names=("known", "unknown"))
    write_manifest(folder, {**Bundle.open(folder).manifest, "wrong_target": "none"})
    with pytest.raises(ClassNameError, match="also what this model answers"):
        PromptSession(folder, device="cpu")
