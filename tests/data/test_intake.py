"""Files become the same bytes wherever they are kept, by however many processes; what is kept for later commands."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pfm.data.place as place
from pfm.cli import pfm, run
from pfm.data.cache import entries, erase_classes
from pfm.data.config import DataConfig, FeedConfig
from pfm.data.images import ImageStorage
from pfm.data.inputs import Storage
from pfm.data.loading import load_data
from pfm.data.place import choose_place
from pfm.data.reading import Intake
from pfm.data.room import parse_size, size_text
from pfm.data.rows import Rows
from pfm.data.sounds import SoundStorage
from pfm.data.splits import ClassificationData
from pfm.errors import ConfigError, DataError

CPU = torch.device("cpu")
FEEDS: list[dict[str, Any]] = [
    {"data_on": "host", "data_workers": 0},
    {"data_on": "host", "data_workers": 2},
    {"data_on": "disk"},
    {"data_on": "decode"},
    {"data_on": "decode", "data_workers": 2},
    {"data_on": "device"},
    {"data_memory": "1"},
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of many sizes, larger than the model, and a grey PNG."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (40 + number, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")
    Image.fromarray(random.integers(0, 255, (30, 30)).astype(np.uint8)).save(folder / "train" / "cat" / "grey.png")
    return folder


def load(
    dataset: str,
    storage: Storage | None = None,
    *,
    splits: frozenset[str] | None = None,
    bad: bool = False,
    **feed: Any,
) -> ClassificationData:
    intake = Intake(feed=FeedConfig(**feed), splits=splits)  # type: ignore[arg-type]  # of the options
    return load_data(DataConfig(dataset=dataset, skip_bad=bad), storage or ImageStorage(8), intake=intake)


def contents(data: ClassificationData) -> list[torch.Tensor]:
    return [split.inputs[torch.arange(len(split))] for _, split in data.splits()]


@pytest.mark.parametrize("feed", FEEDS[1:])
def test_images_are_the_same_bytes_wherever_they_are_kept(
    photos: Path, feed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfm.data.workers.PATIENCE_S", -1)
    alone, found = (load(f"imagefolder:{photos}", **options) for options in (FEEDS[0], feed))
    for one, other in zip(contents(alone), contents(found), strict=True):
        assert torch.equal(one, other)
    assert found.train.inputs.shape == (25, 3, 8, 8)
    assert isinstance(found.train.inputs, Rows)
    order = list(torch.randperm(25).split(4))
    ahead = list(found.train.inputs.batches(order, 2))
    assert all(torch.equal(batch, alone.train.inputs[index]) for batch, index in zip(ahead, order, strict=True))


def test_sounds_are_the_same_bytes_wherever_they_are_kept(tones: Path) -> None:
    storage = SoundStorage(8000, 4)
    alone = load(f"audiofolder:{tones}", storage, data_on="host", data_workers=0)
    kept: dict[str, Any] = {"cache": str(tones.parent / "kept")}
    for feed in (*FEEDS[2:4], kept, kept):
        found = load(f"audiofolder:{tones}", storage, **feed)
        assert all(torch.equal(a, b) for a, b in zip(contents(alone), contents(found), strict=True)), feed


def test_an_evaluation_decodes_only_the_split_it_needs(photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    whole = load(f"imagefolder:{folder}")
    for path in (folder / "train").rglob("?.jpg"):
        path.write_bytes(path.read_bytes()[:-100])  # the header is whole, the image is not
    data = load(f"imagefolder:{folder}", splits=frozenset({"test"}))
    assert torch.equal(data.test.inputs[torch.arange(10)], whole.test.inputs[torch.arange(10)])
    assert len(data.train) == 25
    with pytest.raises(DataError, match=r"cannot decode .*train/cat/0\.jpg .*truncated"):
        data.train.inputs[torch.tensor([0])]
    with pytest.raises(DataError, match=r"cannot decode .*train/cat/0\.jpg .*truncated"):
        load(f"imagefolder:{folder}", data_on="disk")
    kept = load(f"imagefolder:{folder}", bad=True, data_on="decode")
    assert (len(kept.train), len(kept.test)) == (5, 10)


def test_what_is_held_out_for_the_test_is_all_that_an_evaluation_decodes(photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos / "train", tmp_path / "photos"))
    whole = load(f"imagefolder:{folder}")
    data = load(f"imagefolder:{folder}", splits=frozenset({"test"}))
    assert torch.equal(contents(data)[1], contents(whole)[1])
    assert data.test.names == whole.test.names


def test_a_cache_spares_later_commands_the_decoding_until_something_changes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    dataset, cache = f"imagefolder:{folder}", str(tmp_path / "kept")
    first = load(dataset, cache=cache)
    monkeypatch.setattr("pfm.data.image_jobs.decode_image", None)
    again = load(dataset, cache=cache)
    assert all(torch.equal(a, b) for a, b in zip(contents(first), contents(again), strict=True))
    with pytest.raises(TypeError):
        load(dataset, ImageStorage(9), cache=cache)  # another size has to be decoded
    monkeypatch.undo()
    path = folder / "train" / "cat" / "0.jpg"
    Image.new("RGB", (50, 50), (255, 0, 0)).save(path)
    changed = load(dataset, cache=cache)
    assert changed.train.inputs[0].float().mean(dim=(1, 2))[0] > 200
    assert not list(Path(cache).glob("*.part"))


def test_forgetting_in_a_cache_alone_says_nothing_of_weights(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "kept"
    load(f"imagefolder:{photos}", cache=str(cache))
    assert run(pfm, ["forget", "--class", "cat", "--in_place", str(cache)]) == 0
    said = capsys.readouterr().out
    assert "the record is about.json in that folder" in said
    assert "still there: copies of these artifacts elsewhere" in said
    assert "weights" not in said
    assert run(pfm, ["forget", "--class", "dog", "--in_place", str(cache)]) == 0  # data may lose its last class
    certificate = str(tmp_path / "certificate.json")
    assert run(pfm, ["forget", "--class", "cat", "--in_place", str(cache), "--certificate", certificate]) == 2
    assert "no ledger records an erasure" in capsys.readouterr().err


def test_an_erased_class_is_gone_from_a_cache(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kept"
    load(f"imagefolder:{photos}", cache=str(cache))
    found = entries(cache)
    assert [(entry.where, entry.count()) for entry in found] == [
        ("photos/test", {"cat": 5, "dog": 5}),
        ("photos/train", {"cat": 13, "dog": 12}),
    ]
    less = [erase_classes(entry, ["cat"]) for entry in found]
    assert [(entry.holds("cat"), entry.erased, entry.count()) for entry in less] == [
        (False, ("cat",), {"": 5, "dog": 5}),
        (False, ("cat",), {"": 13, "dog": 12}),
    ]
    rows = np.fromfile(less[1].rows, np.uint8).reshape(25, -1)
    assert rows.any(axis=1).tolist() == [name == "dog" for name in less[1].classes or ()]
    with pytest.raises(DataError, match=r"cat was erased from what .* and the data still has it"):
        load(f"imagefolder:{photos}", cache=str(cache))
    assert entries(cache) == less  # with what says that it was erased
    for split in ("train", "test"):
        shutil.rmtree(photos / split / "cat")
        shutil.copytree(photos / split / "dog", photos / split / "owl")
    load(f"imagefolder:{photos}", cache=str(cache))
    assert {name for entry in entries(cache) for name in entry.classes or ()} == {"", "dog", "owl"}


def test_auto_takes_the_first_place_with_room_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "free_memory", lambda: 100 * 2**20)
    monkeypatch.setattr(place, "free_disk", lambda: 1000 * 2**20)
    auto = FeedConfig()
    assert [choose_place(size * 2**20, auto, CPU).where for size in (50, 51, 800, 801)] == [
        "host", "disk", "disk", "decode",
    ]  # fmt: skip
    assert choose_place(60 * 2**20, FeedConfig(data_memory="60MB"), CPU).where == "host"
    assert choose_place(61 * 2**20, FeedConfig(data_memory="60MB"), CPU).where == "disk"
    assert choose_place(10**12, FeedConfig(data_on="host"), CPU).where == "host"
    assert choose_place(61 * 2**20, auto, CPU).describe() == (
        "61 MiB in a temporary file without a name, once for all processes of a host (--data_on auto; 100 MiB of "
        "memory are free, 1.0 GiB of disk)"
    )


def test_sizes_are_read_as_people_write_them() -> None:
    assert [parse_size(text, "--x") for text in ("7", "2K", "1.5 GiB", "4gb", "512 MB")] == [
        7, 2048, 3 * 2**29, 2**32, 2**29,
    ]  # fmt: skip
    assert [size_text(size) for size in (9, 2**20, 123 * 2**20, 3 * 2**30)] == [
        "9 bytes",
        "1.0 MiB",
        "123 MiB",
        "3.0 GiB",
    ]
    with pytest.raises(ConfigError, match=r"--data_memory 'much' is not a size; write it like 4GB"):
        FeedConfig(data_memory="much")
