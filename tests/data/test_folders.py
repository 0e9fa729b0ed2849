"""Folders of images and sounds by one set of rules: what is a split, what a class, and what is named or refused."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.inputs import Storage
from pfm.data.loading import load_data
from pfm.data.readers.folders import Sample, find_samples
from pfm.data.sounds import SoundStorage
from pfm.data.splits import ClassificationData, hold_out_for_threshold
from pfm.errors import ConfigError, DataError, PfmError

KINDS: dict[str, tuple[Storage, str]] = {"image": (ImageStorage(8), "png"), "audio": (SoundStorage(), "wav")}
both_kinds = pytest.mark.parametrize("kind", KINDS)


def touch(root: Path, names: Iterable[str], ending: str = "") -> None:
    """Empty files, since what is tested here reads none."""
    for name in names:
        path = root / (f"{name}.{ending}" if ending else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def find(root: Path, kind: str = "image", **options: Any) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    storage, _ = KINDS[kind]
    config = DataConfig(dataset=f"{storage.folder_prefix}{root}", **options)
    found = find_samples(root, config, storage)
    return found.samples, found.notes


def counts(samples: Iterable[Sample]) -> dict[tuple[str, str], int]:
    return dict(Counter((sample.role, sample.label) for sample in samples))


def refusal(root: Path, kind: str = "image", **options: Any) -> str:
    with pytest.raises(PfmError) as caught:
        find(root, kind, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- splits ---------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAINING", "validation", "Testing"),
        ("Training", "DEV", "eval"),
    ],
)
def test_splits_are_known_by_any_of_their_words_in_any_capitals(
    tmp_path: Path, kind: str, train: str, val: str, test: str
) -> None:
    for split, count in ((train, 3), (val, 2), (test, 1)):
        touch(tmp_path, (f"{split}/{name}/{i}" for name in "ab" for i in range(count)), KINDS[kind][1])
    samples, notes = find(tmp_path, kind)
    assert counts(samples) == {
        (role, name): count for role, count in (("train", 3), ("val", 2), ("test", 1)) for name in "ab"
    }
    assert notes == ()


@both_kinds
@pytest.mark.parametrize("name", ["train", "test", "val", "eval", "unknown", "train_old", "Test 2", "[x]", "007", "ä"])
def test_a_class_inside_of_a_split_may_have_any_name(tmp_path: Path, kind: str, name: str) -> None:
    for split in ("train", "test"):
        touch(tmp_path, (f"{split}/{label}/{i}" for label in ("pass", name) for i in range(6)), KINDS[kind][1])
    samples, _ = find(tmp_path, kind)
    assert counts(samples) == {(role, label): 6 for role in ("train", "test") for label in ("pass", name)}


@both_kinds
def test_names_with_the_word_of_a_split_deeper_down_or_in_files_mean_nothing(tmp_path: Path, kind: str) -> None:
    ending = KINDS[kind][1]
    root = tmp_path / "test" / "training data"
    touch(root, ("a/test/1", "a/train/2", "a/test_3", "b/train-4", "b/validation/5"), ending)
    samples, _ = find(root, kind)
    assert counts(samples) == {("train", "a"): 3, ("train", "b"): 2}


@both_kinds
@pytest.mark.parametrize("extra", ["test_simple", "train_old", "masks", "train (1)"])
def test_folders_beside_the_splits_are_refused_or_left_out_and_never_merged(
    tmp_path: Path, kind: str, extra: str
) -> None:
    touch(tmp_path, (f"{split}/{name}/1" for split in ("train", "test", extra) for name in "ab"), KINDS[kind][1])
    text = refusal(tmp_path, kind)
    assert f"holds {extra} beside the splits test, train" in text
    assert f"--ignore {extra}" in text
    samples, _ = find(tmp_path, kind, ignore=extra)
    assert counts(samples) == {(role, name): 1 for role in ("train", "test") for name in "ab"}


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, (f"{split}/a/1.png" for split in ("train", "Training", "test")))
    assert "holds both Training and train for one split" in refusal(tmp_path)
    assert len(find(tmp_path, ignore="Training")[0]) == 2


@both_kinds
@pytest.mark.parametrize("names", [("pass", "test", "fail"), ("train", "plane", "car"), ("val", "x")])
def test_classes_called_like_splits_are_taken_for_classes_where_that_is_plain(
    tmp_path: Path, kind: str, names: tuple[str, ...]
) -> None:
    touch(tmp_path, (f"{name}/{i}" for name in names for i in range(2)), KINDS[kind][1])
    samples, (note,) = find(tmp_path, kind)
    assert counts(samples) == {("train", name): 2 for name in names}
    assert "taken for" in note


def test_where_it_is_not_plain_the_reason_is_given(tmp_path: Path) -> None:
    touch(tmp_path / "one", ("a/1.png", "b/1.png", "test/a/1.png", "test/b/1.png"))
    assert "holds test and no folder for training; put the classes of the training split" in refusal(tmp_path / "one")
    touch(tmp_path / "two", ("train/1.png", "test/1.png"))
    text = refusal(tmp_path / "two")
    assert "(test, train are splits; if they are classes, put them into one of them)" in text
    assert "test/1.png is in no class's folder" in text
    touch(tmp_path / "three", ("val/a/1.png", "test/a/1.png"))
    assert "no folder for training" in refusal(tmp_path / "three")


def test_a_folder_around_the_splits_is_noticed(tmp_path: Path) -> None:
    touch(tmp_path, ("data/train/a/1.png", "data/train/b/1.png"))
    with pytest.raises(DataError, match=r"has 1 class \(data\); at least two are needed; did you mean .*data\?"):
        load_data(DataConfig(dataset=f"imagefolder:{tmp_path}"), ImageStorage(8))


def test_to_ignore_what_is_not_there_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ("a/1.png", "b/1.png"))
    assert "--ignore c:" in refusal(tmp_path, ignore="a,c")
    assert counts(find(tmp_path, ignore="b")[0]) == {("train", "a"): 1}


# --- classes --------------------------------------------------------------------------------------


@both_kinds
def test_a_class_that_is_a_link_is_read(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, ("data/a/1", "elsewhere/1", "elsewhere/deep/2"), KINDS[kind][1])
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert counts(find(tmp_path / "data", kind)[0]) == {("train", "a"): 1, ("train", "b"): 2}
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert "is a link to a folder that it is in itself" in refusal(tmp_path / "data", kind)


@both_kinds
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("1.heic", "2.heic", "3.txt"), "its files are of kinds that are not read (2 .heic, 1 .txt; first: "),
        (("deep/1.m4v",), "its files are of kinds that are not read (1 .m4v; first: train/c/deep/1.m4v)"),
        ((".hidden.png", "Thumbs.db"), "its folder is empty"),
        ((), "its folder is empty"),
    ],
    ids=["unread", "deep", "hidden", "empty"],
)  # fmt: skip
def test_a_class_of_which_nothing_is_read_is_named(
    tmp_path: Path, kind: str, files: tuple[str, ...], reason: str
) -> None:
    touch(tmp_path, (f"train/{name}/{i}" for name in "ab" for i in range(2)), KINDS[kind][1])
    (tmp_path / "train" / "c").mkdir()
    touch(tmp_path / "train" / "c", files)
    text = refusal(tmp_path, kind)
    assert f"class 'c' has no file that is read: {reason}" in text
    assert "; convert the files, take the folder out, or give --ignore 'c'" in text
    samples, notes = find(tmp_path, kind, skip_bad=True)
    assert counts(samples) == {("train", "a"): 2, ("train", "b"): 2}
    assert any("class 'c'" in note and "is left out" in note for note in notes)
    assert find(tmp_path, kind, ignore="c")[1] == ()
    (tmp_path / "train" / "d").mkdir()
    assert "(nor have 'd'); convert the files, take the folder out, or give --ignore 'c,d'" in refusal(tmp_path, kind)


@both_kinds
def test_files_that_are_not_read_are_counted_by_class(tmp_path: Path, kind: str) -> None:
    ending = KINDS[kind][1]
    touch(tmp_path, ("train/a/1", "train/b/1", "test/a/1", "test/b/1", "train/loose"), ending)
    touch(tmp_path, ("train/a/notes.txt", "train/a/x.heic", "README.md", ".git/x.txt", "train/b/.DS_Store"))
    (tmp_path / "test" / "c").mkdir()
    samples, notes = find(tmp_path, kind)
    assert len(samples) == 4
    assert sorted(notes) == [
        f"1 files are in no class's folder and are left out; first: train/loose.{ending}",
        "nothing of test/c is read: its folder is empty",
        "train/a: of other kinds and not read: 1 .txt, 1 .heic; first: train/a/notes.txt",
    ]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    touch(tmp_path, ("a/1.png", "b/1.png"))
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if os.fspath(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("pfm.data.readers.listing.os.scandir", refuse)
    assert f"cannot read the folder {tmp_path / 'b'}: Permission denied" in refusal(tmp_path)


def test_a_photograph_is_turned_and_named_by_its_place(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "test"):
        for name in ("a b", "[c]"):
            path = tmp_path / split / name / "1.jpg"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, exif=exif)
    data = load_data(DataConfig(dataset=f"imagefolder:{tmp_path}"), ImageStorage(8))
    assert data.train.inputs.shape == (2, 3, 6, 4)
    assert data.train.names == ("train/[c]/1.jpg", "train/a b/1.jpg")
    assert data.classes.names == ("[c]", "a b")


# --- tables ---------------------------------------------------------------------------------------

NUMBERS = ("007", "7", "010")


@both_kinds
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").replace("\n", "\r\n").encode(),
    ],
    ids=["utf-8", "bom", "utf-16", "semicolons", "tabs"],
)
def test_labels_of_a_table_stay_text_in_any_encoding(tmp_path: Path, kind: str, encode: Any) -> None:
    ending = KINDS[kind][1]
    touch(tmp_path / "data", map(str, range(6)), ending)
    rows = [f"{i}.{ending},{NUMBERS[i % 3]},größe" for i in range(6)]
    (tmp_path / "labels.csv").write_bytes(encode("\n".join(["file,code,Maß", *rows, ""])))
    table = str(tmp_path / "labels.csv")
    samples, notes = find(tmp_path / "data", kind, table=table, label_column="code")
    assert counts(samples) == {("train", number): 2 for number in NUMBERS}
    assert notes == ()
    assert {sample.label for sample in find(tmp_path / "data", kind, table=table, label_column="Maß")[0]} == {"größe"}


def test_what_is_not_text_is_not_a_table(tmp_path: Path) -> None:
    touch(tmp_path / "data", map(str, range(6)), "png")
    (tmp_path / "model.pt").write_bytes(b"PK\3\4\0\0a,b\n1\n")
    with pytest.raises(DataError, match=r"model\.pt is not a table"):
        find(tmp_path / "data", "image", table=str(tmp_path / "model.pt"))


def test_a_table_in_an_older_encoding_is_read_and_noted(tmp_path: Path) -> None:
    touch(tmp_path, ("1.png", "2.png"))
    (tmp_path / "labels.csv").write_bytes("file,label\n1.png,groß\n2.png,klein\n".encode("cp1252"))
    samples, (note,) = find(tmp_path, table="labels.csv")
    assert [sample.label for sample in samples] == ["groß", "klein"]
    assert note == "labels.csv is not UTF-8; read as Windows-1252"


@pytest.mark.parametrize(
    "value", ["part_1/{}.png", "{}.png", "{}", "part_1\\{}.png", "./part_1/{}", "/old/place/{}.png"]
)
def test_a_table_may_name_files_with_or_without_folder_and_ending(tmp_path: Path, value: str) -> None:
    touch(tmp_path, ("part_1/a.1.png", "part_1/b.png", "part_2/c.png"))
    rows = [f"x{place},{value.format(name)},{place}" for place, name in enumerate(("a.1", "b"))]
    (tmp_path / "labels.csv").write_text("\n".join(["id,image,label", *rows]))
    samples, (note,) = find(tmp_path, table="labels.csv")
    assert [(sample.file.name, sample.label) for sample in samples] == [("part_1/a.1.png", "0"), ("part_1/b.png", "1")]
    assert "1 files are not in" in note
    assert "part_2/c.png" in note


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("file,label\n1.png,a\n2.png,b\nx.png,a\n", {}, "1 files that * names are not there; first: x.png (line 4)"),
        ("file,label\n1.png,a\n2.png\n", {}, "line 3: 1 values for 2 columns (file, label)"),
        ("file,label\n1.png,a\n2.png,b\n1.png,b\n", {}, "line 4: 1.png stands in the table before, with other values"),
        ("file,label\n1.png,a\n2.png, \n", {}, "1 files have no label in column label; first: 2.png"),
        ("file,label,class\n1.png,a,b\n2.png,b,b\n", {}, "has 2 label columns (label, class)"),
        ("file,kind\n1.png,a\n2.png,b\n", {"label_column": "sort"}, "has no column 'sort' (it has kind)"),
        ("file,kind\n1.png,a\n2.png,b\n", {}, "has 0 label columns (columns: kind)"),
        ("file,label\n", {}, "has no rows (columns: file, label)"),
        ("a,a\n1.png,a\n", {}, "has two columns 'a'"),
        ("name,label\nx,a\ny,b\n", {}, "no column of * names files of the data set (columns: name, label; first"),
        ("file,label\nsame.png,a\n2.png,b\n", {}, "several files are called same.png"),
        ("file,label,split\n1.png,a,train\n2.png,b,fold3\n", {}, "the split of 2.png is 'fold3' in column split"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_told_why(
    tmp_path: Path, content: str, options: dict[str, str], message: str
) -> None:
    touch(tmp_path, ("1.png", "2.png", "x/same.png", "y/same.png"))
    (tmp_path / "labels.csv").write_text(content)
    text = refusal(tmp_path, table="labels.csv", **options)
    for part in message.split(" * "):
        assert part in text


def test_a_table_may_say_the_split(tmp_path: Path) -> None:
    touch(tmp_path, (f"all/{i}.png" for i in range(6)))
    rows = [f"{i},{'ab'[i % 2]},{('Training', 'test', 'VALID')[i // 2]}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label,fold", *rows]))
    samples, _ = find(tmp_path, table="labels.csv", split_column="fold")
    assert [sample.role for sample in samples] == ["train"] * 2 + ["test"] * 2 + ["val"] * 2


@both_kinds
def test_a_table_without_labels_leaves_them_to_the_folders(tmp_path: Path, kind: str) -> None:
    ending = KINDS[kind][1]
    touch(tmp_path, (f"train/{name}/{i}" for name in "ab" for i in range(3)), ending)
    rows = [f"{name}/{i}.{ending},{20 + i}" for name in "ab" for i in range(3)]
    (tmp_path / "train" / "metadata.csv").write_text("\n".join(["file_name,age", *rows]))
    samples, _ = find(tmp_path, kind)
    assert counts(samples) == {("train", "a"): 3, ("train", "b"): 3}
    assert [sample.group for sample in find(tmp_path, kind, group="age")[0]] == ["20", "21", "22"] * 2


# --- groups ---------------------------------------------------------------------------------------


def groups_of(root: Path, **options: Any) -> dict[str, str]:
    return {sample.file.name: sample.group for sample in find(root, **options)[0]}


def test_a_group_comes_from_a_folder_a_name_or_a_column(tmp_path: Path) -> None:
    names = ("a/ann/1_x.png", "a/ben/deep/2_x.png", "b/ann/3_y.png")
    touch(tmp_path, names)
    assert list(groups_of(tmp_path, group="folder").values()) == ["ann", "ben", "ann"]
    assert list(groups_of(tmp_path, group="name:{n}_{group}").values()) == ["x", "x", "y"]
    by_name = {"label_from": "name:{n}_{site}", "label": "n"}
    assert list(groups_of(tmp_path, group="site", **by_name).values()) == ["x", "x", "y"]
    (tmp_path / "t.csv").write_text("file,patient\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    assert list(groups_of(tmp_path, group="patient", table="t.csv").values()) == ["0", "1", "2"]


def test_files_without_a_group_are_named(tmp_path: Path) -> None:
    touch(tmp_path, ("a/ann/1.png", "b/2.png"))
    assert "--group folder: 1 files have no group (they are in no folder below their class); first: b/2.png" in refusal(
        tmp_path, group="folder"
    )
    assert "--group patient: there is no such column (there is no table)" in refusal(tmp_path, group="patient")
    assert "does not fit --group name:{group}_{n}" in refusal(tmp_path, group="name:{group}_{n}")
    (tmp_path / "t.csv").write_text("file,patient\na/ann/1.png,x\n")
    assert "--group patient: 1 files have no group; first: b/2.png" in refusal(tmp_path, group="patient", table="t.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "name:{patient}_{n}"}, "has no field {group}"),
        ({"hash_groups": "key"}, "--hash_groups is for groups"),
        ({"split_column": "fold"}, "--split_column names a column of --table"),
    ],
)
def test_options_of_groups_and_tables_that_make_no_sense_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(dataset="imagefolder:x", **options)  # type: ignore[arg-type]


def write_patients(root: Path, patients: Iterable[str], images: int = 3) -> Path:
    """One tiny image a file, `images` of each of two classes for each patient."""
    for patient in patients:
        for label, shade in (("benign", 10), ("malignant", 240)):
            folder = root / label / patient
            folder.mkdir(parents=True)
            for number in range(images):
                Image.new("L", (4, 4), shade).save(folder / f"{number}.png")
    return root


def load(root: Path, **options: Any) -> ClassificationData:
    return load_data(DataConfig(dataset=f"imagefolder:{root}", **options), ImageStorage(8))


def test_a_held_out_split_divides_no_group(tmp_path: Path) -> None:
    data = load(write_patients(tmp_path / "scans", [f"p{i}" for i in range(10)]), group="folder")
    train, test = data.train, data.test
    assert train.groups is not None
    assert test.groups is not None
    assert not set(train.groups) & set(test.groups)
    assert (len(set(test.groups)), len(test)) == (2, 12)
    assert torch.equal(test.inputs[:, 0, 0, 0] > 100, test.labels == 1)
    assert data.notes == ("no test split in the source: 2 of 10 whole groups, 12 of 60 samples, held out for the test",)
    assert "groups" in data.describe(ImageStorage(8))
    assert load(tmp_path / "scans", group="folder").test.names == test.names  # the same part every time


def test_what_a_threshold_is_chosen_on_divides_no_group_either(tmp_path: Path) -> None:
    data = load(write_patients(tmp_path / "scans", [f"p{i}" for i in range(20)]), group="folder")
    held = hold_out_for_threshold(data, 0.05)
    assert held.val is not None
    assert held.val.groups is not None
    assert held.train.groups is not None
    assert not set(held.val.groups) & set(held.train.groups)
    assert len(held.val) + len(held.train) == len(data.train)
    assert held.notes[-1] == "--abstain: 2 of 16 whole groups, 12 of 96 samples, held out to choose a threshold on"
    assert hold_out_for_threshold(data, 0.0) is data


def test_a_group_in_two_splits_is_a_warning_with_counts(tmp_path: Path) -> None:
    write_patients(tmp_path / "scans" / "train", ["p1", "p2", "p3"])
    write_patients(tmp_path / "scans" / "test", ["p3", "p4"])
    data = load(tmp_path / "scans", group="folder")
    (note,) = data.notes
    assert note.startswith("warning: 1 of 2 groups in test are in train as well, with 6 of its 12 samples")


def test_groups_are_stored_hashed_where_that_is_asked_for(tmp_path: Path) -> None:
    from pfm.data.groups import hashed_group, read_key

    root, key = write_patients(tmp_path / "scans", ["ann", "ben", "cas", "dan", "eve"]), tmp_path / "key"
    plain = load(root, group="folder")
    first, second = (load(root, group="folder", hash_groups=str(key)) for _ in range(2))
    assert plain.train.groups is not None
    assert first.train.groups == second.train.groups
    assert first.train.groups == tuple(hashed_group(group, read_key(key)) for group in plain.train.groups)
    assert key.stat().st_mode & 0o077 == 0
    assert hashed_group("ann", b"another key") not in set(first.train.groups or ())
    key.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        load(root, group="folder", hash_groups=str(key))


def test_a_source_without_groups_says_so() -> None:
    with pytest.raises(ConfigError, match="--group patient: digits says nothing of groups"):
        load_data(DataConfig(dataset="digits", group="patient"), ImageStorage(8))


def test_options_for_another_source_or_kind_are_refused(tmp_path: Path) -> None:
    for options in ({"table": "t.csv"}, {"ignore": "old"}):
        with pytest.raises(ConfigError, match="are for folders of files; digits is not one"):
            load_data(DataConfig(dataset="digits", **options), ImageStorage(8))  # type: ignore[arg-type]
    touch(tmp_path, (f"{name}/{i}.wav" for name in "ab" for i in range(3)))
    with pytest.raises(ConfigError, match="for images only: --fit, --depth; this data has none"):
        load_data(DataConfig(dataset=f"audiofolder:{tmp_path}", fit="pad", depth="range"), SoundStorage())


def test_a_class_in_one_group_only_stays_in_training_and_is_named(tmp_path: Path) -> None:
    write_patients(tmp_path / "scans", [f"p{i}" for i in range(5)])
    folder = tmp_path / "scans" / "rare" / "p9"
    folder.mkdir(parents=True)
    Image.new("L", (4, 4)).save(folder / "1.png")
    data = load(tmp_path / "scans", group="folder")
    assert "none of class rare" in data.notes[0]
    assert data.classes.names == ("benign", "malignant", "rare")


def test_a_table_whose_labels_are_not_found_is_not_taken_for_one_class(tmp_path: Path) -> None:
    touch(tmp_path, ("images/1", "images/2"), "png")
    table = tmp_path / "ham.csv"
    table.write_text("image_id,dx\n1,mel\n2,nv\n")
    with pytest.raises(DataError, match=r"1 class \(images\).*name their column with --label_column"):
        load_data(DataConfig(dataset=f"imagefolder:{tmp_path}", table=str(table)), ImageStorage(8))
