"""Every form of `--dataset`, and what each says when it does not fit."""

import gc
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import medmnist
import numpy as np
import pytest
import torch
from PIL import Image

from making.images import coloured_images, write_npz
from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.inputs import Storage
from pfm.data.loading import load_data
from pfm.data.readers import READERS
from pfm.data.reading import Intake
from pfm.data.sounds import SoundStorage
from pfm.data.splits import ClassificationData, Split, class_list, split_off_test
from pfm.errors import ClassNameError, ConfigError, DataError, StorageError


def load(dataset: str | Path, *, image_size: int = 8, **options: Any) -> ClassificationData:
    return load_data(DataConfig(dataset=str(dataset), **options), ImageStorage(image_size))


def refusal(dataset: str | Path, **options: Any) -> str:
    """What a data set that cannot be used is answered with; always one line."""
    with pytest.raises(DataError) as caught:
        load(dataset, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's cache, in a folder of the test's own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf_cache")


# --- configuration --------------------------------------------------------------------------------


def test_a_size_that_medmnist_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="--size 32 is not a MedMNIST resolution"):
        DataConfig(size=32)


def test_images_by_name_are_refused_as_sounds() -> None:
    with pytest.raises(ConfigError, match="holds images; use audiofolder:PATH"):
        DataConfig(data_type="audio", dataset="imagefolder:somewhere")
    for name in ("digits", "bloodmnist", "some.npz"):
        with pytest.raises(ConfigError, match="holds images; use audiofolder:PATH"):
            load_data(DataConfig(data_type="audio", dataset=name), SoundStorage())
        with pytest.raises(ConfigError, match="holds sounds, but the model takes images"):
            load_data(DataConfig(data_type="audio", dataset=name), ImageStorage(8))


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("bloodmnist", "bloodmnist"),
        ("digits", "digits"),
        ("mnist", "mnist"),
        ("someone/animals", "someone_animals"),
        ("some/where/scans_64.npz", "scans_64"),
        ("scans.v2.npz", "scans.v2"),
        ("imagefolder:some/where/animals", "animals"),
        ("imagefolder:animals/", "animals"),
        ("./animals", "animals"),
        ("/data/animals/", "animals"),
        ("~/animals", "animals"),
    ],
)
def test_a_data_set_has_a_short_name_for_its_files(dataset: str, name: str) -> None:
    assert DataConfig(dataset=dataset).short_name == name


def test_a_folder_that_is_there_is_named_by_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some" / "animals").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert DataConfig(dataset="some/animals").short_name == "animals"
    assert DataConfig(dataset="imagefolder:.").short_name == tmp_path.name


def test_a_loaded_data_set_bears_its_short_name(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "scans.v2.npz")
    assert load(path).name == DataConfig(dataset=str(path)).short_name == "scans.v2"


# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_split_the_same_way_every_time() -> None:
    first, second = load("digits"), load("digits")
    assert len(first.train) + len(first.test) == 1797
    assert first.train.inputs.shape[1:] == (1, 8, 8)
    assert (first.train.inputs.min(), first.train.inputs.max()) == (0, 255)
    assert first.classes.names == tuple("0123456789")
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.test.labels, second.test.labels)


def test_digits_hold_out_a_fifth_of_each_class() -> None:
    data = load("digits")
    train, test = (torch.bincount(split.labels) for split in (data.train, data.test))
    share = test / (train + test)
    assert share.min() > 0.18
    assert share.max() < 0.22


def test_digits_may_be_renamed() -> None:
    names = "zero,one,two,three,four,five,six,seven,eight,nine"
    assert load("digits", class_names=names).classes.names == tuple(names.split(","))
    assert "gives 2 names, but the data has 10 classes" in refusal("digits", class_names="a,b")


# --- .npz files in MedMNIST's layout --------------------------------------------------------------


def test_an_npz_in_colour_is_read_as_it_is(npz: Path) -> None:
    data = load(npz)
    images, labels = coloured_images(64, seed=len("train"))
    assert np.array_equal(data.train.inputs.permute(0, 2, 3, 1).numpy(), images)
    assert np.array_equal(data.train.labels.numpy(), labels[:, 0])
    assert (len(data.train), len(data.test), data.val) == (64, 22, None)
    assert data.classes.names == ("0", "1", "2", "3")
    assert data.train.labels.dtype == torch.int64


