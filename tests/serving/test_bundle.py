"""A bundle on disk: refused when it is not whole, erased for good, and never half-erased."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from making.bundles import NAMES, WIDTH, make_bundle
from making.files import all_bytes
from pfm.errors import BundleError, ClassNameError, StorageError, TraceFoundError
from pfm.forgetting import ledger
from pfm.forgetting.centring import centred
from pfm.forgetting.ledger import LEDGER
from pfm.storage import sha256_bytes
from pfm_export.serving import bundle as bundle_module
from pfm_export.serving import manifest as manifest_module
from pfm_export.serving import standing
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import NOT_ANY_MORE, Bundle
from pfm_export.serving.manifest import MANIFEST, write_manifest
from pfm_export.serving.signature import MODEL
from pfm_export.serving.standing import read_standing
from pfm_export.serving.watching import open_served, stamp
from pfm_export.serving.writing import write_bundle


@pytest.fixture(params=["cls", "prompt"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", request.param)


def secrets(bundle: Bundle, position: int) -> list[bytes]:
    rows = bundle.rows([position])
    return [array.tobytes() for array in (rows.prompts, rows.weight) if array is not None]


def test_rows_come_in_the_order_asked_for(folder: Path) -> None:
    bundle = Bundle.open(folder)
    rows, first = bundle.rows([2, 0]), bundle.rows([0])
    assert rows.prompts.shape == (4, WIDTH)
    np.testing.assert_array_equal(rows.prompts[2:], first.prompts)
    if bundle.stated.readout == "cls":
        assert rows.bias is not None
        assert rows.bias.tolist() == [2.0, 0.0]
    assert bundle.rows([]).prompts.shape == (0, WIDTH)


def test_an_erased_class_is_in_no_byte_of_the_bundle(folder: Path) -> None:
    bundle = Bundle.open(folder)
    gone = secrets(bundle, 1)
    before = (folder / BANK).read_bytes()
    assert all(secret in before for secret in gone)  # the control
    left = bundle.erase(["green"], reason="request 7")
    assert left.classes.names == ("red", "blue")
    assert left.classes.ids == (0, 2)
    for file in folder.iterdir():
        assert not any(secret in file.read_bytes() for secret in gone)
    before, after = bundle.rows([0, 2]), left.rows([0, 1])
    np.testing.assert_array_equal(after.prompts, before.prompts)
    if before.weight is not None and before.bias is not None:
        np.testing.assert_array_equal(after.weight, centred(before.weight))
        np.testing.assert_array_equal(after.bias, centred(before.bias))
    assert Bundle.open(folder).manifest["erased"] == [{"id": 1, "name": "green"}]
    record = ledger.read(folder / LEDGER)[-1]
    assert (record["reason"], record["classes"]) == ("request 7", [{"id": 1, "name": "green"}])


def test_figures_that_were_measured_with_the_class_go_with_it(folder: Path) -> None:
    bundle = Bundle.open(folder)
    write_manifest(folder, {**bundle.manifest, "parity": {"largest_logit": 8.25}, "accuracy": {"bundle": 0.875}})
    assert "8.25" in (folder / "manifest.json").read_text()  # the control
    left = Bundle.open(folder).erase(["green"])
    assert left.manifest["parity"] == left.manifest["accuracy"] == NOT_ANY_MORE
    assert "8.25" not in (folder / "manifest.json").read_text()


def test_a_bundle_is_searched_file_by_file_before_anything_changes(folder: Path) -> None:
    """Rows are made long enough to be told from chance."""
    rng = np.random.default_rng(0)
    bank = {f"prompt.{i}": rng.standard_normal((2, 32), dtype=np.float32) for i in range(3)}
    place = folder.with_name("wide")
    manifest = {**Bundle.open(folder).manifest, "readout": "prompt", "hidden_size": 32}
    half = bank["prompt.1"][1].astype(np.float16).tobytes()
    for number, graph in enumerate((b"a graph", b"a graph" + half)):
        write_bundle(place / str(number), graphs={"model.onnx": graph}, bank=bank, manifest=manifest)
    left = Bundle.open(place / "0").erase(["green"])
    searched = ledger.read(left.folder / LEDGER)[-1]["searched"]
    assert (searched["files"], searched["rows"]) == ([BANK, "manifest.json", "model.onnx"], 2)
    before = all_bytes(place / "1")
    with pytest.raises(TraceFoundError, match=r"prompt\.1 token 1 .* found as float16 in model\.onnx"):
        Bundle.open(place / "1").erase(["green"])
    assert all_bytes(place / "1") == before


def test_an_erasure_that_an_older_version_announced_is_completed_as_it_was_announced(folder: Path) -> None:
    """Its hash is of a bank whose rows were not centred."""
    bundle = Bundle.open(folder)
    after = bundle._bank.without([1], is_centred=False)
    ledger.append(
        folder / LEDGER,
        {"action": "erase", "classes": [{"id": 1, "name": "green"}], "file": BANK,
         "sha256_before": bundle._bank.sha256, "sha256_after": sha256_bytes(after)},
    )  # fmt: skip
    left = Bundle.open(folder).finish_pending()
    assert left.classes.names == ("red", "blue")
    assert (folder / BANK).read_bytes() == after


def test_erasing_one_after_the_other_keeps_the_chain(folder: Path) -> None:
    left = Bundle.open(folder).erase(["green"]).erase([0])
    assert left.classes.names == ("blue",)
    assert len(ledger.read(folder / LEDGER)) == 2
    with pytest.raises(ClassNameError, match="would leave no class"):
        left.erase(["blue"])
    with pytest.raises(ClassNameError, match="no class 'green'"):
        left.erase(["green"])


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_interrupted_erasure_hides_the_class_and_the_next_one_finishes_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The process dies before the ledger (0), the bank (1) or the manifest (2) is written."""
    gone = secrets(Bundle.open(folder), 1)

    class KilledError(Exception):
        pass

    written: list[str] = []

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def wrapper(path: Path, content: object, **more: object) -> None:
            if len(written) == steps:
                raise KilledError
            written.append(path.name)
            write(path, content, **more)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_bytes", dying(ledger.write_bytes))
        patch.setattr(bundle_module, "write_bytes", dying(bundle_module.write_bytes))
        patch.setattr(manifest_module, "write_json", dying(manifest_module.write_json))
        with pytest.raises(KilledError):
            Bundle.open(folder).erase(["green"])
    assert written == [LEDGER, BANK][:steps]

    opened = Bundle.open(folder)
    if steps == 0:  # nothing happened yet
        assert opened.classes.names == NAMES
        return
    assert opened.classes.names == ("red", "blue")  # no longer served
    left = opened.erase(["red"])
    assert left.classes.names == ("blue",)
    assert [entry["name"] for entry in left.manifest["erased"]] == ["green", "red"]
    assert not any(secret in (folder / BANK).read_bytes() for secret in gone)
    assert Bundle.open(folder).pending == ()


