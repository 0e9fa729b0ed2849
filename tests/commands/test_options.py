"""No option of any command is shown and ignored, and a default that is printed is the one that holds."""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from house import sources
from making.bundles import make_bundle
from making.checkpoints import trained_state
from making.commands import Refuse, train_arguments
from making.images import write_npz
from making.models import TINY
from making.sounds import write_tones
from pfm.audit.scrubbing import Round, ScrubReport
from pfm.backbones.family import PRESETS
from pfm.cli import pfm, run
from pfm.commands.options import Part, data_of_run, was_given
from pfm.data.config import DataConfig, FeedConfig
from pfm.device import DeviceConfig
from pfm.errors import ConfigError
from pfm.evaluation.config import EvalConfig
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfm_export.commands.records import RecordOptions

CHANGED: dict[str, str] = {  # a value for each option of the data that is not its default
    "dataset": "some/colours", "data_revision": "v1", "data_type": "audio", "data_dir": "elsewhere", "size": "64",
    "class_names": "a,b",
    "input_column": "scan", "label_column": "finding", "label_from": "name:{digit}_{n}", "label": "digit",
    "max_seconds": "2.5", "max_pixels": "9", "max_expansion": "7", "skip_bad": "",
    "table": "labels.csv", "split_column": "fold", "ignore": "old",
    "group": "site", "hash_groups": "salt.key", "fit": "crop", "depth": "0:4095", "decode": "full",
}  # fmt: skip
GO_TOGETHER = {
    "label_from": ("label_from", "label"), "label": ("label_from", "label"),
    "data_revision": ("dataset", "data_revision"),
    "split_column": ("table", "split_column"), "hash_groups": ("group", "hash_groups"),
}  # fmt: skip
TAKE_DATA = ("train", "eval", "audit", "scrub", "bench forget")
TEXT_DEFAULT = re.compile(r"\[default: (.+?)\]")


def walk(command: click.Command = pfm, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, by its path behind `pfm`."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(click.Context(command)):
        child = command.get_command(click.Context(command), name)
        assert child is not None
        yield from walk(child, f"{path} {name}".strip())


COMMANDS = dict(walk())
every_command = pytest.mark.parametrize("path", COMMANDS)


def parts_of(path: str) -> dict[str, Part]:
    return getattr(COMMANDS[path].callback, "option_parts", {})


def options_of(path: str) -> list[click.Option]:
    return [option for option in COMMANDS[path].params if isinstance(option, click.Option)]


def arguments_for(path: str, *more: str) -> list[str]:
    return [*path.split(), *more]


# --- every option is read -------------------------------------------------------------------------


@functools.cache
def attributes_read() -> set[str]:
    """Names of attributes that some code reads, a config's own checks of itself aside."""
    found: set[str] = set()
    for text in sources().values():
        tree = ast.parse(text)
        inside = {
            id(node) for check in ast.walk(tree)
            if isinstance(check, ast.FunctionDef) and check.name == "__post_init__" for node in ast.walk(check)
        }  # fmt: skip
        found |= {
            node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in inside
        }  # fmt: skip
    return found


@every_command
def test_every_option_is_used_by_its_command(path: str) -> None:
    """An option of the command itself by its function; one of a config that no other command has, by some code."""
    callback = COMMANDS[path].callback
    assert callback is not None
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(callback))))
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    of_configs = {name for part in parts_of(path).values() for name in part.names}
    for parameter in COMMANDS[path].params:
        if not parameter.expose_value:
            assert parameter.callback is not None, parameter.name
        elif parameter.name not in of_configs:
            assert parameter.name in loaded, f"pfm {path} ignores --{parameter.name}"
    for keyword, part in parts_of(path).items():
        assert keyword in loaded or "configs" in loaded, f"pfm {path} ignores its {keyword}"
        missing = set(part.names) - attributes_read()
        assert not missing, f"nothing reads {missing} of pfm {path}"


