"""What is beside a bundle's own files and may hold its classes: an erasure of the bundle alone says so."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from making.bundles import make_bundle
from pfm.errors import NotLookedIntoError
from pfm.forgetting import ledger
from pfm.forgetting.artifacts import Request
from pfm.forgetting.ledger import LEDGER
from pfm_export.erasing import erase_everywhere
from pfm_export.serving.bank import BANK
from pfm_export.serving.beside import beside, require_nothing_beside
from pfm_export.serving.bundle import Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def add(content: bytes, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


OTHERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a backup of the bank": ("bank.safetensors.bak", lambda f: shutil.copy(f / BANK, f / "bank.safetensors.bak")),
    "a bundle": ("inner", lambda f: make_bundle(f / "inner")),
    "an archive": ("old.tar.gz", add(b"\x1f\x8b\x08", "old.tar.gz")),
    "half a bank": (".bank.safetensors.abcdefgh.part", add(b"x", ".bank.safetensors.abcdefgh.part")),
    "a link": ("elsewhere", lambda f: (f / "elsewhere").symlink_to(shutil.copy(f / BANK, f.parent / "copy"))),
    "another name": (".", lambda f: os.link(f / BANK, f.parent / "hard")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_erasure_names_what_else_may_hold_the_class(bundle: Path, name: str) -> None:
    file, make = OTHERS[name]
    make(bundle)
    after, others = Bundle.open(bundle).erase_and_look("blue", Request())
    assert after.classes.names == ("red", "green")  # done all the same
    place = bundle.parent / "copy" if name == "a link" else bundle / file
    (entry,) = ledger.read(bundle / LEDGER)[-1]["looked"]["not_looked_into"]
    assert bundle / entry == place
    with pytest.raises(NotLookedIntoError, match=r"blue: erased from the bundle .* may hold it") as raised:
        require_nothing_beside(bundle, ["blue"], others)
    assert str(place.resolve()) in str(raised.value)
    assert raised.value.exit_code == 3


def test_a_bundle_with_what_is_known_to_be_clean_beside_it_erases_in_silence(bundle: Path) -> None:
    (bundle / "README.md").write_text("what this is")
    assert beside(bundle) == []
    _, others = Bundle.open(bundle).erase_and_look("blue", Request())
    require_nothing_beside(bundle, ["blue"], others)
    assert "looked" not in ledger.read(bundle / LEDGER)[-1]


def test_the_command_erases_from_such_a_backup_and_nothing_is_left_to_name(bundle: Path) -> None:
    shutil.copy(bundle / BANK, bundle / "bank.safetensors.bak")
    erase_everywhere([bundle], "blue")
    assert [seen.path.name for seen in beside(bundle)] == ["bank.safetensors.bak"]  # other classes' rows are in it
