"""What a user gets wrong ends in one line on standard error and exit code 2, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

from making.commands import Refuse, train_arguments
from making.files import files
from making.images import write_npz
from making.models import TINY
from pfm.backbones.family import PRESETS
from pfm.cli import COMMANDS, pfm, run
from pfm.commands.train import train


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf_cache")
    return Refuse(capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a checkpoint, its data set beside it."""
    folder = tmp_path_factory.mktemp("trained")
    npz = write_npz(folder / "colours.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
        names = ["--class_names", "red,green,blue,grey"]
        assert run(pfm, train_arguments(npz, folder, *names, "--epochs", "1", "--eval_every", "0")) == 0
        yield folder


@pytest.fixture
def ckpt(trained: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, alone in a folder."""
    path = tmp_path / "models" / "model.pt"
    path.parent.mkdir()
    path.write_bytes((trained / "colours_seed_42_1.pt").read_bytes())
    return path


class Tripwire:
    """An object whose unpickling leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


# --- data -----------------------------------------------------------------------------------------


def truncated(path: Path) -> Path:
    content = write_npz(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def one_class(folder: Path) -> str:
    (folder / "apple").mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "apple" / "a.png")
    return f"imagefolder:{folder}"


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: "bloodmist", "unknown data set 'bloodmist'; did you mean 'bloodmnist'?"),
        (lambda folder: "chestmnist", "several labels"),
        (lambda folder: folder / "a.npz", "no file"),
        (lambda folder: truncated(folder / "a.npz"), "truncated"),
        (lambda folder: write_npz(folder / "a.npz", test_images=None, test_labels=None), "lacks test_images"),
        (lambda folder: write_npz(folder / "a.npz", test_labels=np.full((22, 1), 4)), "but there are 4 classes"),
        (lambda folder: write_npz(folder / "a.npz", train_labels=np.full((64, 1), -1)), "run from -1 to -1"),
        (lambda folder: write_npz(folder / "a.npz", train_labels=np.ones((64, 1))), "float64 values; whole numbers"),
        (lambda folder: f"imagefolder:{folder / 'nowhere'}", "no folder"),
        (lambda folder: written(folder / "a.pt", b"junk"), "a.pt is not a data set; a file has to be an .npz"),
        (lambda folder: one_class(folder / "fruit"), "fruit has 1 class (apple)"),
    ],
    ids=[
        "unknown", "multi-label", "missing", "truncated", "no-test-split", "label-too-high", "label-negative",
        "label-float", "no-folder", "other-file", "one-class",
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_is_refused(
    refuse: Refuse, tmp_path: Path, make: Callable[[Path], str | Path], message: str
) -> None:
    assert message in refuse(*train_arguments(make(tmp_path), tmp_path / "out"))
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("dataset", ["{}.npz", "imagefolder:{}", "audiofolder:{}", "{}"])
@pytest.mark.parametrize("model", [(), ("--model_name", "nobody/nothing"), ("--plan",)])
def test_data_that_are_not_there_are_named_before_the_backbone(
    refuse: Refuse, tmp_path: Path, dataset: str, model: tuple[str, ...]
) -> None:
    said = refuse("train", "--dataset", dataset.format(tmp_path / "nowhere"), "--save_dir", tmp_path / "out", *model)
    assert said.startswith("pfm: no f")  # file or folder
    assert str(tmp_path / "nowhere") in said


@pytest.mark.parametrize("option", ["--table", "--resume", "--init_key"])
def test_other_files_that_are_not_there_are_named_before_the_backbone_too(
    refuse: Refuse, tmp_path: Path, option: str
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    given = folder if option == "--init_key" else tmp_path / "nowhere"  # keys are made where there are none
    start = ("--prompt_start", "secret") if option == "--init_key" else ()
    options = ("--dataset", f"imagefolder:{folder}", "--save_dir", tmp_path / "out", *start, option, given)
    assert str(given) in refuse("train", *options)
    assert str(given) in refuse("train", *options, "--plan")


# --- options --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mixed_precision fp16", "--mixed_precision fp16 needs a GPU"),
        (
            "--readout cls --wrong_target none",
            "--wrong_target none does not go with --readout cls: it has no score per prompt; take --readout prompt",
        ),
        ("--prompt_layer 99", "--prompt_layer 99 is too deep: the backbone has blocks 0 to 1"),
        ("--model_name scratch:huge", "no preset 'scratch:huge'; choose one of scratch:vit_digits"),
        ("--image_size 10", "--image_size 10 is not a multiple of the patch size 4 of scratch:tiny; 8 and 12 are"),
        ("--image_size 1", "patch size 4 of scratch:tiny; 4 is"),
        ("--lora_r 8", "--lora_r: scratch:tiny trains whole; leave it out, or give --tune lora"),
        ("--tune prompts --lora_alpha 8", "--lora_alpha: --tune prompts has no adapters"),
        ("--image_size 0", "--image_size"),
        ("--gpu_id 3", "--gpu_id and --cpu exclude each other"),
        ("--gpu_id -1", "--gpu_id"),
        ("--batch_size 0", "--batch_size"),
        ("--batch_size many", "'many' is not a valid integer"),
        ("--epochs 0", "--epochs"),
        ("--lr -1", "--lr"),
        ("--lr nan", "Invalid value for '--lr': nan is not a finite number"),
        ("--weight_decay inf", "Invalid value for '--weight_decay': inf is not a finite number"),
        ("--seed -1", "--seed"),
        ("--size 32", "--size 32 is not a MedMNIST resolution"),
        ("--data_type audio", "holds images; use audiofolder:PATH"),
        ("--data_type video", "'video' is not one of 'image', 'audio'"),
        ("--readout tokens", "'tokens' is not one of 'cls', 'prompt'"),
        ("--lora_dropout 1", "--lora_dropout 1.0 drops everything"),
        ("--max_subsets 3", "No such option '--max_subsets'"),
        ("--class_names red,green", "but there are 2 classes"),
        ("--class_names red,red,blue,grey", "'red' occurs twice"),
        ("--colour blue", "No such option"),
        ("--batchsize 4", "Did you mean one of:"),
        ("surplus", "unexpected extra argument (surplus)"),
        ("--lr", "--lr"),
    ],
)
def test_options_that_make_no_sense_are_refused(refuse: Refuse, tmp_path: Path, options: str, message: str) -> None:
    npz = write_npz(tmp_path / "colours.npz")
    assert message in refuse(*train_arguments(npz, tmp_path / "out"), *options.split())
    assert files(tmp_path / "out") == []


