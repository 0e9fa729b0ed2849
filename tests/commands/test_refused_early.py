"""What can be refused at no cost is refused before anything is loaded that takes long: data, a backbone, a graph."""

from pathlib import Path
from typing import Any

import pytest

from making.bundles import make_bundle
from making.checkpoints import image_checkpoint
from making.commands import Refuse
from making.files import files
from making.images import write_npz
from making.models import TINY
from pfm.backbones.family import PRESETS
from pfm.data.readers import DigitsReader, FolderReader, HuggingFaceReader, MedMnistReader, NpzReader
from pfm.model.checkpoint import save_checkpoint

READERS = (DigitsReader, FolderReader, HuggingFaceReader, MedMnistReader, NpzReader)
UNWRITABLE = "a file stands where a folder is needed"


def touched(*_: Any, **__: Any) -> None:
    pytest.fail("it was loaded before the request was refused")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a bundle, a data set of four classes, and of three, a file, and no backbone."""
    folder = tmp_path_factory.mktemp("early")
    save_checkpoint(folder / "model.pt", image_checkpoint("cls"))
    make_bundle(folder / "bundle")
    write_npz(folder / "four.npz")
    write_npz(folder / "three.npz", num_classes=3)
    (folder / "file").touch()
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").touch()
    return folder


@pytest.fixture
def early(made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Refuses, with no backbone and no graph to be had."""
    monkeypatch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf_cache")
    for module in ("pfm.model.checkpoint", "pfm.training.setup", "pfm_bench.targets.workbench"):
        monkeypatch.setattr(f"{module}.build_backbone", touched)
    monkeypatch.setattr("onnxruntime.InferenceSession", touched)
    monkeypatch.chdir(made)
    return Refuse(capsys)


