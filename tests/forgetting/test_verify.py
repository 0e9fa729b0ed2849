"""`pfm verify` against somebody who has the files and has read its source; and for those who do honest things."""

import dataclasses
import gzip
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import safetensors.numpy
import torch

from making.bundles import make_bundle
from making.checkpoints import trained_state
from pfm.cli import pfm, run
from pfm.errors import BundleError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.certificate import describe_artifact, read_certificate, write_certificate
from pfm.forgetting.content import WRITTEN_OUT
from pfm.forgetting.keys import load_key, public_hex
from pfm.forgetting.ledger import LEDGER, canonical
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.storage import sha256, sha256_bytes
from pfm_export.contents import open_content
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import MANIFEST, write_manifest
from pfm_export.serving.watching import open_served

BLUE = {"id": 2, "name": "blue"}


class Verify:
    """Runs `pfm verify` with the key that is known, and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.said = ""

    def __call__(self, cert: Path, *artifacts: Path, key: str | None = None, later: Path | None = None) -> int:
        self._capsys.readouterr()
        key = json.loads(cert.read_bytes())["public_key"] if key is None else key
        named = [*(["--public_key", key] if key else []), *(["--later", str(later)] if later else [])]
        code = run(pfm, ["verify", str(cert), *map(str, artifacts), *named])
        captured = self._capsys.readouterr()
        assert len(captured.err.splitlines()) == (1 if code else 0)
        self.said = captured.out + captured.err
        return code


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    return Verify(capsys)


def put_back(folder: Path, backup: Path) -> None:
    """A bundle's bank from before, and a manifest to go with it; the ledger stays as it is."""
    shutil.copy(backup / BANK, folder / BANK)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["classes"] = json.loads((backup / MANIFEST).read_bytes())["classes"]
    manifest["erased"] = []
    manifest["files"][BANK] = {"sha256": sha256(folder / BANK), "size_bytes": (folder / BANK).stat().st_size}
    write_manifest(folder, manifest)


