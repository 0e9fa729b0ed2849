"""A certificate of groups and samples says exact, names nobody, and is opened for one person by one key."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from making.commands import Refuse
from making.exact import fit, image_data
from pfm.cli import pfm, run
from pfm.device import Processes
from pfm.forgetting import ledger
from pfm.forgetting.certificate import WITH_SAMPLES, read_certificate
from pfm.forgetting.erase import erase
from pfm.forgetting.keys import load_key, secret_of
from pfm.forgetting.samples import Removal
from pfm.forgetting.solution import cannot_tell, misfits_of_solution
from pfm.forgetting.subjects import Subject, spoken_of, subject_key
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.model.readouts.ridge import memory_of, with_memory
from pfm.storage import sha256
from pfm.training.learning import learn_on
from pfm_export.contents import open_content
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import write_manifest

HERE = Processes(device=torch.device("cpu"))


def test_a_certificate_of_samples_tells_who_only_to_whom_has_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(image_data(), tmp_path)
    path, cert = tmp_path / "colours_seed_3_1.pt", tmp_path / "cert.json"
    told = ["--reason", "request 7", "--certificate", str(cert)]
    assert run(pfm, ["forget", "--group", "camera2", "--sample", "image9.png", "--in_place", str(path), *told]) == 0
    out = capsys.readouterr().out
    of_group, of_sample = re.findall(r"^  (?:group|sample) \S+: ([0-9a-f]{64})$", out, re.MULTILINE)
    public = re.findall(r"public key ([0-9a-f]{64})", out)[0]
    for file in (cert, tmp_path / "ledger.jsonl"):
        assert "camera2" not in file.read_text()
        assert "image9" not in file.read_text()
    signed = read_certificate(cert)
    (entry,) = signed.artifacts
    assert (signed.version, entry.num_samples) == (WITH_SAMPLES, 9)
    assert [subject.what for subject in entry.subjects] == ["group", "sample"]
    assert entry.exact == load_checkpoint(path).exact["digest"]
    assert not any("shared weights" in remark for remark in signed.not_proven)

    verify = ["verify", str(cert), str(path), "--public_key", public]
    assert run(pfm, verify) == 0
    out = capsys.readouterr().out
    assert f"digest {entry.exact}" in out
    assert "holds: 9 stored samples taken out" in out
    assert run(pfm, [*verify, "--group", "camera2", "--subject_key", of_group]) == 0
    out = capsys.readouterr().out
    assert "group camera2: the certificate speaks of it" in out
    assert "none of its stored samples is of what was asked for" in out
    assert run(pfm, [*verify, "--sample", "image9.png", "--subject_key", of_sample]) == 0
    assert run(pfm, [*verify, "--group", "camera2"]) == 3  # it is not there, and yet nothing says why
    refuse = Refuse(capsys)
    assert "another's key" in refuse(*verify, "--group", "camera2", "--subject_key", of_sample)
    assert "64 hexadecimal digits" in refuse(*verify, "--group", "camera2", "--subject_key", "ab")
    assert "name that too" in refuse(*verify, "--subject_key", of_group)

    # later erasures leave it valid; what is left once samples went, only a certificate of that says; another row is not
    assert run(pfm, ["forget", "--class", "red", "--in_place", str(path)]) == 0
    assert run(pfm, verify) == 0
    later = ["--certificate", str(tmp_path / "later.json"), "--key", str(cert.with_suffix(".key"))]
    assert run(pfm, ["forget", "--group", "camera1", "--in_place", str(path), *later]) == 0
    assert run(pfm, verify) == 3
    assert "groups or samples were taken out of it later" in capsys.readouterr().out
    verify += ["--later", later[1]]
    assert run(pfm, ["forget", "--class", "grey", "--in_place", str(path)]) == 0
    assert run(pfm, verify) == 0
    changed = load_checkpoint(path)
    changed.tensors["ridge.weight"][0, 0] += 0.01
    save_checkpoint(path, changed)
    assert "not what is solved" in refuse(*verify)


@pytest.mark.parametrize("gone", [[], ["red"], ["samples"]])
def test_samples_put_back_under_another_class_do_not_pass_for_a_later_erasure(
    gone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody can write a line behind a ledger's last; the key is not needed for that."""
    full = memory_of(fit(image_data(), tmp_path))
    path, cert = tmp_path / "colours_seed_3_1.pt", tmp_path / "cert.json"
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(path), "--certificate", str(cert)]) == 0
    verify = ["verify", str(cert), str(path), "--public_key", read_certificate(cert).public_key]
    assert run(pfm, verify) == 0
    signed, before = load_checkpoint(path), sha256(path)
    assert full.rows is not None
    blue = full.rows.take(full.rows.labels == full.classes.index("blue"))
    others = dataclasses.replace(blue, labels=np.zeros_like(blue.labels), groups=np.full_like(blue.groups, -1))
    kept = erase(signed, ["red"]) if "red" in gone else signed
    save_checkpoint(path, with_memory(kept, memory_of(kept).with_rows(["green"], others, [])))
    files = [{"file": path.name, "source": path.name, "sha256_before": before, "sha256_after": sha256(path)}]
    classes = [{"id": 0, "name": "red"}] if "red" in gone else []
    action = ledger.ERASE_SAMPLES if "samples" in gone else ledger.ERASE
    ledger.append(tmp_path / "ledger.jsonl", {"action": action, "classes": classes, "files": files})
    capsys.readouterr()
    assert run(pfm, verify) == (3 if "samples" in gone else 2)
    said = capsys.readouterr()
    assert ("--later" if "samples" in gone else "what green is solved from was changed") in said.err
    assert "holds" not in said.out


