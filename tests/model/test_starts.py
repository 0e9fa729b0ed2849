"""Where prompts and classifier rows start: what a start gives, and what nobody can draw again."""

import dataclasses
import hashlib
import pickle
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from making.bundles import make_bundle
from making.checkpoints import image_checkpoint
from making.models import tiny_model
from pfm.data.config import DataConfig, FeedConfig
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.data.reading import Intake
from pfm.data.splits import Split
from pfm.errors import ConfigError, DataError
from pfm.forgetting import ledger
from pfm.forgetting.files import erase_file
from pfm.forgetting.ledger import LEDGER
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.model.classifier import BANK
from pfm.model.config import StartConfig
from pfm.model.starts import STARTS, KeySource, follows
from pfm.model.starts.data import DATA, key_of
from pfm.model.starts.keys import fresh_keys, keys_from, read_keys
from pfm.model.starts.numbers import normal
from pfm_export.erasing import erase_everywhere

NAMES = ("red", "green", "blue", "grey")
KEYS = [bytes([number] * 32) for number in range(4)]
OLD = Path(__file__).parent.parent / "old"


def rows(start: str, seed: int = 1, keys: list[bytes] | None = None, torch_seed: int = 0) -> dict[str, torch.Tensor]:
    """Every class row of a tiny model, at its start."""
    torch.manual_seed(torch_seed)
    model = tiny_model()
    STARTS.get(start).apply(model, seed, keys or [])
    return {name: model.get_parameter(name).detach().clone() for name in model.class_row_names}


def test_the_common_start_is_one_small_row_for_all_classes() -> None:
    found = rows("common")
    assert set(found) == {BANK, "classifier.weight", "classifier.bias"}
    for name, tensor in found.items():
        assert torch.equal(tensor, tensor[:1].expand_as(tensor)), name
    assert 0.01 < float(found[BANK].std()) < 0.03
    assert not found["classifier.bias"].any()


def test_the_common_start_follows_from_the_seed_and_from_nothing_else() -> None:
    first, again, other = rows("common"), rows("common", torch_seed=9), rows("common", seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[BANK], other[BANK])


def test_a_secret_start_follows_from_the_whole_key_of_its_class() -> None:
    first, again = rows("secret", keys=KEYS), rows("secret", keys=KEYS, torch_seed=9)
    assert all(torch.equal(first[name], again[name]) for name in first)
    last_bit = [KEYS[0][:-1] + bytes([KEYS[0][-1] ^ 1]), *KEYS[1:]]
    other = rows("secret", keys=last_bit)
    for name in (BANK, "classifier.weight"):
        assert torch.equal(first[name][1:], other[name][1:])
        cosine = torch.cosine_similarity(first[name][0].flatten(), other[name][0].flatten(), dim=0)
        assert abs(float(cosine)) < 0.7  # of unrelated rows of 32 numbers: four standard deviations


def test_numbers_out_of_a_key_are_normal_and_the_same_bytes_everywhere() -> None:
    values = normal((4, 25_001), "test", KEYS[1])
    assert values.dtype == np.float32
    assert abs(float(values.mean())) < 0.015  # of 100,004 numbers: five standard deviations
    assert abs(float(values.std()) - 1) < 0.015
    assert float(np.abs(values).max()) < 6.7  # what 32 bits can give
    rounded = (normal((64,), "test", KEYS[1]) * 1e4).round().astype("<i4")
    assert hashlib.sha256(rounded.tobytes()).hexdigest()[:16] == "7a4affb12dcaa07e"


def test_the_seeds_start_is_the_papers() -> None:
    torch.manual_seed(3)
    model = tiny_model()
    before = model.bank.prompts.detach().clone()
    STARTS.get("seed").apply(model, 1)
    assert torch.equal(model.bank.prompts, before)
    assert 0.8 < float(before.std()) < 1.2


