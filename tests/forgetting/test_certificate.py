"""A certificate holds for what it names, and for nothing that differs from it by a byte."""

import json
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from making.checkpoints import trained_state
from pfm.cli import pfm, run
from pfm.errors import CertificateError, ConfigError, PfmError, StorageError
from pfm.forgetting import certificate, ledger
from pfm.forgetting.certificate import read_certificate
from pfm.forgetting.erase import erase
from pfm.forgetting.keys import load_key, public_hex
from pfm.forgetting.ledger import LEDGER
from pfm.forgetting.verify import verify
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.storage import sha256
from pfm_export.contents import open_content
from pfm_export.erasing import erase_everywhere


def problems(folder: Path) -> list[str]:
    """What `verify` finds wrong, as (name of the file: problem)."""
    signed = read_certificate(folder / "cert.json")
    checks = verify(signed, [folder / "run" / "model.pt", folder / "bundle"], open_content)
    return [f"{Path(check.name).name}: {check.problem}" for check in checks if check.problem]


def test_what_was_certified_verifies_and_says_what_is_not_proven(folder: Path) -> None:
    assert problems(folder) == []
    signed = read_certificate(folder / "cert.json").document
    assert [entry["file"] for entry in signed["artifacts"]] == ["model.pt", "bundle"]
    assert (signed["reason"], signed["requested_by"]) == ("request 7", "ward 3")
    assert any("shared weights" in remark for remark in signed["not_proven"])
    assert any("backups" in remark for remark in signed["not_proven"])
    for entry in signed["artifacts"]:
        assert entry["sha256_before"] != entry["sha256"]
        assert [item["name"] for item in entry["records"][0]["classes"]] == ["blue"]


def test_a_certificate_is_one_line_that_anyone_can_check(folder: Path) -> None:
    content = (folder / "cert.json").read_bytes()
    record = json.loads(content)
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert content == text.encode() + b"\n"


def test_a_key_is_made_for_its_owner_alone_and_used_again(folder: Path) -> None:
    path = folder / "cert.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key, is_new = load_key(path)
    assert not is_new
    assert public_hex(key) == read_certificate(folder / "cert.json").document["public_key"]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by others"):
        load_key(path)
    (folder / "other.key").write_text("no key")
    (folder / "other.key").chmod(0o600)
    with pytest.raises(ConfigError, match="not an unencrypted private key"):
        load_key(folder / "other.key")


def test_another_key_than_the_expected_one_is_refused(folder: Path) -> None:
    mine = public_hex(load_key(folder / "cert.key")[0])
    other = public_hex(load_key(folder / "new.key")[0])
    read_certificate(folder / "cert.json", mine.upper())
    with pytest.raises(CertificateError, match="somebody else made it"):
        read_certificate(folder / "cert.json", other)
    for wrong in (mine[:-1], f"0x{mine}", "KEY"):
        with pytest.raises(ConfigError, match="is not 64 hexadecimal digits"):
            read_certificate(folder / "cert.json", wrong)


def test_a_certificate_signed_anew_with_another_key_shows_another_key(folder: Path) -> None:
    """What someone does who may change everything but the key."""
    signed = read_certificate(folder / "cert.json").document
    key, _ = load_key(folder / "new.key")
    certificate.write_certificate(
        folder / "cert.json", key, signed["artifacts"], reason="another", requested_by="", time=signed["time"]
    )
    assert read_certificate(folder / "cert.json").document["reason"] == "another"
    with pytest.raises(CertificateError, match="not with the one given"):
        read_certificate(folder / "cert.json", signed["public_key"])


def test_each_broken_link_has_its_own_message(folder: Path) -> None:
    def shortened(path: Path, lines: int) -> None:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))

    def changed(path: Path) -> None:
        path.write_bytes(path.read_bytes() + b" ")

    for what, name, expected in (
        (lambda: changed(folder / "run" / "model.pt"), "model.pt", "the file was changed"),
        (lambda: changed(folder / "bundle" / "model.onnx"), "bundle", "model.onnx was changed: it is not the file"),
        (lambda: (folder / "bundle" / "old.bin").write_bytes(bytes(range(256))), "old.bin", "not looked into"),
        (lambda: (folder / "bundle" / "manifest.json").unlink(), "bundle", "is a folder and not an artifact"),
        (lambda: shortened(folder / "run" / LEDGER, 1), LEDGER, "lines were removed at its end: 2 when"),
        (lambda: changed(folder / "run" / LEDGER), LEDGER, "line 3: the record was changed"),
    ):
        untouched = folder.with_name("untouched")
        shutil.copytree(folder, untouched)
        what()
        (problem,) = problems(folder)
        assert problem.startswith(f"{name}: ")
        assert expected in problem
        shutil.rmtree(folder)
        untouched.rename(folder)