@pytest.mark.usefixtures("preset")
def test_a_gpu_that_is_not_there_is_refused(refuse: Refuse, npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    arguments = [text for text in train_arguments(npz, npz.parent / "out") if text != "--cpu"]
    assert "--gpu_id 3: this machine has no GPU" in refuse(*arguments, "--gpu_id", "3")
    assert files(npz.parent / "out") == []


def test_a_backbone_folder_that_is_none_is_refused(refuse: Refuse, npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    arguments = [*train_arguments(npz, tmp_path / "out"), "--model_name", folder]
    assert f"{folder} has no config.json" in refuse(*arguments)
    (folder / "config.json").write_text("{")
    assert f"{folder / 'config.json'} is damaged" in refuse(*arguments)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert "is a 'bert' model; ViT, DeiT, DINOv2" in refuse(*arguments)
    (folder / "config.json").write_text('{"model_type": "vit", "image_size": 8, "patch_size": 4}')
    assert f"{folder} describes a model of at least" in refuse(*arguments)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    sizes = {"model_type": "vit", "image_size": 8, "patch_size": 4, **small}
    (folder / "config.json").write_text(json.dumps(sizes))
    assert f"cannot load the weights of '{folder}'" in refuse(*arguments)
    assert files(tmp_path / "out") == []


def test_a_hub_name_that_cannot_be_reached_is_refused(refuse: Refuse, npz: Path, tmp_path: Path) -> None:
    arguments = train_arguments(npz, tmp_path / "out")
    assert "cannot load backbone 'nobody/nothing'" in refuse(*arguments, "--model_name", "nobody/nothing")


def test_a_bundle_where_verify_expects_the_certificate_is_named(refuse: Refuse, tmp_path: Path) -> None:
    assert f"{tmp_path} is a folder; the certificate comes first" in refuse("verify", tmp_path)


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_a_save_folder_that_is_a_file_is_refused(refuse: Refuse, npz: Path, below: str) -> None:
    before = npz.read_bytes()
    error = refuse(*train_arguments(npz, npz / below))
    assert f"cannot write into {npz / below}: a file stands where a folder is needed" in error
    assert npz.read_bytes() == before


def test_dashes_in_option_names_are_the_same_as_underscores() -> None:
    for name in ("--batch-size", "--batch_size"):
        assert train.make_context("train", [name, "7"]).params["batch_size"] == 7
    for name in ("--no-hflip", "--no_hflip"):
        assert train.make_context("train", [name]).params["hflip"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "No such command 'trian'"),
        ("export onxx", "No such command 'onxx'"),
        ("forget", "Missing option"),
        ("--colour", "No such option"),
    ],
)
def test_commands_that_do_not_exist_or_are_incomplete_are_refused(refuse: Refuse, arguments: str, message: str) -> None:
    error = refuse(*arguments.split())
    assert message in error
    assert "--help')" in error