def test_samples_that_are_there_again_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(image_data(), tmp_path)
    path, cert = tmp_path / "colours_seed_3_1.pt", tmp_path / "cert.json"
    before = path.read_bytes()
    assert run(pfm, ["forget", "--group", "camera2", "--in_place", str(path), "--certificate", str(cert)]) == 0
    out = capsys.readouterr().out
    (key,) = re.findall(r"^  group camera2: ([0-9a-f]{64})$", out, re.MULTILINE)
    path.write_bytes(before)
    public = read_certificate(cert).public_key
    asked = ["verify", str(cert), str(path), "--public_key", public, "--group", "camera2", "--subject_key", key]
    assert run(pfm, asked) == 2
    found = capsys.readouterr()
    assert "8 stored samples are of the group camera2" in found.out
    assert "changed since the certificate" in found.err


def test_each_checkpoint_loses_what_it_has_of_several_groups_or_none_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(image_data(), tmp_path)
    full, less, cert = tmp_path / "colours_seed_3_1.pt", tmp_path / "less.pt", tmp_path / "cert.json"
    assert run(pfm, ["forget", "--group", "camera1", "--ckpt", str(full), "--out", str(less)]) == 0
    before = full.read_bytes(), less.read_bytes()
    forget = ["forget", "--in_place", str(full), str(less), "--certificate", str(cert), "--group", "camera1"]
    refuse = Refuse(capsys)
    assert "group 'camera9' is not in the memory of" in refuse(*forget, "--group", "camera9")
    every = [word for i in range(6) for word in ("--group", f"camera{i}")]
    assert "would leave no sample" in refuse(*forget, *every)
    assert (full.read_bytes(), less.read_bytes()) == before

    capsys.readouterr()
    assert run(pfm, [*forget, "--group", "camera2"]) == 0
    out = capsys.readouterr().out
    assert "it had no group camera1\n" in out
    assert [list(memory_of(load_checkpoint(path)).groups) for path in (full, less)] == [
        ["camera0", "camera3", "camera4", "camera5"]
    ] * 2
    entries = {entry.file: entry for entry in read_certificate(cert).artifacts}
    assert [len(entries[path.name].subjects) for path in (full, less)] == [2, 1]
    (key,) = re.findall(r"^  group camera1: ([0-9a-f]{64})$", out, re.MULTILINE)
    assert [any(s.is_meant("group", "camera1", bytes.fromhex(key)) for s in entry.subjects)
            for entry in (entries[full.name], entries[less.name])] == [True, False]  # fmt: skip

    other = tmp_path / "other" / full.name
    fit(image_data(), other.parent)
    assert run(pfm, ["forget", "--in_place", str(full), str(other), "--group", "camera2"]) == 0
    out = capsys.readouterr().out
    assert f"does not have it   {full}" in out  # and is not said never to have had it
    assert f"erased             {other}" in out