def test_a_checkpoint_beside_another_ledger_verifies_and_a_bundle_does_not(folder: Path) -> None:
    path = folder / "run" / LEDGER
    path.unlink()
    for _ in range(3):
        ledger.append(path, {"action": "note"})
    assert problems(folder) == []  # a ledger of other files, where a copy was put; the lines are in the certificate
    (folder / "bundle" / LEDGER).unlink()
    assert "manifest, ledger and bank do not belong together" in problems(folder)[0]


def test_a_later_erasure_leaves_the_certificate_valid_and_can_have_its_own(folder: Path) -> None:
    erase_everywhere([folder / "run"], ["red"])
    assert problems(folder) == []
    path = folder / "run" / "model.pt"
    described = certificate.describe_artifact(path, open_content(path), ["blue"], [])
    assert described is not None
    assert [spoken["line"] for spoken in described["records"]] == [2]
    assert described["ledger"]["lines"] == 4


def test_a_file_that_changed_after_the_erasure_is_not_certified(folder: Path) -> None:
    path = folder / "run" / "model.pt"
    save_checkpoint(path, load_checkpoint(path).__class__(**{**vars(load_checkpoint(path)), "epoch": 7}))
    with pytest.raises(StorageError, match="was changed after the last erasure"):
        certificate.describe_artifact(path, open_content(path), ["blue"], [])
    assert certificate.describe_artifact(path, open_content(path), ["red"], []) is None  # no line speaks of it