@pytest.mark.parametrize("arguments", [[], ["export"]], ids=["pfm", "pfm export"])
def test_a_command_alone_shows_its_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(pfm, arguments) == 2
    assert capsys.readouterr().err.startswith(" ".join(["Usage: pfm", *arguments, "[OPTIONS] COMMAND"]))


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["eval", "forget --classes 0", "export onnx --out out"])
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "no checkpoint"),
        (lambda path: path.mkdir(), "is a folder, and has no checkpoint in it"),
        (lambda path: path.touch(), "is not a checkpoint, or is damaged"),
        (lambda path: path.write_text("a text\nof two lines"), "is not a checkpoint, or is damaged"),
        (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "is not a checkpoint, or is damaged"),
        (lambda path: torch.save(torch.zeros(3), path), "is not a checkpoint of pfm or of the paper's tool"),
        (lambda path: torch.save({"weight": torch.zeros(3)}, path), "is not a checkpoint of pfm"),
        (lambda path: torch.save({"model_state_dict": {"weight": torch.zeros(3)}}, path), "holds 'weight'"),
        (lambda path: torch.save({"format": "pfm-checkpoint", "version": 99}, path), "of format 99"),
        (lambda path: torch.save({"format": "pfm-checkpoint", "version": 1}, path), "is a damaged checkpoint"),
    ],
    ids=[
        "missing", "folder", "empty", "text", "noise", "tensor", "other", "paper-like", "newer", "incomplete",
    ],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_refused(
    refuse: Refuse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    write: Callable[[Path], Any] | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    if write is not None:
        write(path)
    before = files(tmp_path)
    error = refuse(*command.split(), "--ckpt", path)
    assert message in error
    assert str(path) in error
    assert files(tmp_path) == before


def test_a_pickled_object_is_never_run(refuse: Refuse, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for content in (Tripwire(mark), {"format": "pfm-checkpoint", "run": Tripwire(mark)}):
        torch.save(content, tmp_path / "model.pt")
        error = refuse("forget", "--ckpt", tmp_path / "model.pt", "--classes", "0")
        assert "is not a checkpoint, or is damaged" in error
        assert "weights_only=False" not in error  # torch's advice, which would run it
    assert files(tmp_path) == [tmp_path / "model.pt"]


def test_a_truncated_checkpoint_is_refused(refuse: Refuse, ckpt: Path) -> None:
    whole = ckpt.read_bytes()
    for length in (1, 100, len(whole) // 2, len(whole) - 1):
        ckpt.write_bytes(whole[:length])
        assert "is not a checkpoint, or is damaged" in refuse("forget", "--ckpt", ckpt, "--classes", "0")
    assert files(ckpt.parent) == [ckpt]


def test_a_checkpoint_with_a_byte_that_was_not_written_is_refused(refuse: Refuse, ckpt: Path) -> None:
    whole = ckpt.read_bytes()
    with zipfile.ZipFile(ckpt) as archive:
        tensor = max(archive.infolist(), key=lambda entry: entry.file_size)
        middle = tensor.header_offset + len(tensor.FileHeader()) + tensor.file_size // 2
    ckpt.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert "is not a checkpoint, or is damaged" in refuse("forget", "--ckpt", ckpt, "--classes", "0")
    assert "is not a checkpoint, or is damaged" in refuse("show", ckpt)


def test_a_folder_in_place_of_a_checkpoint_is_refused_with_the_newest_in_it(refuse: Refuse, ckpt: Path) -> None:
    assert f"{ckpt.parent} is a folder; name the file, such as {ckpt}" in refuse("eval", "--ckpt", ckpt.parent)


def test_what_a_terminal_would_obey_is_written_out(refuse: Refuse, tmp_path: Path) -> None:
    assert "no checkpoint a\\x1b[31mb" in refuse("eval", "--ckpt", "a\x1b[31mb")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("gren", "no class 'gren'; did you mean 'green'? (classes: 0 red, 1 green, 2 blue, 3 grey)"),
        ("red,7", "no class '7'"),
        ("0,1,2,3", "forgetting red, green, blue, grey would leave no class"),
        ("red,0,green,blue,grey", "would leave no class"),
        (",", "no class is named"),
        ("", "is empty"),
    ],
)
def test_classes_that_cannot_be_forgotten_are_refused(refuse: Refuse, ckpt: Path, classes: str, message: str) -> None:
    assert message in refuse("forget", "--ckpt", ckpt, "--classes", classes)
    assert files(ckpt.parent) == [ckpt]


def test_forgetting_into_the_source_or_nowhere_is_refused(refuse: Refuse, ckpt: Path) -> None:
    before = ckpt.read_bytes()
    (ckpt.parent / "folder").mkdir()
    for out, message in ((ckpt, "is the source itself"), (ckpt.parent / "folder", "exists; choose another"),
                         (ckpt / "sub.pt", "cannot write")):  # fmt: skip
        assert message in refuse("forget", "--ckpt", ckpt, "--classes", "red", "--out", out)
    assert ckpt.read_bytes() == before
    assert files(ckpt.parent) == [ckpt]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--suspend violet", "no class 'violet'"),
        ("--suspend red,green,blue,grey", "leave at least one active"),
        ("--dataset digits", "(0, 1, 2, 3, 4, 5, 6, 7, 8, 9) are not the model's (0 red"),
        ("--data_type audio", "holds sounds, but the model takes images"),
        ("--max_subsets 0", "--max_subsets"),
        ("--batch_size 8 --eval_batch_size 9", "--batch_size 8 and --eval_batch_size 9 are the same option; give one"),
        ("--suspend red --max_subsets 2", "is not measured with --suspend"),
        ("--image_size 12", "No such option '--image_size'"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(
    refuse: Refuse, ckpt: Path, tmp_path: Path, options: str, message: str
) -> None:
    folder = tmp_path / "out"
    assert message in refuse("eval", "--ckpt", ckpt, "--save_dir", folder, "--cpu", *options.split())
    assert files(folder) == []


# --- bundles --------------------------------------------------------------------------------------


def test_a_bundle_that_is_not_there_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    assert f"no bundle at {path}" in refuse("bench", "--bundle", path, "--out", tmp_path / "out")
    assert f"no checkpoint, bundle or folder {path}" in refuse("forget", "--in_place", path, "--classes", "0")
    path.mkdir()
    assert str(path) in refuse("bench", "--bundle", path, "--out", tmp_path / "out")
    assert str(path) in refuse("forget", "--in_place", path, "--classes", "0")
    assert files(tmp_path) == []


# --- what is no bad input -------------------------------------------------------------------------


def test_an_interruption_is_told_from_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert run(interrupted, []) == 130
    assert capsys.readouterr().err.strip() == "pfm: interrupted; files written so far are whole"


def test_a_bug_of_ours_is_not_dressed_up_as_bad_input() -> None:
    @click.command()
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(broken, [])


# --- help -----------------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "from pfm.cli import pfm, run\n"
        "code = run(pfm, ['--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    listed = [line.split()[0] for line in answer.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == list(COMMANDS)