def edit(path: Path, change) -> None:
    """A checkpoint, changed by hand."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


# --- what must not hold -----------------------------------------------------------------------------


def test_without_the_signers_key_a_certificate_is_unsigned_for_you(folder: Path, verify: Verify) -> None:
    assert verify(folder / "cert.json", folder / "bundle", key="") == 3
    assert "is unsigned for you: anybody can make a key" in verify.said
    assert "holds" not in verify.said


def test_a_certificate_without_an_artifact_is_an_error(folder: Path, verify: Verify) -> None:
    assert verify(folder / "cert.json") == 2
    assert "name the artifacts to look into" in verify.said
    assert "model.pt, bundle" in verify.said


def test_a_ledger_and_a_certificate_of_ones_own_do_not_hold_over_what_was_never_erased(
    tmp_path: Path, verify: Verify
) -> None:
    save_checkpoint(tmp_path / "x.pt", trained_state())
    make_bundle(tmp_path / "b")
    key, _ = load_key(tmp_path / "me.key")
    for path, file in ((tmp_path / "x.pt", tmp_path / "x.pt"), (tmp_path / "b", tmp_path / "b" / BANK)):
        content = open_content(path)
        place = (path if path.is_dir() else path.parent) / LEDGER
        place.unlink(missing_ok=True)
        entry = {"file": file.name, "sha256_before": "0" * 64, "sha256_after": content.sha256}
        ledger.append(place, {"action": "erase", "classes": [BLUE], "files": [entry]})
        records = ledger.read(place)
        forged = {
            "file": path.name, "kind": content.artifact_kind, "sha256_before": "0" * 64, "sha256": content.sha256,
            "content": content.to_dict(),
            "ledger": {"head": ledger.head(records), "lines": 1, "first": records[0]["hash"]},
            "records": [{"line": 1, "hash": records[0]["hash"], "time": records[0]["time"], "classes": [BLUE]}],
            "quoted": records,
        }  # fmt: skip
        cert = path.with_suffix(".json")
        write_certificate(cert, key, [forged], reason="r", requested_by="q", time="2020-01-01T00:00:00+00:00")
        assert verify(cert, path, key=public_hex(key)) == 2
        assert "holds the class blue" in verify.said or "manifest, ledger and bank do not belong" in verify.said
        assert verify(cert, path, key="") == 2


@pytest.mark.parametrize("way", ["renamed", "masked", "another row in its place", "its classifier row", "a stowaway"])
def test_a_class_that_only_left_the_list_is_noticed(folder: Path, verify: Verify, way: str) -> None:
    before, after = trained_state(), folder / "run" / "model.pt"
    whole = {**before.tensors}

    def change(content: dict) -> None:
        state = content["model_state_dict"]
        if way == "renamed":  # the row is back, under a name that is not erased
            content["classes"] = {"ids": [0, 1, 3, 33], "names": ["red", "green", "grey", "x"]}
            for name in ("bank.prompts", "classifier.weight", "classifier.bias"):
                state[name] = whole[name][[0, 1, 3, 2]].clone()
        elif way == "masked":  # the rows are back, the list stays
            state["bank.prompts"] = whole["bank.prompts"].clone()
        elif way == "another row in its place":
            state["bank.prompts"] = whole["bank.prompts"][[0, 1, 2]].clone()
        elif way == "its classifier row":  # of which nothing is signed once another class was erased
            state["classifier.weight"] = whole["classifier.weight"][[0, 1, 2]].clone()
        else:
            content["notes"] = {"blue": whole["bank.prompts"][2].clone()}

    edit(after, change)
    # what somebody with the folder can write: a line that leads from the bytes signed to those that are there
    entry = {"file": "model.pt", "source": "model.pt", "sha256_before": "", "sha256_after": sha256(after)}
    entry["sha256_before"] = read_certificate(folder / "cert.json").artifacts[0].sha256
    ledger.append(folder / "run" / LEDGER, {"action": "erase", "classes": [{"id": 9, "name": "z"}], "files": [entry]})
    assert verify(folder / "cert.json", after) == 2
    expected = {
        "renamed": "the average of bank.prompts has 3 rows, and the list has 4 classes",
        "masked": "bank.prompts has 4 rows, and the list has 3 classes",
        "another row in its place": "the prompt of grey was changed",
        "its classifier row": "says that it was changed, and names no class that left it",
        "a stowaway": "notes has a tensor in it",
    }[way]
    assert expected in verify.said


def test_a_tensor_that_nothing_names_is_noticed(folder: Path, verify: Verify) -> None:
    path = folder / "run" / "model.pt"
    row = trained_state().tensors["bank.prompts"][2].numpy().tobytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].split('/')[0]}/data/999", row)
    content = open_content(path)
    assert any("bytes of tensors" in problem for problem in content.problems)
    assert verify(folder / "cert.json", path) == 2


@pytest.mark.parametrize("as_letters", [False, True])
def test_a_prompt_that_is_written_out_in_a_plain_field_is_noticed(folder: Path, *, as_letters: bool) -> None:
    row = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    note = row.numpy().tobytes().hex() if as_letters else row.flatten().tolist()
    path = folder / "run" / "model.pt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "run": {**content["run"], "note": note}}, path)
    assert open_content(path).problems == (WRITTEN_OUT,)
    bundle = folder / "bundle"
    write_manifest(bundle, {**Bundle.open(bundle).manifest, "note": note})
    assert open_content(bundle).problems == (f"{MANIFEST}: {WRITTEN_OUT}",)


def test_a_bank_that_was_put_back_is_neither_verified_nor_served(tmp_path: Path, verify: Verify) -> None:
    bundle, backup = make_bundle(tmp_path / "b"), make_bundle(tmp_path / "backup")
    cert = tmp_path / "c.json"
    arguments = ["forget", "--classes", "blue", "--in_place", str(bundle), "--certificate", str(cert)]
    assert run(pfm, arguments) == 0
    assert verify(cert, bundle) == 0
    put_back(bundle, backup)
    # as the manifest says what the ledger's newest line is, all of it fits together
    assert "blue" in Bundle.open(bundle).classes.names
    assert verify(cert, bundle) == 2
    assert "holds the class blue" in verify.said
    with pytest.raises(BundleError, match=r"the class blue, whose erasure its ledger records \(line 1, .* not serv"):
        open_served(bundle)
    # which says what helps, and that helps
    assert run(pfm, ["forget", "--classes", "blue", "--in_place", str(bundle)]) == 0
    assert open_served(bundle)[1].classes.names == ("red", "green")
    assert verify(cert, bundle) == 0


def test_a_class_put_back_under_another_name_or_number_is_not_served(tmp_path: Path) -> None:
    bundle, backup = make_bundle(tmp_path / "b"), make_bundle(tmp_path / "backup")
    Bundle.open(bundle).erase(["blue"])
    put_back(bundle, backup)
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    manifest["classes"][2]["name"] = "azure"
    write_manifest(bundle, manifest)
    with pytest.raises(BundleError, match="holds the class azure, whose erasure"):
        open_served(bundle)


def test_a_bank_put_back_with_another_name_and_number_for_the_class_is_not_served(
    tmp_path: Path, verify: Verify
) -> None:
    bundle, backup = make_bundle(tmp_path / "b"), make_bundle(tmp_path / "backup")
    arguments = ["forget", "--class", "blue", "--in_place", str(bundle), "--certificate", str(tmp_path / "c.json")]
    assert run(pfm, arguments) == 0
    erased = json.loads((bundle / MANIFEST).read_bytes())["erased"]
    bank = safetensors.numpy.load_file(backup / BANK)
    renumbered = {name.replace(".2", ".7"): tensor for name, tensor in bank.items()}
    safetensors.numpy.save_file(renumbered, backup / BANK)
    put_back(bundle, backup)
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    manifest["classes"][2] = {"id": 7, "name": "azure"}
    write_manifest(bundle, {**manifest, "erased": erased})
    assert Bundle.open(bundle).classes.names == ("red", "green", "azure")
    with pytest.raises(BundleError, match="is not what the last erasure left"):
        open_served(bundle)
    assert verify(tmp_path / "c.json", bundle) == 2


def test_a_bank_with_a_class_that_the_manifest_does_not_list_is_damaged(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    del manifest["classes"][2]
    write_manifest(bundle, manifest)
    with pytest.raises(BundleError, match=r"holds bias\.2, of no class that the manifest states"):
        Bundle.open(bundle)


def test_a_bundle_from_a_backup_with_its_old_ledger_does_not_verify(folder: Path, verify: Verify) -> None:
    shutil.rmtree(folder / "bundle")
    make_bundle(folder / "bundle")
    assert verify(folder / "cert.json", folder / "bundle") == 2
    assert "holds the class blue" in verify.said


def test_a_certificate_does_not_hold_for_another_file_of_the_same_name(folder: Path, verify: Verify) -> None:
    other = folder / "other" / "model.pt"
    save_checkpoint(other, trained_state(seed=1))
    assert run(pfm, ["forget", "--classes", "blue", "--in_place", str(other)]) == 0
    assert verify(folder / "cert.json", other) == 2
    assert "the file was changed since the certificate was made" in verify.said
    shutil.copy(folder / "run" / LEDGER, other.parent / LEDGER)
    assert verify(folder / "cert.json", other) == 2


def test_a_shortened_ledger_is_noticed(folder: Path, verify: Verify) -> None:
    path = folder / "run" / LEDGER
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert verify(folder / "cert.json", folder / "run" / "model.pt") == 2
    assert "lines were removed at its end: 2 when the certificate was made, 1 now" in verify.said


def test_a_file_beside_a_bundles_own_is_said_not_to_be_looked_into(folder: Path, verify: Verify) -> None:
    shutil.copy(make_bundle(folder / "backup") / BANK, folder / "bundle" / f"{BANK}.bak")
    assert verify(folder / "cert.json", folder / "bundle") == 3
    assert f"{BANK}.bak: not looked into" in verify.said
    assert "holds" not in verify.said
    (folder / "bundle" / f"{BANK}.bak").unlink()
    (folder / "bundle" / "README.md").write_text("our model")
    assert verify(folder / "cert.json", folder / "bundle") == 0
    shutil.copy(folder / "backup" / BANK, folder / "bundle" / ".lock")
    assert verify(folder / "cert.json", folder / "bundle") == 3


def test_a_file_that_the_manifest_names_is_looked_into_as_any_other(tmp_path: Path, verify: Verify) -> None:
    bundle = make_bundle(tmp_path / "b")
    content = gzip.compress((bundle / BANK).read_bytes())
    (bundle / "more.bin").write_bytes(content)
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    manifest["files"]["more.bin"] = {"sha256": sha256_bytes(content), "size_bytes": len(content)}
    write_manifest(bundle, manifest)
    arguments = ["forget", "--class", "blue", "--in_place", str(bundle), "--certificate", str(tmp_path / "c.json")]
    assert run(pfm, arguments) == 3
    assert verify(tmp_path / "c.json", bundle) == 3
    assert "more.bin: not looked into" in verify.said


def test_what_a_signed_certificate_says_is_not_believed_to_have_the_right_shape(folder: Path, verify: Verify) -> None:
    key, _ = load_key(folder / "cert.key")
    body = {k: v for k, v in read_certificate(folder / "cert.json").document.items() if k != "signature"}
    for name, value in (
        ("artifacts", {}), ("artifacts", [{}]), ("artifacts", [[]]), ("artifacts", None), ("time", 3),
        ("not_proven", "x"), ("version", 3), ("version", True), ("version", "1" * 100), ("version", 1.5),
        ("artifacts", [{**body["artifacts"][0], "records": []}]),
        ("artifacts", [{**body["artifacts"][0], "quoted": []}]),
        ("artifacts", [{**body["artifacts"][0], "ledger": {"lines": -1, "head": "", "first": ""}}]),
        ("artifacts", [{**body["artifacts"][0], "content": {"classes": [{}]}}]),
        ("artifacts", [{**body["artifacts"][0], "sha256": "\u0660" * 64}]),
    ):  # fmt: skip
        other = {**body, name: value}
        signed = {**other, "signature": key.sign(canonical(other)).hex()}
        (folder / "odd.json").write_bytes(canonical(signed) + b"\n")
        assert verify(folder / "odd.json", folder / "bundle") == 2, (name, value)


# --- what must hold ---------------------------------------------------------------------------------


def test_what_holds_is_said_of_each_artifact_and_of_none_that_was_not_looked_into(
    tmp_path: Path, verify: Verify
) -> None:
    bundle, model, cert = make_bundle(tmp_path / "b"), tmp_path / "run" / "x.pt", tmp_path / "c.json"
    save_checkpoint(model, trained_state())
    assert run(pfm, ["forget", "--classes", "red,blue", "--in_place", str(model)]) == 0
    both = [str(bundle), str(model)]
    assert run(pfm, ["forget", "--class", "blue", "--in_place", *both, "--certificate", str(cert)]) == 0
    assert verify(cert, bundle) == 0
    assert f"holds: blue erased, and nowhere in {bundle}\n" in verify.said
    assert "red erased" not in verify.said  # which the bundle still has
    assert verify(cert, bundle, model) == 0
    assert f"holds: red, blue erased, and nowhere in {model}\n" in verify.said


def test_an_honest_certificate_outlives_suspensions_later_erasures_copies_and_moves(
    tmp_path: Path, verify: Verify
) -> None:
    bundle, model, cert = make_bundle(tmp_path / "b"), tmp_path / "run" / "x.pt", tmp_path / "c.json"
    save_checkpoint(model, trained_state())
    both = [str(bundle), str(model)]
    assert run(pfm, ["forget", "--classes", "blue", "--in_place", *both, "--certificate", str(cert)]) == 0

    def check(*paths: Path) -> None:
        assert verify(cert, *paths) == 0, verify.said
        assert "holds: blue erased" in verify.said

    check(bundle, model)
    assert run(pfm, ["suspend", str(bundle), "--classes", "red", "--profile", "w"]) == 0
    check(bundle, model)

    # copies: without hidden files, without the ledger, under another name, beside other files
    shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(model, tmp_path / "elsewhere" / "renamed.pt")
    check(tmp_path / "copy", tmp_path / "elsewhere" / "renamed.pt")
    assert "the erasure's lines are quoted" in verify.said
    ledger.append(tmp_path / "elsewhere" / LEDGER, {"action": "note"})
    check(tmp_path / "elsewhere" / "renamed.pt")

    later = tmp_path / "later.json"
    signing = ["--certificate", str(later), "--key", str(cert.with_suffix(".key"))]
    assert run(pfm, ["forget", "--classes", "green", "--in_place", *both, *signing]) == 0
    check(bundle, model)
    assert "changed by later erasures (green)" in verify.said
    assert verify.said.count("classifier rows were moved by them, and are not compared") == 2
    assert verify(cert, bundle, model, later=later) == 0  # which says what they are
    assert "are not compared" not in verify.said
    shutil.move(model.parent, tmp_path / "moved")
    shutil.move(bundle, tmp_path / "b2")
    check(tmp_path / "b2", tmp_path / "moved" / "x.pt")
    check(tmp_path / "copy")  # of before

    # what was changed since and comes without its ledger is not believed
    shutil.copy(tmp_path / "moved" / "x.pt", tmp_path / "y.pt")
    assert verify(cert, tmp_path / "y.pt") == 2
    assert "bring the ledger.jsonl that says so along" in verify.said


def test_a_certificate_may_be_kept_in_the_bundle_and_its_key_may_not(
    tmp_path: Path, verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "b")
    arguments = ["forget", "--classes", "blue", "--in_place", str(bundle), "--certificate", str(bundle / "erased.json")]
    for key in ([], ["--key", str(bundle / "deep" / "in" / "it.key")]):
        assert run(pfm, [*arguments, *key]) == 2
        assert "would be in a bundle, and go wherever that goes" in capsys.readouterr().err
    assert len(Bundle.open(bundle).classes) == 3
    assert run(pfm, [*arguments, "--key", str(tmp_path / "k.key")]) == 0
    assert verify(bundle / "erased.json", bundle) == 0


def test_a_file_that_only_pretends_to_be_what_was_announced_is_not_taken_for_it(tmp_path: Path) -> None:
    """A file with the announced line's hash stamped on it, its class renamed or in another's place."""
    from pfm.forgetting.files import announce_in_place, finish

    path = tmp_path / "x.pt"

    def renamed(content: dict) -> None:
        content["classes"]["ids"][2], content["classes"]["names"][2] = 33, "x"

    def in_anothers_place(content: dict) -> None:
        content["classes"] = {"ids": [0, 1, 3], "names": ["red", "green", "grey"]}
        for state in (content["model_state_dict"], content["ema_state_dict"]):
            for name in ("bank.prompts", "classifier.weight", "classifier.bias"):
                state[name] = state[name][:3].clone()
        content["optimizer_state_dict"] = {}

    for change in (renamed, in_anothers_place):
        (tmp_path / LEDGER).unlink(missing_ok=True)
        save_checkpoint(path, trained_state())
        announce_in_place(tmp_path, [("checkpoint", path)], [(2, "blue")])
        head = ledger.read(tmp_path / LEDGER)[-1]["hash"]

        def stamped(content: dict, change=change, head=head) -> None:
            change(content)
            content.update(erased=[[2, "blue"]], ledger_head=head)

        edit(path, stamped)
        with pytest.raises(StorageError, match="holds other classes than that leaves"):
            finish(tmp_path)


def test_a_class_that_is_there_is_not_certified(tmp_path: Path) -> None:
    """A ledger may say that it was erased from the very bytes that hold it."""
    path = tmp_path / "x.pt"
    save_checkpoint(path, trained_state())
    entry = {"file": "x.pt", "sha256_before": "", "sha256_after": sha256(path)}
    ledger.append(tmp_path / LEDGER, {"action": "erase", "classes": [BLUE], "files": [entry]})
    with pytest.raises(StorageError, match="cannot be certified: holds blue"):
        describe_artifact(path, open_content(path), ["blue"], [])


def test_a_certificate_of_the_first_version_is_read_and_judged_by_what_is_there(folder: Path, verify: Verify) -> None:
    """It names files by their bytes alone."""
    key, _ = load_key(folder / "cert.key")
    body = {k: v for k, v in read_certificate(folder / "cert.json").document.items() if k != "signature"}
    artifacts = []
    for entry in body["artifacts"]:
        first = {k: v for k, v in entry.items() if k not in ("content", "quoted")}
        first["ledger"] = {k: v for k, v in entry["ledger"].items() if k != "first"}
        if entry["kind"] == "bundle":
            place = folder / "bundle"
            first["files"] = {path.name: sha256(path) for path in place.iterdir() if path.name != LEDGER}
        artifacts.append(first)
    other = {**body, "version": 1, "artifacts": artifacts}
    old = folder / "old.json"
    old.write_bytes(canonical({**other, "signature": key.sign(canonical(other)).hex()}) + b"\n")
    assert verify(old, folder / "bundle", folder / "run" / "model.pt") == 0, verify.said
    assert "of the first version" in verify.said
    assert run(pfm, ["suspend", str(folder / "bundle"), "--classes", "red", "--profile", "w"]) == 0
    assert run(pfm, ["forget", "--in_place", "--classes", "green", str(folder / "run")]) == 0
    assert verify(old, folder / "bundle", folder / "run" / "model.pt") == 0, verify.said
    save_checkpoint(folder / "run" / "model.pt", dataclasses.replace(trained_state(), ledger_head=""))
    assert verify(old, folder / "run" / "model.pt") == 2
    assert "holds the class blue" in verify.said
    assert load_checkpoint(folder / "run" / "model.pt").classes.names[2] == "blue"
