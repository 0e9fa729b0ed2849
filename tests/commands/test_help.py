"""`--help`: quick, in sections, and true; options in a file, paths with a tilde, and a standard output that ends."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest

from making.commands import Refuse, train_arguments
from pfm.cli import pfm, run
from pfm.commands.options import PATH, was_given
from pfm.commands.sections import FIRST
from pfm.commands.train import train
from pfm.data.config import DataConfig
from pfm.errors import BundleError, CheckpointError
from pfm.model.checkpoint import load_checkpoint
from pfm.options import Section, expanded
from pfm.training.config import TrainConfig
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession

ROOT = Path(__file__).parent.parent.parent
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in (".", "export", "bench"))
WALK = """
import contextlib, io, sys
import click
from pfm.cli import pfm, run

def walk(command, path):
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from walk(command.get_command(click.Context(command), name), [*path, name])

paths = list(walk(pfm, []))
with contextlib.redirect_stdout(io.StringIO()):
    for path in paths:
        assert run(pfm, [*path, "--help"]) == 0, path
heavy = {"torch", "transformers", "datasets", "onnx", "onnxruntime", "accelerate", "sklearn", "matplotlib", "peft"}
assert len(paths) > 15, paths
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
DIGITS = """
import sys
from pfm.cli import pfm, run
from pfm.training import learner

build = learner.build_optimizer

def look(*arguments, **named):
    # torch's own optimizers import torch._dynamo, and that imports FSDP
    assert "torch.distributed.fsdp" not in sys.modules
    return build(*arguments, **named)

learner.build_optimizer = look
code = run(pfm, ["train", "--dataset", "digits", "--model_name", "scratch:vit_digits", "--epochs", "1", "--batch_size",
                 "1024", "--cpu", "--eval_every", "0", "--save_dir", sys.argv[1]])
assert code == 0
assert not {"datasets", "transformers.modeling_utils", "onnx"} & set(sys.modules)
"""


def python(code: str, *arguments: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    return subprocess.run(command, env=environment, text=True, check=False, **settings)


def every_option() -> Iterator[tuple[str, click.Parameter]]:
    def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Parameter]]:
        yield from ((path, parameter) for parameter in command.params)
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                child = command.get_command(click.Context(command), name)
                assert child is not None
                yield from walk(child, f"{path} {name}")

    return walk(pfm, "pfm")


def help_of(*path: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        assert run(pfm, [*path, "--help"]) == 0
    return out.getvalue()


# --- what is imported -----------------------------------------------------------------------------


def test_no_help_imports_a_heavy_library() -> None:
    done = python(WALK, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_on_digits_imports_neither_datasets_nor_fsdp(tmp_path: Path) -> None:
    done = python(DIGITS, str(tmp_path), capture_output=True)
    assert done.returncode == 0, done.stderr


# --- sections -------------------------------------------------------------------------------------


def test_the_help_of_train_has_sections_and_first_what_most_people_need() -> None:
    lines = help_of("train").splitlines()
    headings = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    of_serve = {Section.SERVICE, Section.LIMITS}
    assert headings == [FIRST, *(section for section in Section if section not in of_serve)]
    end = lines.index(f"{Section.DATA}:")
    first = [line.split()[0] for line in lines[lines.index(f"{FIRST}:") : end] if line.startswith("  --")]
    assert first == ["--dataset", "--model_name", "--readout", "--epochs", "--batch_size", "--lr", "--seed",
                     "--save_dir", "--resume", "--recipe", "--config"]  # fmt: skip


def test_every_option_of_train_is_in_one_section() -> None:
    shown = [line.split()[0] for line in help_of("train").splitlines() if line.startswith("  --")]
    assert sorted(shown) == sorted(parameter.opts[0] for parameter in train.params)


# --- a file of options ----------------------------------------------------------------------------


def parsed(*arguments: str) -> click.Context:
    return train.make_context("pfm train", list(arguments))


def config_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_options_come_from_a_file_and_the_command_line_wins(tmp_path: Path) -> None:
    text = "batch-size: 64\nlr: 1e-2\nhflip: yes\nmixed_precision: no\nclass_names: red,green\ngpu_id: 0\n"
    context = parsed("--config", str(config_file(tmp_path, text)), "--batch_size", "8")
    names = ("batch_size", "lr", "hflip", "mixed_precision", "class_names", "epochs")
    assert [context.params[name] for name in names] == [8, 0.01, True, "no", "red,green", 10]
    with context:
        assert [was_given(name) for name in ("lr", "batch_size", "gpu_id", "epochs")] == [True, True, True, False]


def test_an_empty_file_of_options_changes_nothing(tmp_path: Path) -> None:
    assert parsed("--config", str(config_file(tmp_path, "# nothing yet\n"))).params == parsed().params


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 8", "run.yaml: pfm train has no option --batchsize"),
        ("epochs: 2.5", "run.yaml: epochs: '2.5' is not a valid integer"),
        ("epochs: true", "run.yaml: epochs: 'true' is not a valid integer"),
        ("epochs: 0", "run.yaml: epochs: 0 is not in the range x>=1"),
        ("hflip: maybe", "run.yaml: hflip: 'maybe' is not a valid boolean"),
        ("readout: mean", "run.yaml: readout: 'mean' is not one of 'cls', 'prompt'"),
        ("class_names: [red, green]", "run.yaml: class_names: one value is expected"),
        ("data_dir: null", "run.yaml: data_dir: null is not a value; leave the line out"),
        ("batch-size: 8\nbatch_size: 9", "run.yaml: batch_size stands there twice"),
        ("config: other.yaml", "has no option --config"),
        ("- epochs", "lines such as `batch_size: 64` are expected"),
        ("epochs: [1", "is not YAML"),
        ("lr: -1", "run.yaml: lr: -1.0 is not in the range"),
    ],
)
def test_a_wrong_file_of_options_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in Refuse(capsys)("train", "--config", config_file(tmp_path, text))