@pytest.fixture
def earlier(early: Refuse, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """With no data either."""
    for reader in READERS:
        monkeypatch.setattr(reader, "read", touched)
    return early


TINY_MODEL = "--model_name scratch:tiny --cpu"
COPY = "--ckpt model.pt --class red"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train --dataset bloodmist", "did you mean 'bloodmnist'?"),
        ("train --dataset chestmnist", "several labels"),
        ("train --dataset organmnist3d", "holds volumes"),
        ("train --dataset nowhere.npz", "no file nowhere.npz"),
        ("train --dataset digits --class_names a,b", "gives 2 names, but the data has 10"),
        ("train --dataset bloodmnist --class_names a,b", "gives 2 names, but the data has 8"),
        ("train --dataset four.npz --size 28", "--size: for MedMNIST by name"),
        ("train --dataset digits --data_dir full", "--data_dir: for MedMNIST by name"),
        ("train --dataset four.npz --max_seconds 5", "--max_seconds: for sounds"),
        ("train --dataset audiofolder:full --fit crop --depth range", "--fit, --depth: for images"),
        ("train --dataset four.npz --label_column finding", "--label_column: for folders"),
        ("train --dataset four.npz --label_from name:{a}_{b} --label a", "--label_from: for folders"),
        ("train --dataset four.npz --ignore a", "--table and --ignore are for folders of files"),
        ("train --dataset four.npz --group patient --hash_groups file/key", UNWRITABLE),
        ("train --dataset four.npz --group patient --hash_groups file", "is empty; delete it"),
        ("train --dataset four.npz --save_dir file/runs", UNWRITABLE),
        ("train --dataset four.npz --cache file/cache", UNWRITABLE),
        ("train --dataset four.npz --prompt_start secret --init_key file/keys", UNWRITABLE),
        ("train --dataset four.npz --resume nowhere.pt", "no checkpoint nowhere.pt"),
        ("train --dataset four.npz --resume four.npz", "four.npz is not a checkpoint"),
        ("train --dataset bloodmist --plan", "did you mean 'bloodmnist'?"),
        (f"train --dataset four.npz --prompt_layer 99 {TINY_MODEL}", "is too deep"),
        (f"train --dataset four.npz --others_gradient 0.5 {TINY_MODEL}", "give --tune prompts"),
        (f"train --dataset four.npz --cache_trunk host {TINY_MODEL}", "--tune full trains them"),
        ("eval --ckpt model.pt --dataset four.npz --suspend mauve", "no class 'mauve'"),
        ("eval --ckpt model.pt --dataset four.npz --suspend red,green,blue,grey", "every class is suspended"),
        ("eval --ckpt model.pt --dataset four.npz --save_dir file/out", UNWRITABLE),
        ("eval --ckpt model.pt --dataset four.npz --frozen_dtype bf16", "has nothing frozen"),
        ("export onnx --ckpt model.pt --dataset four.npz --out full", "full exists and is not empty"),
        ("export onnx --ckpt model.pt --dataset four.npz --out file/bundle", UNWRITABLE),
        ("export onnx --ckpt model.pt --dataset four.npz --out new --triton file/models", UNWRITABLE),
        ("export onnx --ckpt model.pt --dataset four.npz --out new --split", "--split needs a model"),
        ("export onnx --ckpt model.pt --dataset four.npz --out new --with_sums", "--with_sums is for"),
        ("export check nowhere --ckpt model.pt", "there is no bundle at"),
        (f"forget {COPY} --on_test_data --out file/less.pt", UNWRITABLE),
        (f"forget {COPY} --on_test_data --certificate file/cert.json", UNWRITABLE),
        (f"forget {COPY} --on_test_data --certificate cert.json --key file/key", UNWRITABLE),
        (f"forget {COPY} --on_test_data --out three.npz", "three.npz exists"),
        ("forget --in_place model.pt --class red --certificate file/cert.json", UNWRITABLE),
        (f"scrub {COPY} --dataset four.npz --out file/less.pt", UNWRITABLE),
        (f"scrub {COPY} --dataset four.npz --class green --class blue --class grey", "would leave no class"),
        (f"audit {COPY} --dataset four.npz --out file/report", UNWRITABLE),
        (f"audit {COPY} --dataset four.npz --forgotten nowhere.pt", "no checkpoint nowhere.pt"),
        (f"audit {COPY} --dataset four.npz --bundle nowhere", "there is no bundle at"),
        (f"audit {COPY} --dataset four.npz --class green --class blue --class grey", "would leave no class"),
        ("learn --ckpt model.pt --dataset four.npz --out file/more.pt", UNWRITABLE),
        ("predict model.pt file --active mauve", "no class 'mauve'"),
        ("predict bundle file --active mauve", "no class 'mauve'"),
        ("predict bundle file --profile ward", "no profile 'ward'"),
        ("predict model.pt file nowhere.png", "cannot read nowhere.png: it is not there"),
        ("predict bundle file nowhere.png", "cannot read nowhere.png: it is not there"),
        ("predict model.pt nothing*.png", "nothing fits nothing*.png"),
        ("predict model.pt full", "the model takes images"),
        ("predict model.pt file --out full", "a folder of that name exists"),
        ("bench forget --ckpt model.pt --dataset four.npz --class mauve", "no class 'mauve'"),
        (f"bench forget {COPY} --dataset four.npz --out file/bench", UNWRITABLE),
        ("bench train --out file/bench", UNWRITABLE),
        ("bench eval --out file/bench", UNWRITABLE),
        ("bench serve --bundle bundle --out file/bench", UNWRITABLE),
        ("bench serve --bundle bundle --ckpt nowhere.pt", "no checkpoint nowhere.pt"),
        ("demo --out file/demo", UNWRITABLE),
        ("demo --forget eleven", "no class 'eleven'"),
        ("demo --data_type audio", "no sounds come with the package"),
        ("demo --label_from name:{a} --label a", "are about --dataset"),
        ("demo --dataset digits", "pfm demo takes its own images"),
    ],
)  # fmt: skip
def test_it_is_refused_before_data_or_a_backbone_is_loaded(earlier: Refuse, made: Path, line: str, says: str) -> None:
    before = files(made)
    assert says in earlier(*line.split())
    assert files(made) == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--dataset four.npz --best_metric class_9", "--best_metric class_9: the classes are 0, 1, 2, 3"),
        ("--dataset three.npz --readout prompt --wrong_target others", "it takes at least 4 classes"),
        ("--dataset four.npz --class_names a,b,c,unknown --readout prompt --wrong_target none", "called 'unknown'"),
    ],
)
def test_what_does_not_go_with_the_classes_is_refused_before_a_backbone_is_loaded(
    early: Refuse, tmp_path: Path, line: str, says: str
) -> None:
    assert says in early("train", *line.split(), *TINY_MODEL.split(), "--save_dir", tmp_path / "out")
    assert files(tmp_path / "out") == []