@pytest.mark.parametrize(("start", "said"), [("", "follow from its seed"), ("seed", "follow from its seed"),
                                             ("common", "one common vector"), ("secret", "secret key"),
                                             ("data", "has exactly those samples")])  # fmt: skip
def test_each_start_says_what_follows_from_it(start: str, said: str) -> None:
    assert said in follows(start)


def test_a_checkpoint_keeps_its_start_and_an_older_one_is_of_the_seed(tmp_path: Path) -> None:
    checkpoint = dataclasses.replace(image_checkpoint("prompt"), start="secret", init_key="/keys")
    save_checkpoint(tmp_path / "model.pt", checkpoint)
    read = load_checkpoint(tmp_path / "model.pt")
    assert (read.prompt_start, read.init_key) == ("secret", "/keys")
    old = load_checkpoint(OLD / "cls.pt")
    assert (old.start, old.prompt_start, old.init_key) == ("", "seed", "")


def test_an_erasure_records_what_follows_from_the_start(tmp_path: Path) -> None:
    old = load_checkpoint(OLD / "cls.pt")
    record = erase_file(OLD / "cls.pt", old, [old.classes.names[0]], tmp_path / "less.pt")
    assert follows("seed") in record["remains"]
    save_checkpoint(tmp_path / "run" / "model.pt", dataclasses.replace(image_checkpoint("prompt"), start="common"))
    make_bundle(tmp_path / "run" / "bundle")
    save_checkpoint(tmp_path / "other" / "model.pt", dataclasses.replace(image_checkpoint("prompt"), start="data"))
    erase_everywhere([tmp_path / "run", tmp_path / "other"], ["blue"])
    for folder, start in (("run", "common"), ("run/bundle", "seed"), ("other", "data")):
        assert follows(start) in ledger.read(tmp_path / folder / LEDGER)[-1]["remains"]


# --- keys from data --------------------------------------------------------------------------------


def split_of(*images: np.ndarray, labels: list[int]) -> Split:
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(labels))


def keys_of(split: Split, names: Sequence[str] = NAMES[:2], seed: int = 1) -> list[bytes]:
    return DATA.keys(KeySource(names=names, seed=seed, contents=split.first_contents))


IMAGES = np.random.default_rng(0).integers(0, 256, (200, 1, 2, 2), dtype=np.uint8)
LABELS = [number % 2 for number in range(200)]


def test_a_key_follows_from_the_seed_the_name_and_each_of_the_first_samples() -> None:
    split = split_of(*IMAGES, labels=LABELS)
    red, green = keys_of(split)
    assert keys_of(split) == [red, green]
    assert {len(red), len(green)} == {32}
    assert not {red, green} & {*keys_of(split, seed=2), *keys_of(split, ("a", "b"))}
    for place in (0, 2, 126):  # the first, the second and the 64th of red
        other = IMAGES.copy()
        other[place, 0, 0, 0] ^= 1
        assert keys_of(split_of(*other, labels=LABELS))[0] != red
        assert keys_of(split_of(*other, labels=LABELS))[1] == green
    other = IMAGES.copy()
    other[128] ^= 255  # the 65th
    assert keys_of(split_of(*other, labels=LABELS))[0] == red
    assert keys_of(split_of(*IMAGES[2:], labels=LABELS[2:]))[0] != red  # one sample less


def test_a_key_does_not_hang_on_the_other_classes() -> None:
    split = split_of(*IMAGES, labels=LABELS)
    red, green = keys_of(split)
    alone = split.relabelled(torch.tensor([-1, 0]))
    assert keys_of(alone, ["green"]) == [green]
    ordered = split.subset(torch.tensor(sorted(range(200), key=lambda place: (-LABELS[place], place))))
    assert keys_of(ordered) == [red, green]
    swapped = split.relabelled(torch.tensor([1, 0]))
    assert keys_of(swapped, ["green", "red"]) == [green, red]