@pytest.mark.parametrize("name", [MODEL, BANK, MANIFEST])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder).model_bytes()


@pytest.mark.parametrize("name", [MODEL, BANK])
def test_a_changed_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    for place in range(0, len(content), max(1, len(content) // 25)):
        changed = content.copy()
        changed[place] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(BundleError):
            Bundle.open(folder).model_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(BundleError):
        Bundle.open(folder).model_bytes()
    (folder / name).write_bytes(content)
    Bundle.open(folder).model_bytes()


def test_a_manifest_that_is_not_one_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    for broken in (
        "", "{", "[]", "{}", json.dumps({**manifest, "version": 9}), json.dumps({**manifest, "classes": [{"id": 0}]}),
        json.dumps({**manifest, "classes": [*manifest["classes"], {"id": 7, "name": "pink"}]}),
        json.dumps({**manifest, "hidden_size": 5}), json.dumps({**manifest, "ledger_head": "f" * 64}),
        json.dumps({key: value for key, value in manifest.items() if key != "files"}),
    ):  # fmt: skip
        (folder / MANIFEST).write_text(broken)
        with pytest.raises((BundleError, StorageError)):
            Bundle.open(folder)


def test_a_bank_put_back_from_a_backup_is_refused(folder: Path) -> None:
    shutil.copy(folder / BANK, folder.parent / "backup")
    Bundle.open(folder).erase(["green"])
    shutil.copy(folder.parent / "backup", folder / BANK)
    with pytest.raises(BundleError, match="was changed"):
        Bundle.open(folder)


def test_a_changed_record_of_an_erasure_is_refused(folder: Path) -> None:
    Bundle.open(folder).erase(["green"])
    text = (folder / LEDGER).read_text()
    (folder / LEDGER).write_text(text.replace("green", "grown"))
    with pytest.raises(BundleError, match="line 1"):
        Bundle.open(folder)
    (folder / LEDGER).write_text("")
    with pytest.raises(BundleError, match="do not belong together"):
        Bundle.open(folder)


def test_no_bundle_at_all_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="pfm export onnx"):
        Bundle.open(tmp_path / "nothing")


def test_a_bundle_that_others_write_while_it_is_read_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two whole erasures between its first file and its last: they do not belong together, and nothing is damaged."""
    real = bundle_module.read_file
    names = ["green", "blue"]

    def read(path: Path, most: int) -> bytes:
        content = real(path, most)
        with monkeypatch.context() as patch:
            patch.setattr(bundle_module, "read_file", real)
            while names:
                Bundle.open(folder).erase([names.pop()])
        return content

    monkeypatch.setattr(bundle_module, "read_file", read)
    bundle = Bundle.open(folder)
    assert bundle.classes.names == ("red",)
    assert bundle.pending == ()


def test_a_bundle_that_never_stands_still_is_not_read_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "PATIENCE_S", 0.0)
    times = itertools.count(1)
    with pytest.raises(BundleError, match="does not stand still"):
        read_standing(folder, lambda folder: os.utime(folder / "manifest.json", (0, next(times))))
    assert next(times) < 1000


def test_a_reading_has_the_stamp_of_its_files(folder: Path) -> None:
    seen, bundle = open_served(folder)
    assert seen == stamp(folder)
    (folder / "ledger.jsonl").unlink()
    with pytest.raises(BundleError, match=r"not a complete bundle any more: ledger\.jsonl"):
        stamp(bundle.folder)