def test_a_file_of_options_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.yaml: cannot be read: No such file" in Refuse(capsys)("train", "--config", tmp_path / "none.yaml")
    assert "cannot be read: Is a directory" in Refuse(capsys)("train", "--config", tmp_path)


@pytest.mark.usefixtures("preset")
def test_a_run_is_described_by_a_file(npz: Path, tmp_path: Path) -> None:
    text = f"dataset: {npz}\nmodel-name: scratch:tiny\nepochs: 1\ncpu: true\neval_every: 0\nsave_dir: {tmp_path}\n"
    assert run(train, ["--config", str(config_file(tmp_path, text))], name="pfm train") == 0
    assert (tmp_path / "colours_seed_42_1.pt").is_file()


# --- paths ----------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_folder_in_every_option_that_takes_a_path() -> None:
    for path, parameter in every_option():
        assert not isinstance(parameter.type, click.Path) or parameter.type is PATH, (path, parameter.name)
        assert not isinstance(parameter.type, click.types.FuncParamType), (path, parameter.name)


def test_a_tilde_is_expanded_where_a_path_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x.npz") == f"{tmp_path}/x.npz"
    assert expanded(Path("~")) == tmp_path
    assert expanded("imagefolder:~/x") == f"imagefolder:{tmp_path}/x"
    assert [expanded(text) for text in ("a~/b", "a/~/b", "~x", "org/model")] == ["a~/b", "a/~/b", "~x", "org/model"]
    assert DataConfig(dataset="audiofolder:~/x", data_dir="~/y").data_dir == f"{tmp_path}/y"
    assert TrainConfig(save_dir="~/z", resume="~/z/a.pt").resume == f"{tmp_path}/z/a.pt"


def test_a_tilde_is_expanded_in_the_functions_that_open_artifacts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=str(tmp_path / "x.pt")):
        load_checkpoint("~/x.pt")
    with pytest.raises(BundleError, match=str(tmp_path / "bundle")):
        Bundle.open("~/bundle")
    with pytest.raises(BundleError, match=str(tmp_path / "bundle")):
        PromptSession("~/bundle")


@pytest.mark.usefixtures("preset")
def test_training_reads_and_writes_below_the_home_folder(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = train_arguments(f"~/{npz.name}", Path("~/runs"), "--epochs", "1", "--eval_every", "0")
    assert run(pfm, arguments) == 0
    assert (tmp_path / "runs" / "colours_seed_42_1.pt").is_file()


# --- seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["-1", str(2**63), str(10**30)])
@pytest.mark.parametrize(
    "command", [["train"], ["eval", "--ckpt", "x.pt"], ["demo"], ["bench", "train"], ["bench", "serve"]]
)
def test_a_seed_out_of_range_is_refused(command: list[str], seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'--seed'" in Refuse(capsys)(*command, "--seed", seed)


@pytest.mark.usefixtures("preset")
def test_the_largest_seed_trains(npz: Path, tmp_path: Path) -> None:
    more = ("--epochs", "1", "--eval_every", "0", "--seed", str(2**63 - 1))
    assert run(pfm, train_arguments(npz, tmp_path / "out", *more)) == 0


# --- a standard output that ends ------------------------------------------------------------------

MAIN = "from pfm.cli import main; main()"


@pytest.mark.parametrize("arguments", [["train", "--help"], ["--version"], ["bench", "compare", "-h"]])
def test_who_reads_only_the_beginning_is_left_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = python(MAIN, *arguments, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_disk_that_is_full_elsewhere_is_one_line_too_and_a_bug_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @click.argument("code", type=int)
    def write(code: int) -> None:
        raise OSError(code, os.strerror(code), "folder/file")

    assert run(write, [str(errno.ENOSPC)]) == 2
    said = capsys.readouterr().err
    assert said == "pfm: cannot write folder/file: No space left on device; free some space, or choose another place\n"
    with pytest.raises(FileNotFoundError):
        run(write, [str(errno.ENOENT)])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = python(MAIN, "train", "--help", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, "pfm: standard output cannot be written: No space left on device\n")


def test_a_library_that_is_not_installed_is_named_and_a_module_of_ours_is_a_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def running(name: str) -> click.Command:
        def fails() -> None:
            raise ModuleNotFoundError("No module", name=name)

        return click.Command("needy", callback=fails)

    assert run(running("torch.nn"), []) == 2
    assert capsys.readouterr().err == "pfm: this needs torch, which is not installed; `pip install pfm` brings it\n"
    with pytest.raises(ModuleNotFoundError):
        run(running("pfm.no_such_module"), [])