def test_an_npz_in_grey_with_flat_labels_is_read(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (30, 5, 7), dtype=np.uint8)
    labels = (np.arange(30) % 3).astype(np.int64)
    path = tmp_path / "grey.npz"
    np.savez(path, train_images=grey, train_labels=labels, test_images=grey[:6], test_labels=labels[:6])
    data = load(path)
    assert np.array_equal(data.train.inputs[:, 0].numpy(), grey)
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_an_npz_with_a_validation_split_keeps_it(tmp_path: Path) -> None:
    images, labels = coloured_images(12)
    data = load(write_npz(tmp_path / "a.npz", val_images=images, val_labels=labels))
    assert data.val is not None
    assert [name for name, _ in data.splits()] == ["train", "val", "test"]
    assert np.array_equal(data.val.labels.numpy(), labels[:, 0])


def test_classes_of_an_npz_may_be_named(npz: Path) -> None:
    assert load(npz, class_names="red, green,blue ,grey").classes.names == ("red", "green", "blue", "grey")
    with pytest.raises(ClassNameError, match="'red' occurs twice"):
        load(npz, class_names="red,red,blue,grey")
    assert "no training image of class violet" in refusal(npz, class_names="red,green,blue,grey,violet")
    assert "run from 0 to 3, but there are 2 classes" in refusal(npz, class_names="red,green")


def test_an_npz_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"no file {tmp_path / 'a.npz'}" in refusal(tmp_path / "a.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "no file" in refusal(tmp_path / "folder.npz")


@pytest.mark.parametrize("missing", ["train_images", "train_labels", "test_images", "test_labels"])
def test_an_npz_that_lacks_an_array_is_told_which(tmp_path: Path, missing: str) -> None:
    changes: dict[str, Any] = {missing: None}
    text = refusal(write_npz(tmp_path / "a.npz", **changes))
    assert f"lacks {missing}; MedMNIST's layout is" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": np.full((22, 1), 4, dtype=np.uint8)}, "test labels run from 4 to 4, but there are 4 classes"),
        ({"test_labels": np.full((22, 1), -1)}, "test labels run from -1 to -1"),
        ({"train_labels": np.arange(64)[:, None] % 4 - 1}, "labels run from -1 to 2 over 64 images; labels count"),
        ({"train_labels": np.full((64, 1), -1)}, "train labels run from -1 to -1"),
        ({"train_labels": np.arange(64)[:, None] % 4 * 2}, "no training image of class 1, 3, 5"),
        ({"train_labels": np.zeros((64, 1), dtype=int)}, "has 1 class (0); at least two are needed"),
        ({"train_labels": np.arange(64)[:, None] % 4 / 1}, "(train_labels) holds float64 values; whole numbers"),
        ({"train_labels": np.ones((64, 1), dtype=bool)}, "(train_labels) holds bool values"),
        ({"train_labels": np.zeros((64, 14), dtype=int)}, "has shape 64x14; one label for each image"),
        ({"train_labels": np.zeros((60, 1), dtype=int)}, "64 train images but 60 labels"),
        ({"train_labels": np.zeros((0, 1), dtype=int)}, "64 train images but 0 labels"),
        ({"test_labels": np.zeros((21, 1), dtype=int)}, "22 test images but 21 labels"),
        ({"train_images": np.zeros((64, 8, 8, 3), dtype=np.float32)}, "(train_images) holds float32 images; uint8"),
        ({"train_images": np.zeros((64, 8, 8, 4), dtype=np.uint8)}, "(train_images) has shape 64x8x8x4"),
        ({"train_images": np.zeros((0, 8, 8, 3), dtype=np.uint8)}, "at least one image"),
        ({"train_images": np.array([{}] * 64)}, "holds Python objects, which are not loaded"),
    ],
)  # fmt: skip
def test_an_npz_whose_arrays_do_not_fit_is_told_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(write_npz(tmp_path / "a.npz", **changes))


def test_labels_that_are_no_class_numbers_are_refused_at_once(tmp_path: Path) -> None:
    """A column of identifiers in place of labels must not make a trillion classes."""
    labels = 10**12 + np.arange(64)[:, None] % 4
    text = refusal(write_npz(tmp_path / "a.npz", train_labels=labels))
    assert "labels run from 1000000000000 to 1000000000003 over 64 images" in text
    assert len(text) < 300


def test_missing_classes_are_not_listed_without_end(tmp_path: Path) -> None:
    labels = np.arange(64)[:, None] % 4 * 20
    text = refusal(write_npz(tmp_path / "a.npz", train_labels=labels))
    assert "no training image of class 1, 2, 3" in text
    assert len(text) < 300