def test_a_class_of_few_samples_has_all_of_them_in_its_key() -> None:
    keys = [key for count in (6, 4) for key in keys_of(split_of(*IMAGES[:count], labels=LABELS[:count]))]
    assert len({*keys, *keys_of(split_of(IMAGES[0], labels=[9]))}) == 6  # of a class without samples too


def test_a_file_counts_by_its_bytes_and_no_more_files_are_read_than_needed(tmp_path: Path) -> None:
    for place in range(140):
        file = tmp_path / "set" / "train" / NAMES[place % 2] / f"{place:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[place, 0]).save(file)
        if place < 8:
            (tmp_path / "set" / "test" / NAMES[place % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(IMAGES[place, 0]).save(tmp_path / "set" / "test" / NAMES[place % 2] / file.name)

    def loaded(**options: Any) -> Split:
        feed = FeedConfig(data_workers=0, **options)
        config = DataConfig(dataset=f"imagefolder:{tmp_path / 'set'}")
        data = load_data(config, ImageStorage(4), intake=Intake(feed=feed))
        assert data.classes.names == ("green", "red")
        return data.train

    names = ("green", "red")
    known = loaded()
    keys = keys_of(known, names)
    of_bytes = [
        hashlib.sha256(path.read_bytes()).digest() for path in sorted((tmp_path / "set/train/red").iterdir())[:64]
    ]
    assert keys[1] == key_of(1, "red", of_bytes)
    for options in ({"data_on": "decode"}, {"data_on": "disk"}, {"cache": str(tmp_path / "cache")}):
        assert keys_of(loaded(**options), names) == keys
    held = loaded().with_contents()
    again = pickle.loads(pickle.dumps(held))  # as another process of an audit gets it
    assert type(again.inputs) is torch.Tensor
    assert keys_of(again, names) == keys
    for path in sorted((tmp_path / "set/train/red").iterdir())[64:]:
        path.unlink()
    assert keys_of(known, names) == keys
    (tmp_path / "set/train/red/000.png").unlink()
    with pytest.raises(DataError, match=r"cannot read .*000\.png"):
        keys_of(known, names)


# --- keys ------------------------------------------------------------------------------------------


def test_a_file_of_keys_is_made_for_its_owner_alone_and_read_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "run" / "keys"
    made = keys_from(path, ["a b", 'say "hi"', "ä\n"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(set(made)) == 3
    assert {len(key) for key in made} == {32}
    assert keys_from(path, ["ä\n", "a b"]) == [made[2], made[0]]
    assert path.read_text().splitlines()[1:] == [
        f'{made[0].hex()} "a b"', f'{made[1].hex()} "say \\"hi\\""', f'{made[2].hex()} "\\u00e4\\n"',
    ]  # fmt: skip


@pytest.mark.parametrize("change", [
    lambda text: text + "\n", lambda text: text.replace("a", "A", 1), lambda text: "", lambda text: text[:-1],
    lambda text: "\n".join(reversed(text.split("\n"))), lambda text: text.replace('"', "'"),
])  # fmt: skip
def test_a_file_that_is_not_one_of_keys_is_refused(tmp_path: Path, change: object) -> None:
    path = tmp_path / "keys"
    keys_from(path, ["a", "b"])
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(ConfigError, match="is not a file of keys"):
        read_keys(path)


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys_from(path, ["a"])
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        keys_from(path, ["a"])


def test_fresh_keys_are_of_256_bits_and_never_the_same() -> None:
    keys = fresh_keys(NAMES) + fresh_keys(NAMES)
    assert len(set(keys)) == 8
    assert {8 * len(key) for key in keys} == {256}


def test_a_file_of_keys_goes_with_secret_starts_only() -> None:
    for start in ("common", "data", "seed"):
        with pytest.raises(ConfigError, match=f"--prompt_start {start} takes none"):
            StartConfig(prompt_start=start, init_key="keys").check()
    secret = StartConfig(prompt_start="secret", init_key="keys")
    secret.check()
    assert Path(secret.init_key).is_absolute()