def test_what_has_no_record_is_named_and_the_rest_is_certified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison model of an audit: made without the class, by no erasure."""
    save_checkpoint(tmp_path / "run" / "model.pt", trained_state())
    save_checkpoint(tmp_path / "pfm-audit" / "fine-tuned.pt", erase(trained_state(), ["blue"]))
    folders = [str(tmp_path / "run"), str(tmp_path / "pfm-audit")]
    out = tmp_path / "cert.json"
    assert run(pfm, ["forget", "--classes", "blue", "--in_place", *folders, "--certificate", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"not certified: {tmp_path / 'pfm-audit' / 'fine-tuned.pt'} lacks the class" in said
    assert [entry["file"] for entry in read_certificate(out).document["artifacts"]] == ["model.pt"]
    alone = ["forget", "--classes", "blue", "--in_place", folders[1], "--certificate", str(tmp_path / "none.json")]
    assert run(pfm, alone) == 2
    assert "no ledger records an erasure of blue" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


def test_a_key_that_cannot_sign_is_refused_before_anything_is_erased(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, key = tmp_path / "model.pt", tmp_path / "other.key"
    save_checkpoint(model, trained_state())
    before = model.read_bytes()
    key.write_text("no key")
    key.chmod(0o600)
    common = ["forget", "--classes", "blue", "--in_place", str(model), "--key", str(key)]
    for more, message in (
        (["--certificate", str(tmp_path / "cert.json")], "not an unencrypted private key"),
        (["--certificate", str(key)], "give two files"),
        ([], "--key signs a certificate"),
    ):
        assert run(pfm, [*common, *more]) == 2
        assert message in capsys.readouterr().err
        assert model.read_bytes() == before


def test_a_class_whose_name_has_commas_is_certified_under_that_name_alone(folder: Path) -> None:
    path, item = folder / "run" / "model.pt", {"id": 7, "name": "atypical, small"}
    ledger.append(folder / "run" / LEDGER, {
        "action": "erase", "classes": [item],
        "files": [{"file": "model.pt", "sha256_before": "", "sha256_after": sha256(path)}],
    })  # fmt: skip
    content = open_content(path)
    assert certificate.describe_artifact(path, content, ["atypical, small"], []) is not None
    for names in (["atypical", "small"], ["small"], ["atypical,small"]):
        assert certificate.describe_artifact(path, content, names, []) is None


@pytest.mark.slow
def test_none_of_a_thousand_mutated_certificates_passes_nor_a_mutated_artifact(folder: Path) -> None:
    """Bits flipped, bytes cut out, put in, swapped or doubled, ends cut off: everywhere."""
    draw = random.Random(0)
    bundle = folder / "bundle"
    targets = {folder / "cert.json": 1000, folder / "run" / LEDGER: 120, bundle / LEDGER: 120}
    targets |= {folder / "run" / "model.pt": 120, bundle / "model.onnx": 120, bundle / "bank.safetensors": 120}
    targets |= {bundle / "manifest.json": 300}
    messages: set[str] = set()
    for path, count in targets.items():
        original = path.read_bytes()
        for _ in range(count):
            path.write_bytes(mutated(original, draw))
            try:
                found = problems(folder)
            except CertificateError as error:
                found = [str(error)]
            if path.name == "manifest.json" and not found:  # a blank more says nothing else
                assert json.loads(path.read_bytes()) == json.loads(original)
                continue
            assert found, f"{path.name} passes after a mutation"
            assert path.name in found[0] or path.parent.name in found[0]
            messages.add(found[0].split(": ", 1)[1][:30])
        path.write_bytes(original)
    assert problems(folder) == []
    assert len(messages) >= 3


def mutated(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    kind = draw.randrange(6)
    if kind == 0:
        result = content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    elif kind == 1:
        result = content[:at] + content[at + draw.randint(1, 9) :]
    elif kind == 2:
        result = content[:at] + draw.choice([b" ", b"\n", b"0", draw.randbytes(3)]) + content[at:]
    elif kind == 3:
        result = content[:at]
    elif kind == 4:
        result = content[:at] + content[at : at + 1].swapcase() + content[at + 1 :]
    else:
        result = content[:at] + content[at : at + 40] + content[at:]
    return result if result != content else content + b"\n"


def test_verification_of_a_bundle_needs_no_torch_and_says_which_link_is_broken(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = read_certificate(folder / "cert.json").public_key
    common = ["verify", "--public_key", key, str(folder / "cert.json")]
    arguments = [*common, str(folder / "bundle"), str(folder / "run" / "model.pt")]
    program = "import sys\nfrom pfm.cli import pfm, run\ncode = run(pfm, sys.argv[1:])\n"
    program += "assert 'torch' not in sys.modules\nsys.exit(code)"
    root = Path(certificate.__file__).parent.parent.parent
    path = f"{root}:{root / 'export'}"
    subprocess.run([sys.executable, "-c", program, *arguments[:-1]], check=True, env={"PYTHONPATH": path})
    assert run(pfm, arguments[:-1]) == 0
    assert "not checked: model.pt" in capsys.readouterr().out
    (folder / "bundle" / "model.onnx").write_bytes(b"another graph")
    assert run(pfm, arguments) == 2
    told = capsys.readouterr()
    assert "BROKEN" in told.out
    assert "model.onnx was changed: it is not the file that the manifest states" in told.err
    (folder / "run" / "stranger.pt").write_bytes(b"")
    assert run(pfm, [*common, str(folder / "run" / "stranger.pt")]) == 2
    assert "stranger.pt is not a checkpoint" in capsys.readouterr().err


def test_a_folder_of_a_run_is_said_not_to_be_an_artifact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pfm, ["verify", str(folder / "cert.json"), str(folder / "run")]) == 2
    told = capsys.readouterr()
    assert f"{folder / 'run'} is a folder and not an artifact" in told.err
    assert f"name what is in it: {folder / 'run' / 'model.pt'}" in told.err
    assert "BROKEN" not in told.out


def test_a_certificate_can_be_written_later_or_of_a_copy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["forget", "--classes", "blue", "--in_place", str(folder / "run"), "--certificate", str(folder / "b.json")]
    assert run(pfm, [*again, "--key", str(folder / "cert.key")]) == 0
    assert "was erased before" in capsys.readouterr().out
    assert read_certificate(folder / "b.json").document["artifacts"][0]["file"] == "model.pt"
    copy = ["forget", "--classes", "red", "--ckpt", str(folder / "run" / "model.pt"), "--out", str(folder / "less.pt")]
    assert run(pfm, [*copy, "--certificate", str(folder / "c.json")]) == 0
    assert verify(read_certificate(folder / "c.json"), [folder / "less.pt"], open_content)[0].problem == ""


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"{}\n", b"[]\n", b"null\n", b"\xff", b'{"signature":"00"}\n'):
        (tmp_path / "cert.json").write_bytes(content)
        with pytest.raises(CertificateError, match="changed, or is not one"):
            read_certificate(tmp_path / "cert.json")
    with pytest.raises(PfmError, match="cannot read"):
        read_certificate(tmp_path / "nothing.json")