class Reads:
    """Which fields of config classes are read, checks by the classes themselves and copies of all fields aside."""

    def __init__(self, patch: pytest.MonkeyPatch, classes: list[type]) -> None:
        self.found: set[tuple[type, str]] = set()
        for config in classes:
            patch.setattr(config, "__getattribute__", self._recorder(config))

    def _recorder(self, config: type) -> Any:
        fields = {field.name for field in dataclasses.fields(config)}

        def read(this: Any, name: str) -> Any:
            if name in fields:
                frame = sys._getframe(1)
                own_check = frame.f_code.co_name == "__post_init__" and frame.f_locals.get("self") is this
                copies = frame.f_code.co_filename in (dataclasses.__file__, inspect.getfile(data_of_run))
                if not own_check and not copies:
                    self.found.add((config, name))
            return object.__getattribute__(this, name)

        return read

    def missing(self, path: str, *, but: tuple[type, ...] = ()) -> set[str]:
        parts = [part for part in parts_of(path).values() if part.config not in but]
        return {f"--{name}" for part in parts for name in part.names if (part.config, name) not in self.found}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *classes: Reads(monkeypatch, list(classes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a data set and a checkpoint that was trained on it."""
    folder = tmp_path_factory.mktemp("options")
    data = write_npz(folder / "colours.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
        assert run(pfm, train_arguments(data, folder, "--epochs", "1", "--eval_every", "0")) == 0
        yield folder


def test_training_reads_all_its_options(reads: Any, trained: Path, tmp_path: Path) -> None:
    """The data's are read by the readers, each its own: see the next tests."""
    found = reads(*(part.config for part in parts_of("train").values()))
    run_args = [text for text in train_arguments(trained / "colours.npz", tmp_path / "a") if text != "--cpu"]
    few = ["--epochs", "2", "--best_metric", "full_bank", "--patience", "1", "--gpu_id", "0", "--warmup", "0.1"]
    assert run(pfm, [*run_args, *few, "--tune", "lora", "--save_steps", "1"]) == 0
    assert found.missing("train", but=(DataConfig,)) == set()


def test_evaluation_reads_all_its_options(reads: Any, trained: Path, tmp_path: Path) -> None:
    found = reads(EvalConfig, DeviceConfig, FeedConfig)
    evaluate = ["eval", "--ckpt", str(trained / "colours_seed_42_1.pt"), "--save_dir", str(tmp_path), "--gpu_id", "0"]
    assert run(pfm, evaluate) == 0
    assert found.missing("eval", but=(DataConfig,)) == set()


@pytest.mark.parametrize("path", ["audit", "scrub"])
def test_an_audit_and_a_scrub_read_their_device(
    reads: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def stop(*rest: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pfm.audit.protocol.audit", stop)
    monkeypatch.setattr("pfm.audit.scrubbing.scrub", stop)
    found = reads(DeviceConfig)
    where = ["--ckpt", str(trained / "colours_seed_42_1.pt"), "--classes", "1", "--out", str(tmp_path / "out")]
    assert run(pfm, [path, *where, "--gpu_id", "0"]) == 130
    wanted = next(part.names for part in parts_of(path).values() if part.config is DeviceConfig)
    assert set(wanted) == {"gpu_id", "cpu"}
    assert {name for _, name in found.found} >= set(wanted)


def test_what_a_scrub_and_an_erasure_write_down_is_what_was_said(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Round(epochs=0, seconds=0.0, gap=0.0, gap_low=0.0, gap_high=0.0, retain_accuracy=1.0)
    asked: list[Any] = []

    def retuned(full: Checkpoint, data: Any, keys: list[str], config: Any, *rest: Any, **named: Any) -> Any:
        asked.append(config)
        report = ScrubReport(epsilon=config.epsilon, is_within=True, retained_cost=0, retrain_s=0, rounds=(row,))
        return erase(full, keys), report

    monkeypatch.setattr("pfm.audit.scrubbing.scrub", retuned)
    ckpt = str(trained / "colours_seed_42_1.pt")
    for path in ("scrub", "forget"):
        out, cert, key = tmp_path / path / "less.pt", tmp_path / f"{path}.json", tmp_path / "own.key"
        said = ["--reason", "request 7", "--requested_by", "ward 3", "--certificate", str(cert), "--key", str(key)]
        more = ["--epsilon", "0.2", "--budget", "0.3"] if path == "scrub" else []
        assert run(pfm, [path, "--ckpt", ckpt, "--classes", "1", "--out", str(out), *said, *more]) == 0
        assert key.exists()
        for text in (cert.read_text(), (out.parent / "ledger.jsonl").read_text()):
            assert "request 7" in text
            assert "ward 3" in text
        assert set(next(p.names for p in parts_of(path).values() if p.config is RecordOptions)) == {
            "reason", "requested_by", "certificate", "key"
        }  # fmt: skip
    assert [(config.epsilon, config.budget) for config in asked] == [(0.2, 0.3)]


@pytest.mark.parametrize("path", TAKE_DATA)
def test_every_option_of_the_data_is_handed_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    seen: list[DataConfig] = []

    def stop(config: DataConfig, *rest: Any, **named: Any) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("pfm.data.loading.load_data", stop)
    monkeypatch.setattr("pfm.training.setup.load_data", stop)
    monkeypatch.setattr("pfm.training.run.check_data", lambda _: None)
    if path == "train":
        start = train_arguments(trained / "colours.npz", tmp_path / "out")
    else:
        start = arguments_for(path, "--ckpt", str(trained / "colours_seed_42_1.pt"))
        start += [] if path == "eval" else ["--classes", "1"]
        start += ["--save_dir" if path == "eval" else "--out", str(tmp_path / "out")]
    assert run(pfm, start) == 130
    (plain,) = seen
    assert plain.dataset == str(trained / "colours.npz")  # what the run was trained on
    assert set(CHANGED) == {field.name for field in dataclasses.fields(DataConfig)}
    for name, value in CHANGED.items():
        if path != "train" and name in DataConfig.of_training:
            assert not any(option.name == name for option in options_of(path))
            continue
        given = [f"--{name}", *([value] if value else [])]
        if name in GO_TOGETHER:
            given = [word for other in GO_TOGETHER[name] for word in (f"--{other}", CHANGED[other])]
        assert run(pfm, [*start, *given]) == 130
        wanted = value or "True"
        if name in ("data_dir", "table", "hash_groups") and path == "eval":  # found from any folder
            wanted = str(Path(wanted).absolute())
        assert str(getattr(seen[-1], name)) == wanted
        assert getattr(seen[-1], name) != getattr(plain, name)


# --- defaults -------------------------------------------------------------------------------------


@every_command
def test_a_printed_default_is_the_one_that_holds(path: str) -> None:
    of_run = {name for part in parts_of(path).values() if part.is_of_run for name in part.names}
    for keyword, part in parts_of(path).items():
        for field in dataclasses.fields(part.config):
            if field.name in part.names:
                option = next(option for option in options_of(path) if option.name == field.name)
                assert option.default == field.default, f"{keyword}.{field.name}"
    context = click.Context(COMMANDS[path], show_default=True)
    for option in options_of(path):
        text = TEXT_DEFAULT.findall(option.help or "")
        record = option.get_help_record(context)
        assert record is not None
        assert len(TEXT_DEFAULT.findall(record[1])) <= 1, f"--{option.name} prints two defaults"
        if text and option.name not in of_run:  # said in words: there is no value that says otherwise
            assert option.to_info_dict()["default"] in (None, ""), f"--{option.name} says {text}"
        if option.name in of_run:
            assert text[0].startswith("the run's own")


def test_the_data_is_the_runs_own_unless_another_is_named() -> None:
    stored = dataclasses.replace(DataConfig(), dataset="digits", size=64, class_names="a,b")
    checkpoint = dataclasses.replace(trained_state(), run={"data": dataclasses.asdict(stored)})
    for typed, expected in (
        ([], stored),
        (["--size", "28"], dataclasses.replace(stored, size=28)),
        (["--dataset", "bloodmnist"], DataConfig(dataset="bloodmnist")),  # the defaults that help prints for it
    ):
        command = COMMANDS["eval"]
        with command.make_context("eval", ["--ckpt", "x", *typed]) as context:
            values = {name: context.params[name] for name in parts_of("eval")["data"].names}
            assert data_of_run(checkpoint, DataConfig(**values)) == expected
            assert was_given("dataset") == ("--dataset" in typed)
    help_of_size = next(option.help for option in options_of("eval") if option.name == "size")
    assert help_of_size is not None
    assert help_of_size.endswith(f"[default: the run's own; with --dataset: {DataConfig().size}]")


def test_an_evaluation_of_data_that_nobody_names_is_refused() -> None:
    with (
        COMMANDS["eval"].make_context("eval", ["--ckpt", "x"]),
        pytest.raises(ConfigError, match="name the data with --dataset"),
    ):
        data_of_run(trained_state(), DataConfig())


# --- what is refused, and what the help says of when ------------------------------------------------


@pytest.mark.usefixtures("preset", "sound_preset")
@pytest.mark.parametrize(
    ("arguments", "option", "needs", "reason"),
    [
        ("train --patience 3", "patience", "--best_metric", "--patience needs --best_metric"),
        ("train --label digit", "label", "--label_from", "--label_from and --label go together"),
        ("train --max_length 64", "max_length", "for sounds", "--max_length is for sounds"),
        ("train --time_mask 4", "time_mask", "clip", "for sounds only: --time_mask"),
        ("train {sounds} --hflip", "hflip", "images", "for images only: --hflip"),
        ("train {sounds} --image_size 8", "image_size", "pixels", "--image_size is for images"),
        ("train --wrong_target none --readout cls", "wrong_target", "--readout prompt only", "does not go with"),
        ("train --decoys 1", "decoys", "--wrong_target none", "--decoys are prompts that get the answer `unknown`"),
        (
            "train --decoys 1 --label_smoothing 0.1 --readout prompt --wrong_target none",
            "decoys",
            "no --label_smoothing",
            "--label_smoothing would make decoys right in part",
        ),
        ("train --abstain 0.1 --readout prompt --wrong_target none", "abstain", "unknown", "--abstain is for models"),
        ("train --cache_trunk host", "cache_trunk", "--prompt_layer", "--cache_trunk"),
        ("train --mixed_precision fp16", "mixed_precision", "Autocast", "fp16 needs a GPU"),
        ("eval --ckpt {ckpt} --suspend 1 --max_subsets 2", "suspend", "nothing else", "--max_subsets is about"),
        ("eval --ckpt {ckpt} --model_name ./none", "model_name", "frozen backbone", "holds all of its model's weights"),
        ("eval --ckpt {ckpt} --frozen_dtype bf16", "frozen_dtype", "frozen weights", "was trained whole"),
        ("train --frozen_dtype bf16", "frozen_dtype", "frozen weights", "--frozen_dtype bf16 is for --tune lora"),
        ("export onnx --ckpt {ckpt} --out o --test_samples 5", "test_samples", "--dataset", "fp32 is measured where"),
        ("export onnx --ckpt {ckpt} --out o --data_dir d", "data_dir", "MedMNIST", "fp32 is measured where"),
        (
            "export onnx --ckpt {ckpt} --out o --dataset digits --test_samples 0",
            "test_samples",
            "0 for none",
            "--test_samples 0 measures nothing",
        ),
        ("forget --classes 1 --in_place {bundle} --on_test_data", "on_test_data", "test samples", "asks a checkpoint"),
        (
            "forget --group a --in_place {bundle} --on_test_data",
            "group",
            "ridge only",
            "--on_test_data is about models",
        ),
        ("suspend {bundle} --classes 1 --profile=", "profile", "Whose answers", "--profile '' names nobody"),
        ("eval --ckpt=", "ckpt", "Checkpoint", "is empty; name a file or folder"),
        ("forget --classes 1 --ckpt {ckpt} --key k", "key", "With --certificate", "name the file to write with"),
        ("forget --classes 1 --in_place {ckpt} --out o", "out", "With --ckpt", "--in_place wants artifacts"),
        ("bench serve --bundle {bundle} --num_classes 3", "num_classes", "With --random_weights", "belongs to"),
        ("bench serve --bundle {bundle} --readout prompt", "readout", "With --random_weights", "belongs to"),
        ("bench serve --bundle {bundle} --precisions fp32", "precisions", "With --random_weights", "belongs to"),
    ],
)
def test_an_option_out_of_place_is_refused_and_its_help_says_where_it_belongs(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: str, option: str, needs: str, reason: str,
) -> None:  # fmt: skip
    path = next(path for path in COMMANDS if f"{arguments} ".startswith(f"{path} "))
    text = next(entry.help for entry in options_of(path) if entry.name == option)
    assert text is not None
    assert needs in text
    words = arguments
    if "{sounds}" in words:
        write_tones(tmp_path / "tones")
        words = words.replace("{sounds}", f"--dataset audiofolder:{tmp_path / 'tones'} --model_name scratch:tiny_ast")
    elif path == "train":
        words += f" --dataset {trained / 'colours.npz'} --model_name scratch:tiny"
    if "{bundle}" in words:
        make_bundle(tmp_path / "bundle")
    words += f" --save_dir {tmp_path / 'out'} --cpu" if path in ("train", "eval") else ""
    filled = words.format(ckpt=trained / "colours_seed_42_1.pt", bundle=tmp_path / "bundle")
    assert reason in Refuse(capsys)(*filled.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--dataset", ""), ("eval", "--ckpt", "x", "--dataset", ""), ("train", "--dataset", "imagefolder:"),
        ("train", "--model_name", ""), ("train", "--group", ""), ("train", "--save_dir", ""),
        ("train", "--resume", ""), ("train", "--table", ""),
        ("predict", "b", "a.png", "--without", ""), ("predict", "b", "a.png", "--profile", ""), ("predict", "b", ""),
        ("eval", "--ckpt", "x", "--suspend", ""), ("forget", "--class", "", "--in_place", "b"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_a_variable_of_the_shell_that_is_not_set_leaves_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    said = Refuse(capsys)(*arguments)
    assert "is empty; say what it is to be, or leave it out" in said or "names no data set" in said


def test_a_copy_is_not_evaluated_with_another_input_size(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What belongs to the checkpoint is no option of what reads it."""
    ckpt = str(trained / "colours_seed_42_1.pt")
    refuse = Refuse(capsys)
    for path, names in (
        ("eval", ("image_size", "max_length")), ("audit", ("mixed_precision", "frozen_dtype")),
        ("train", ("max_subsets",)), ("scrub", ("mixed_precision",)),
    ):  # fmt: skip
        for name in names:
            assert f"No such option '--{name}'" in refuse(path, f"--{name}", "8", "--ckpt", ckpt)
    assert load_checkpoint(Path(ckpt)).spec.input_shape == (3, 8, 8)


def test_erasing_needs_no_option_that_it_ignores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "model.pt", trained_state())
    refuse = Refuse(capsys)
    assert "add --in_place to do that" in refuse("forget", "--classes", "1", tmp_path / "model.pt")
    assert "name a checkpoint with --ckpt" in refuse("forget", "--classes", "1")


def test_a_target_that_compares_two_others_takes_four_classes(
    capsys: pytest.CaptureFixture[str], preset: str, npz: Path, tmp_path: Path
) -> None:
    with np.load(npz) as held:
        arrays = dict(held)
    for split in ("train", "val", "test"):
        if f"{split}_labels" in arrays:
            stays = arrays[f"{split}_labels"][:, 0] < 3
            arrays[f"{split}_images"] = arrays[f"{split}_images"][stays]
            arrays[f"{split}_labels"] = arrays[f"{split}_labels"][stays]
    np.savez(tmp_path / "three.npz", **arrays)
    words = ["--readout", "prompt", "--wrong_target", "others", "--save_dir", str(tmp_path / "run"), "--cpu"]
    said = Refuse(capsys)("train", "--dataset", str(tmp_path / "three.npz"), "--model_name", preset, *words)
    assert "it takes at least 4 classes, and here are 3" in said