def test_a_truncated_npz_is_told_from_a_whole_one(npz: Path) -> None:
    whole = npz.read_bytes()
    for length in (0, 10, 200, len(whole) // 2, len(whole) - 30):
        npz.write_bytes(whole[:length])
        assert "is truncated or not an .npz file" in refusal(npz)


def test_a_damaged_npz_never_ends_in_anything_but_a_data_error(npz: Path) -> None:
    write_npz(npz, train=8, test=4)
    whole = npz.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        # the directory at the end of a zip file, and the headers at the start, are what breaks in most ways
        for place in (random.integers(200), len(whole) - 1 - random.integers(600)):
            damaged[place] = random.integers(256)
        npz.write_bytes(damaged)
        try:
            load(npz)
        except DataError:
            refused += 1
    assert refused > 50


class Tripwire:
    """An object whose unpickling leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


def test_an_npz_that_holds_pickled_objects_runs_none_of_them(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    objects = np.empty((64, 1), dtype=object)
    objects[:] = Tripwire(mark)
    assert "pickle" in refusal(write_npz(tmp_path / "a.npz", train_labels=objects))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Tripwire(mark)))
    refusal(tmp_path / "b.npz")
    assert not mark.exists()


def test_another_file_called_npz_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(4))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    assert "not an .npz file" in refusal(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_text("a text")
    assert "not an .npz file" in refusal(tmp_path / "a.npz")


# --- MedMNIST by name -----------------------------------------------------------------------------


def write_medmnist(folder: Path, name: str, file: str, **changes: Any) -> None:
    num_classes = len(medmnist.INFO[name]["label"])
    images, labels = coloured_images(3 * num_classes, num_classes=num_classes)
    write_npz(folder / file, num_classes=num_classes, val_images=images, val_labels=labels, **changes)


@pytest.mark.parametrize(
    ("size", "file"),
    [(28, "bloodmnist.npz"), (64, "bloodmnist_64.npz"), (128, "bloodmnist_128.npz"), (224, "bloodmnist_224.npz")],
)
def test_a_medmnist_name_is_read_from_the_folder_of_its_file(tmp_path: Path, size: int, file: str) -> None:
    write_medmnist(tmp_path, "bloodmnist", file)
    data = load("bloodmnist", data_dir=str(tmp_path), size=size)
    assert data.name == "bloodmnist"
    assert data.classes.names == tuple(medmnist.INFO["bloodmnist"]["label"][str(i)] for i in range(8))
    assert [len(split) for _, split in data.splits()] == [64, 24, 22]


def test_classes_of_a_medmnist_set_may_be_renamed(tmp_path: Path) -> None:
    write_medmnist(tmp_path, "octmnist", "octmnist.npz")
    names = load("octmnist", data_dir=str(tmp_path), size=28, class_names="CNV,DME,drusen,normal").classes.names
    assert names == ("CNV", "DME", "drusen", "normal")


def test_a_medmnist_file_with_fewer_classes_than_its_name_promises_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "bloodmnist.npz", num_classes=4)
    assert "no training image of class" in refusal("bloodmnist", data_dir=str(tmp_path), size=28)


def test_an_octmnist_run_trains_on_the_val_split(tmp_path: Path) -> None:
    write_medmnist(tmp_path, "octmnist", "octmnist.npz")
    data = load("octmnist", data_dir=str(tmp_path), size=28)
    assert (len(data.train), data.val, len(data.test)) == (12, None, 22)
    assert "val split" in data.notes[0]
    assert "note: trained on the val split" in data.describe(ImageStorage(8))


def test_octmnist_without_a_val_split_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "octmnist.npz")
    assert "lacks val_images, val_labels" in refusal("octmnist", data_dir=str(tmp_path), size=28)


def test_medmnist_sets_with_several_labels_or_volumes_are_refused() -> None:
    assert "gives an image several labels" in refusal("chestmnist")
    assert "holds volumes" in refusal("organmnist3d")


def test_every_flat_single_label_medmnist_set_is_known_by_name(tmp_path: Path) -> None:
    for name, info in medmnist.INFO.items():
        if not name.endswith("3d") and "multi-label" not in info["task"]:
            write_medmnist(tmp_path, name, f"{name}.npz")
            data = load(name, data_dir=str(tmp_path), size=28)
            assert len(data.classes) == len(info["label"])


def pretend_download(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]) -> None:
    """Put something in the place of medmnist's bloodmnist that acts on the file it is to write."""

    class BloodMNIST(medmnist.BloodMNIST):
        def download(self) -> None:
            act(Path(self.root) / f"{self.flag}{self.size_flag}.npz")

    monkeypatch.setattr(medmnist, "BloodMNIST", BloodMNIST)


def test_a_medmnist_set_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def act(path: Path) -> None:
        downloads.append(path.name)
        write_medmnist(path.parent, "bloodmnist", path.name)

    pretend_download(monkeypatch, act)
    folder = tmp_path / "not" / "there" / "yet"
    for _ in range(2):
        assert len(load("bloodmnist", data_dir=str(folder)).classes) == 8
    assert downloads == ["bloodmnist_224.npz"]
    assert [path.name for path in folder.iterdir()] == ["bloodmnist_224.npz"]


@pytest.mark.parametrize("error", [RuntimeError("Automatic\n   download failed!"), ConnectionError("no route to host")])
def test_a_failed_download_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def act(path: Path) -> None:
        path.write_bytes(b"the first half")
        raise error

    pretend_download(monkeypatch, act)
    text = refusal("bloodmnist", data_dir=str(tmp_path), size=64)
    assert "bloodmnist could not be downloaded" in text
    assert f"put bloodmnist_64.npz into {tmp_path} by hand" in text
    assert medmnist.INFO["bloodmnist"]["url_64"] in text
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(path: Path) -> None:
        path.write_bytes(b"the first half")
        raise KeyboardInterrupt

    pretend_download(monkeypatch, act)
    with pytest.raises(KeyboardInterrupt):
        load("bloodmnist", data_dir=str(tmp_path), size=28)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_that_medmnist_takes_for_a_failure_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its downloader catches everything, Ctrl-C too, and raises a RuntimeError."""

    def act(path: Path) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise RuntimeError("Automatic download failed!")  # noqa: B904  # as medmnist does it

    pretend_download(monkeypatch, act)
    with pytest.raises(KeyboardInterrupt):
        load("bloodmnist", data_dir=str(tmp_path), size=28)


def test_a_failed_download_gives_the_cause_and_not_medmnists_manual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(path: Path) -> None:
        try:
            raise OSError("Name or service not known")
        except OSError:
            raise RuntimeError("Automatic download failed!\n1. [Optional] Check")  # noqa: B904  # as medmnist does it

    pretend_download(monkeypatch, act)
    text = refusal("bloodmnist", data_dir=str(tmp_path), size=28)
    assert "could not be downloaded (Name or service not known)" in text


def test_a_download_into_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write into .*file.*--data_dir"):
        load("bloodmnist", data_dir=str(tmp_path / "file"))


# --- image folders --------------------------------------------------------------------------------


def save_image(path: Path, array: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def write_folder(folder: Path, count: int, *, size: int = 8, seed: int = 0, suffix: str = "png") -> None:
    """`count` images in a folder for each of four classes."""
    images, labels = coloured_images(count, size=size, seed=seed)
    for index, (image, label) in enumerate(zip(images, labels[:, 0], strict=True)):
        name = ("apple", "banana", "cherry", "date")[label]
        save_image(folder / name / f"{index:03d}.{suffix}", image)


@pytest.mark.usefixtures("cache")
def test_an_image_folder_with_both_splits_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit" / "train", 12)
    write_folder(tmp_path / "fruit" / "test", 8, seed=1)
    data = load(f"imagefolder:{tmp_path / 'fruit'}")
    assert (data.name, data.classes.names) == ("fruit", ("apple", "banana", "cherry", "date"))
    assert data.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    images, labels = coloured_images(8, seed=1)
    wanted = images[np.argsort(labels[:, 0], kind="stable")]
    assert np.array_equal(data.test.inputs.permute(0, 2, 3, 1).numpy(), wanted)
    assert data.notes == ()


@pytest.mark.usefixtures("cache")
def test_an_image_folder_without_a_test_split_holds_some_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit", 40)
    first, second = (load(f"imagefolder:{tmp_path / 'fruit'}") for _ in range(2))
    assert torch.bincount(first.train.labels).tolist() == [8] * 4
    assert torch.bincount(first.test.labels).tolist() == [2] * 4
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert "held out" in first.notes[0]
    together = torch.cat([first.train.inputs, first.test.inputs]).flatten(1)
    assert len(together.unique(dim=0)) == 40  # nothing is in both


@pytest.mark.usefixtures("cache")
def test_an_image_folder_with_a_validation_split_only_is_tested_on_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit" / "train", 8)
    write_folder(tmp_path / "fruit" / "val", 4, seed=1)
    data = load(f"imagefolder:{tmp_path / 'fruit'}")
    assert (len(data.train), data.val, len(data.test)) == (8, None, 4)
    assert "tested on" in data.notes[0]


@pytest.mark.usefixtures("cache")
def test_an_image_folder_too_small_to_hold_out_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit", 4)
    assert "fruit has no test split and is too small to hold one out: class apple has one sample" in refusal(
        f"imagefolder:{tmp_path / 'fruit'}"
    )


@pytest.mark.usefixtures("cache")
def test_images_of_all_kinds_and_sizes_in_one_folder_become_alike(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shade = {"dark": 40, "light": 200}
    for split in ("train", "test"):
        for name, level in shade.items():
            folder = tmp_path / "mixed" / split / name
            height, width = random.integers(6, 20, 2)
            flat = np.full((height, width, 3), level, dtype=np.uint8)
            save_image(folder / "a.png", flat)
            save_image(folder / "b.JPG", flat[:, :-1], quality=95)
            save_image(folder / "c.png", flat[:-1, :, 0])  # grey
            save_image(folder / "d.png", np.dstack([flat, np.full_like(flat[:, :, :1], 255)]))  # with alpha
            save_image(folder / "e.png", np.full((9, 9), level * 257, dtype=np.uint16))  # 16 bits
            Image.fromarray(flat).quantize(4).save(folder / "f.gif")
    data = load(f"imagefolder:{tmp_path / 'mixed'}", image_size=10)
    for split in (data.train, data.test):
        assert split.inputs.shape == (12, 3, 10, 10)
        for image, label in zip(split.inputs, split.labels.tolist(), strict=True):
            level = shade[data.classes.names[label]]
            assert (image.int() - level).abs().max() <= 2  # JPEG may be off by a grey level or two


@pytest.mark.usefixtures("cache")
def test_splits_that_differ_in_size_and_colour_are_brought_to_one(tmp_path: Path) -> None:
    for split, shape in (("train", (9, 9)), ("test", (6, 6, 3))):
        for name, level in (("dark", 40), ("light", 200)):
            save_image(tmp_path / "mixed" / split / name / "a.png", np.full(shape, level, dtype=np.uint8))
    data = load(f"imagefolder:{tmp_path / 'mixed'}", image_size=7)
    assert data.train.inputs.shape == data.test.inputs.shape == (2, 3, 7, 7)
    assert data.train.inputs[1].unique().tolist() == [200]


@pytest.mark.usefixtures("cache")
def test_an_image_folder_with_one_class_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "fruit" / "apple" / "a.png", np.zeros((4, 4), dtype=np.uint8))
    assert "fruit has 1 class (apple); at least two are needed" in refusal(f"imagefolder:{tmp_path / 'fruit'}")


@pytest.mark.usefixtures("cache")
def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit" / "train", 8)
    write_folder(tmp_path / "fruit" / "test", 8)
    save_image(tmp_path / "fruit" / "test" / "elder" / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))
    assert "no training image of class elder" in refusal(f"imagefolder:{tmp_path / 'fruit'}")


@pytest.mark.usefixtures("cache")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # PIL leaves a truncated file to the collector
def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit", 40)
    victim = tmp_path / "fruit" / "banana" / "001.png"
    for content in (victim.read_bytes()[:80], b"", b"no image at all"):
        victim.write_bytes(content)
        text = refusal(f"imagefolder:{tmp_path / 'fruit'}")
        assert f"cannot decode {victim} (image 10 of fruit/train): " in text, content
        assert "fix the file, take it out, or give --skip_bad" in text, content
    gc.collect()


@pytest.mark.usefixtures("cache")
def test_a_folder_that_is_none_or_has_no_images_is_refused(tmp_path: Path) -> None:
    assert f"no folder {tmp_path / 'nowhere'}" in refusal(f"imagefolder:{tmp_path / 'nowhere'}")
    (tmp_path / "fruit" / "apple").mkdir(parents=True)
    assert "holds no images (.jpg, .jpeg, .png" in refusal(f"imagefolder:{tmp_path / 'fruit'}")
    (tmp_path / "fruit" / "apple" / "note.txt").write_text("no image")
    assert "(1 .txt; first: apple/note.txt)" in refusal(f"imagefolder:{tmp_path / 'fruit'}")


@pytest.mark.usefixtures("cache")
def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    for index in range(4):
        save_image(tmp_path / "fruit" / f"{index}.png", np.zeros((4, 4), dtype=np.uint8))
    assert "0.png is in no class's folder" in refusal(f"imagefolder:{tmp_path / 'fruit'}")


@pytest.mark.usefixtures("cache")
def test_a_folder_of_images_needs_no_prefix(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit" / "train", 8)
    write_folder(tmp_path / "fruit" / "test", 8)
    data = load(tmp_path / "fruit")
    assert (data.name, len(data.classes), len(data.test)) == ("fruit", 4, 8)


# --- Hugging Face ---------------------------------------------------------------------------------


def hf_split(
    count: int,
    *,
    labels: list[Any] | None = None,
    feature: Any = None,
    image_column: str = "picture",
    label_column: str = "kind",
    **columns: Any,
) -> datasets.Dataset:
    """A split with an image column and a label column of any name and type."""
    images, numbers = coloured_images(count)
    features = {
        image_column: datasets.Image(),
        label_column: feature or datasets.ClassLabel(names=["red", "green", "blue", "grey"]),
        **{name: datasets.Value("string") for name in columns},
    }
    content = {
        image_column: [Image.fromarray(image) for image in images],
        label_column: numbers[:, 0].tolist() if labels is None else labels,
        **columns,
    }
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def save_hf(folder: Path, **splits: Any) -> Path:
    parts: Any = splits  # the stubs know of no dictionary here
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


@pytest.mark.usefixtures("cache")
def test_a_saved_data_set_is_read_with_columns_found_by_type(tmp_path: Path) -> None:
    names = ["b", "a", "c", "b"]
    data = load(save_hf(tmp_path / "colours", train=hf_split(16), test=hf_split(4, name=names)))
    images, labels = coloured_images(16)
    assert np.array_equal(data.train.inputs.permute(0, 2, 3, 1).numpy(), images)
    assert np.array_equal(data.train.labels.numpy(), labels[:, 0])
    assert (data.name, data.classes.names, len(data.test)) == ("colours", ("red", "green", "blue", "grey"), 4)


@pytest.mark.usefixtures("cache")
def test_labels_that_are_strings_become_classes_in_alphabetical_order(tmp_path: Path) -> None:
    words = ["red", "green", "blue", "grey"] * 5
    text = datasets.Value("string")
    train = hf_split(20, labels=words, feature=text, label_column="label")
    test = hf_split(4, labels=words[:4], feature=text, label_column="label")
    data = load(save_hf(tmp_path / "colours", train=train, test=test))
    assert data.classes.names == ("blue", "green", "grey", "red")
    assert data.test.labels.tolist() == [3, 1, 0, 2]


@pytest.mark.usefixtures("cache")
def test_labels_that_are_any_whole_numbers_keep_them_as_names(tmp_path: Path) -> None:
    number = datasets.Value("int64")
    train = hf_split(8, labels=[10, 20] * 4, feature=number, label_column="target")
    data = load(save_hf(tmp_path / "colours", train=train, test=train))
    assert data.classes.names == ("10", "20")
    assert data.train.labels.tolist() == [0, 1] * 4


@pytest.mark.usefixtures("cache")
def test_a_single_saved_split_holds_some_out(tmp_path: Path) -> None:
    hf_split(40).save_to_disk(str(tmp_path / "colours"))
    data = load(tmp_path / "colours")
    assert (len(data.train), len(data.test)) == (32, 8)


@pytest.mark.usefixtures("cache")
def test_columns_may_be_named_where_there_are_several(tmp_path: Path) -> None:
    split = hf_split(8)
    split = split.add_column("sort", [1, 0] * 4, feature=datasets.ClassLabel(names=["x", "y"]))  # type: ignore[call-arg]
    black = [{"path": None, "bytes": encoded(Image.new("RGB", (8, 8)))}] * 8
    split = split.add_column("mask", black, feature=datasets.Image())  # type: ignore[call-arg]
    path = save_hf(tmp_path / "colours", train=split, test=split)
    assert "2 image columns (columns: picture, kind, sort, mask); name one with --input_column" in refusal(path)
    assert "2 label columns" in refusal(path, input_column="mask")
    data = load(path, input_column="mask", label_column="sort")
    assert data.classes.names == ("x", "y")
    assert data.train.inputs.max() == 0
    assert data.train.labels.tolist() == [1, 0] * 4


@pytest.mark.usefixtures("cache")
def test_columns_that_cannot_serve_are_named(tmp_path: Path) -> None:
    split = hf_split(8, note=["n"] * 8)
    path = save_hf(tmp_path / "colours", train=split, test=split)
    assert "no column 'image' (it has picture, kind, note)" in refusal(path, input_column="image")
    assert "no column 'label'" in refusal(path, label_column="label")
    assert "column 'note' holds no images;" in refusal(path, input_column="note")
    assert "column 'picture' holds no labels" in refusal(path, label_column="picture")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("feature", "labels", "message"),
    [
        (datasets.Value("string"), ["a", "b", None, "a"] * 2, "inputs without a label"),
        (datasets.ClassLabel(names=["a", "b"]), [0, None] * 4, "inputs without a label"),
        (datasets.ClassLabel(names=["a", "b"]), [0, -1] * 4, "train labels run from -1 to 0"),
        (datasets.Value("float32"), [0.5, 1.5] * 4, "column 'label' holds no labels"),
        (datasets.List(datasets.Value("int64")), [[0, 1]] * 8, "column 'label' holds no labels"),
        (datasets.Value("string"), ["a"] * 8, "has 1 class (a); at least two"),
    ],
)
def test_labels_that_cannot_serve_are_refused(tmp_path: Path, feature: Any, labels: list[Any], message: str) -> None:
    split = hf_split(8, labels=labels, feature=feature, label_column="label")
    assert message in refusal(save_hf(tmp_path / "colours", train=split, test=split))


@pytest.mark.usefixtures("cache")
def test_a_test_label_that_training_lacks_is_named(tmp_path: Path) -> None:
    text = datasets.Value("string")
    train = hf_split(4, labels=["a", "b"] * 2, feature=text, label_column="label")
    test = hf_split(2, labels=["a", "z"], feature=text, label_column="label")
    message = refusal(save_hf(tmp_path / "colours", train=train, test=test))
    assert "colours: split 'test' has the label 'z', which does not occur in training" in message


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("order", [["green", "red", "grey", "blue"], ["black", "grey", "blue", "green", "red"]])
def test_splits_that_number_their_names_otherwise_mean_the_same_classes(tmp_path: Path, order: list[str]) -> None:
    names = ["red", "green", "blue", "grey"]
    labels = [order.index(names[number % 4]) for number in range(8)]
    test = hf_split(8, labels=labels, feature=datasets.ClassLabel(names=order))
    data = load(save_hf(tmp_path / "colours", train=hf_split(8), validation=test, test=test))
    assert data.val is not None
    assert data.train.labels.tolist() == data.test.labels.tolist() == data.val.labels.tolist() == [0, 1, 2, 3] * 2
    other = hf_split(2, labels=[0, 1], feature=datasets.ClassLabel(names=["red", "pink"]))
    assert "has the label 'pink', which does not occur in training" in refusal(
        save_hf(tmp_path / "others", train=hf_split(8), test=other)
    )


@pytest.mark.usefixtures("cache")
def test_a_column_may_say_what_belongs_together(tmp_path: Path) -> None:
    groups = [f"p{number // 4}" for number in range(40)]
    data = load(save_hf(tmp_path / "colours", train=hf_split(40, patient=groups)), group="patient")
    assert data.train.groups is not None
    assert data.test.groups is not None
    assert not set(data.train.groups) & set(data.test.groups)
    assert "has no column 'site'" in refusal(tmp_path / "colours", group="site")


def test_an_npz_may_hold_groups_too(tmp_path: Path) -> None:
    patients = {"train_patient": np.arange(64) // 4, "test_patient": np.array([f"t{i}" for i in range(22)])}
    data = load(write_npz(tmp_path / "a.npz", **patients), group="patient")
    assert data.train.groups == tuple(str(number // 4) for number in range(64))
    assert data.test.groups is not None
    assert data.test.groups[3] == "t3"
    assert "lacks test_patient" in refusal(write_npz(tmp_path / "b.npz", train_patient=np.arange(64)), group="patient")
    assert "holds 5 values for 22 images" in refusal(
        write_npz(tmp_path / "c.npz", train_patient=np.arange(64), test_patient=np.arange(5)), group="patient"
    )


@pytest.mark.usefixtures("cache")
def test_a_missing_image_is_named(tmp_path: Path) -> None:
    images = [Image.new("RGB", (4, 4)), None, Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    split = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
    assert "cannot decode image 1 of colours/train" in refusal(save_hf(tmp_path / "colours", train=split, test=split))


@pytest.mark.usefixtures("cache")
def test_splits_of_other_names_are_understood_or_refused(tmp_path: Path) -> None:
    data = load(save_hf(tmp_path / "a", training=hf_split(8), dev=hf_split(4), eval=hf_split(4)))
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 4)
    assert "has no train split (it has everything)" in refusal(save_hf(tmp_path / "b", everything=hf_split(8)))


@pytest.mark.usefixtures("cache")
def test_an_empty_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_hf(tmp_path / "a", train=hf_split(8), test=hf_split(4))
    # an empty split cannot be saved to the disk, but a data set from elsewhere may have one
    parts: Any = {"train": hf_split(8), "test": hf_split(0)}
    loaded = datasets.DatasetDict(parts)
    monkeypatch.setattr(datasets, "load_from_disk", lambda _: loaded)
    assert "a: split 'test' is empty" in refusal(path)


@pytest.mark.usefixtures("cache")
def test_a_folder_that_holds_no_data_set_is_told_so(tmp_path: Path) -> None:
    assert f"cannot read {tmp_path} as a data set: " in refusal(tmp_path)
    (tmp_path / "dataset_dict.json").write_text("{")
    assert f"cannot read {tmp_path} as a data set: " in refusal(tmp_path)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("given", "meant"), [("bloodmist", "bloodmnist"), ("digit", "digits"), ("octmnsit", "octmnist")]
)
def test_an_unknown_data_set_gets_a_suggestion(given: str, meant: str) -> None:
    text = refusal(given)
    assert text.startswith(f"unknown data set {given!r}; did you mean {meant!r}? (no MedMNIST name")


@pytest.mark.usefixtures("cache")
def test_an_unknown_data_set_that_is_like_none_gets_no_suggestion() -> None:
    text = refusal("someone/xyzzy")
    assert text.startswith("unknown data set 'someone/xyzzy' (no MedMNIST name")


@pytest.mark.usefixtures("cache")
def test_loading_leaves_the_progress_bars_of_datasets_as_they_were(tmp_path: Path) -> None:
    assert datasets.is_progress_bar_enabled()
    path = save_hf(tmp_path / "a", train=hf_split(8), test=hf_split(4))
    load(path)
    assert datasets.is_progress_bar_enabled()


# --- a source from outside the package ------------------------------------------------------------


class ShadesReader:
    """`shades:N`: N images of each of two shades."""

    def takes(self, config: DataConfig) -> bool:
        return config.dataset.startswith("shades:")

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        config.check_kind("image")
        count = int(config.dataset.removeprefix("shades:"))
        labels = torch.arange(2).repeat(count)
        whole = Split((200 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4), labels)
        train, test, note = split_off_test(whole, config.dataset)
        return ClassificationData("shades", class_list(config, ["dark", "light"]), train, test, notes=(note,))


def test_a_reader_that_is_registered_from_outside_reads_its_source() -> None:
    READERS.register("shades", ShadesReader())
    try:
        data = load("shades:10")
        assert (len(data.train), len(data.test), data.classes.names) == (16, 4, ("dark", "light"))
        assert load("shades:10", class_names="night,day").classes.names == ("night", "day")
        assert "too small to hold one out" in refusal("shades:1")
        with pytest.raises(ConfigError, match="--data_type audio, but shades:10 holds images; use audiofolder:PATH"):
            load_data(DataConfig(dataset="shades:10", data_type="audio"), SoundStorage())
        assert load("digits").name == "digits"
    finally:
        READERS.remove("shades")


# --- description ----------------------------------------------------------------------------------


def test_a_description_counts_every_class_in_every_split(tmp_path: Path) -> None:
    images, labels = coloured_images(6)
    path = write_npz(tmp_path / "colours.npz", val_images=images, val_labels=labels)
    lines = load(path, class_names="red,green,blue,grey as a cat").describe(ImageStorage(8)).splitlines()
    assert lines[0] == "data set colours: 4 classes, images 8x8x3"
    assert [line.split() for line in lines[1:]] == [
        ["class", "train", "val", "test"],
        ["0", "red", "16", "2", "6"],
        ["1", "green", "16", "2", "6"],
        ["2", "blue", "16", "1", "5"],
        ["3", "grey", "as", "a", "cat", "16", "1", "5"],
        ["total", "64", "6", "22"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1  # a table


def test_a_part_of_a_split_keeps_images_and_labels_together() -> None:
    split = Split(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5))
    part = split.subset(torch.tensor([3, 1]))
    assert len(part) == 2
    assert part.inputs.flatten().tolist() == part.labels.tolist() == [3, 1]


def test_groups_and_names_stay_with_their_samples() -> None:
    split = Split(torch.arange(4).view(4, 1), torch.arange(4), groups=("a", "b", "a", "c"), names=("w", "x", "y", "z"))
    part = split.subset(torch.tensor([3, 0]))
    assert (part.groups, part.names) == (("c", "a"), ("z", "w"))
    less = split.relabelled(torch.tensor([1, -1, 0, -1]))
    assert (less.labels.tolist(), less.groups, less.names) == ([1, 0], ("a", "a"), ("w", "y"))
    both = part.followed_by(less)
    assert (both.labels.tolist(), both.names) == ([3, 0, 1, 0], ("z", "w", "w", "y"))
    assert part.followed_by(Split(split.inputs, split.labels)).names is None


def test_every_sample_is_named_by_its_source(tmp_path: Path, npz: Path) -> None:
    digits = load("digits")
    assert digits.train.names is not None
    assert digits.test.names is not None
    assert sorted(map(int, digits.train.names + digits.test.names)) == list(range(1797))
    assert load(npz).test.names == tuple(f"test/{row}" for row in range(22))
    data = load(save_hf(tmp_path / "colours", train=hf_split(4), test=hf_split(2)))
    assert data.test.names == ("test/0", "test/1")


@pytest.mark.usefixtures("cache")
def test_files_of_a_folder_are_named_relative_to_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "fruit" / "train", 8)
    write_folder(tmp_path / "fruit" / "test", 4)
    data = load(f"imagefolder:{tmp_path / 'fruit'}")
    assert data.test.names == tuple(f"test/{n}/00{i}.png" for i, n in enumerate(("apple", "banana", "cherry", "date")))