def test_a_class_certificate_of_an_exact_readout_says_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(image_data(), tmp_path, width=300)  # of which `test_exact_graph.py` has a trace
    path, cert = tmp_path / "colours_seed_3_1.pt", tmp_path / "cert.json"
    assert run(pfm, ["export", "onnx", "--ckpt", str(path), "--out", str(tmp_path / "b"), "--with_sums"]) == 0
    both = [str(path), str(tmp_path / "b")]
    capsys.readouterr()
    assert run(pfm, ["forget", "--class", "blue", "--in_place", *both, "--certificate", str(cert)]) == 0
    out = capsys.readouterr().out
    assert [f"exact: {tmp_path / name} is the model that" in out for name in (path.name, "b")] == [True, True]
    assert "shared weights" not in out
    digest = load_checkpoint(path).exact["digest"]
    signed = read_certificate(cert)
    assert [entry.exact for entry in signed.artifacts] == [digest, digest]
    of_checkpoint, of_bundle = (entry.content for entry in signed.artifacts)
    assert of_checkpoint is not None
    assert of_bundle is not None
    assert all(own.sums for own in of_checkpoint.classes)
    assert {own.name: own.sums for own in of_checkpoint.classes} == {own.name: own.sums for own in of_bundle.classes}
    quoted = [record["exact"]["digest"] for record in ledger.read(tmp_path / "b" / "ledger.jsonl")]
    assert quoted == [digest]
    assert run(pfm, ["verify", str(cert), *both, "--public_key", signed.public_key]) == 0
    sums = tmp_path / "b" / "sums.0.bin"
    values = np.fromfile(sums, "<i8")
    values[0] += 1
    values.tofile(sums)
    told = Refuse(capsys)("verify", cert, *both, "--public_key", signed.public_key)
    assert "was changed since it was exported" in told
    # without its sums, a manifest's word is all there is
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest["exact"]["bank_digest"] == digest
    write_manifest(tmp_path / "b", {**manifest, "exact": {**manifest["exact"], "has_sums": False}})
    assert Bundle.open(tmp_path / "b").is_exact
    assert open_content(tmp_path / "b").exact == ""
    assert "they are not those of what is left" in Refuse(capsys)(
        "verify", cert, *both, "--public_key", signed.public_key
    )


def test_samples_hidden_in_a_memory_are_noticed(tmp_path: Path) -> None:
    made = fit(image_data(), tmp_path)
    assert misfits_of_solution(made) == []
    hidden = dataclasses.replace(made, memory={**made.memory, "rows.others": torch.zeros(2, 3)})
    assert misfits_of_solution(hidden) == ["its memory has rows.others, which nothing names"]
    labels = made.memory["rows.labels"].clone()
    labels[-1] = 9
    of_none = dataclasses.replace(made, memory={**made.memory, "rows.labels": labels})
    assert misfits_of_solution(of_none) == ["47 of its 48 stored samples are of classes in the list, which has 48"]


def test_a_sample_is_meant_by_its_file_and_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the data set had may be that of a file where the command runs, and is none elsewhere."""
    secret = secret_of(load_key(tmp_path / "a.key")[0])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.png").write_bytes(b"a")
    monkeypatch.chdir(tmp_path / "here")
    (entry,) = spoken_of([("sample", "a.png")], secret)
    key, found = subject_key(secret, entry["salt"]), Subject.of(entry)
    monkeypatch.chdir(tmp_path)
    assert found.is_meant("sample", "a.png", key)
    (tmp_path / "renamed.png").write_bytes(b"a")
    assert found.is_meant("sample", str(tmp_path / "renamed.png"), key)
    assert not found.is_meant("sample", "b.png", key)
    assert not found.is_meant("group", "a.png", key)
    assert not Subject.of({**entry, "name_id": ""}).is_meant("sample", "a.png", key)


def test_equal_names_have_other_ids_in_every_entry(tmp_path: Path) -> None:
    secret = secret_of(load_key(tmp_path / "a.key")[0])
    first, second = spoken_of([("group", "ann"), ("group", "ann")], secret)
    assert first["id"] != second["id"]
    assert subject_key(secret, first["salt"]) != subject_key(secret, second["salt"])


def test_who_could_be_there_and_not_be_found_is_not_said_to_be_gone(tmp_path: Path) -> None:
    data = image_data()
    grouped = fit(data, tmp_path / "grouped")
    sought = Removal(groups=["camera9"])
    assert cannot_tell(grouped, sought) == ""
    loose = dataclasses.replace(data, train=dataclasses.replace(data.train, groups=None))
    for checkpoint in (fit(loose, tmp_path / "loose"), learn_on(grouped, loose, HERE).checkpoint):
        assert "48 of its stored samples are of no group" in cannot_tell(checkpoint, sought)
        assert cannot_tell(checkpoint, Removal()) == ""  # a sample is known by its content
    assert "it keeps no samples" in cannot_tell(fit(data, tmp_path / "sums", memory="sums"), Removal())


def test_what_cannot_be_solved_again_is_not_certified_as_exact(tmp_path: Path) -> None:
    """Whether it was solved without the class, a file with nothing to solve from can only say."""
    fit(image_data(), tmp_path, memory="none")
    path = tmp_path / "colours_seed_3_1.pt"
    erased = erase(load_checkpoint(path), ["blue"])
    assert not erased.exact["is_solved"]
    save_checkpoint(path, dataclasses.replace(erased, exact={**erased.exact, "is_solved": True}))
    content = open_content(path)
    assert content.exact == ""
    assert not any(own.sums for own in content.classes)
