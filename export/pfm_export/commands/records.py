"""What the commands that erase have in common: the options of the record, the copy, the certificate."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.classes import check_removal, listed
from pfm.errors import ConfigError, StorageError
from pfm.options import option
from pfm.storage import check_file

if TYPE_CHECKING:
    from pfm.forgetting.files import Scrubbed
    from pfm.forgetting.ledger import Record
    from pfm.forgetting.samples import Removal
    from pfm.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What is written down of an erasure."""

    reason: str = option("", "Free text for the record.", may_be_empty=True)
    requested_by: str = option("", "Free text for the record.", may_be_empty=True)
    certificate: Path | None = option(None, "Write a signed statement here.")
    key: Path | None = option(
        None,
        "With --certificate: Ed25519 key (PEM) to sign with; made where there is none.  "
        "[default: the certificate's name with .key]",
    )

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise ConfigError("--key signs a certificate; name the file to write with --certificate")
        if self.certificate is not None and self.key_path.resolve() == self.certificate.resolve():
            raise ConfigError(f"--certificate and --key are both {self.certificate}; give two files")

    @property
    def key_path(self) -> Path:
        """Where the key of the certificate is, or will be."""
        assert self.certificate is not None
        return self.key or self.certificate.with_suffix(".key")

    def check_key(self) -> None:
        """Refuse a key that cannot sign and a certificate that is there, before anything is erased.

        A key that is not there yet is made later.

        Raises:
            ConfigError: the file is not such a key, others may read it, or the certificate exists.
            StorageError: one of the two could not be written.
        """
        from pfm.forgetting.keys import load_key
        from pfm_export.serving.manifest import is_bundle

        if self.certificate is None:
            return
        if self.certificate.exists():
            raise ConfigError(
                f"--certificate {self.certificate} exists, and a signed record is kept; choose another name"
            )
        if any(is_bundle(folder) for folder in self.key_path.resolve().parents):
            raise ConfigError(
                f"the key {self.key_path} would be in a bundle, and go wherever that goes; "
                "keep it elsewhere, with --key"
            )
        check_file(self.certificate)
        if self.key_path.exists():
            load_key(self.key_path)
        else:
            check_file(self.key_path)

    def certify(self, artifacts: Sequence[Path], keys: Sequence[str]) -> None:
        """Write the certificate, if one is asked for, of those artifacts whose ledger records the erasure.

        Args:
            artifacts: that hold none of the classes any more.
            keys: names of the classes.

        Raises:
            StorageError: no ledger records it.
        """
        from pfm.forgetting import certificate
        from pfm_export.contents import open_content

        if self.certificate is None:
            return
        described: list[Record] = []
        for artifact in artifacts:
            found = certificate.describe_artifact(artifact, open_content(artifact), keys, [])
            if found is None:
                click.echo(f"not certified: {artifact} lacks the class, and no ledger beside it says since when")
            else:
                described.append(found)
        if not described:
            raise StorageError(f"{self.certificate} was not written: no ledger records an erasure of {listed(keys)}")
        self._sign(described)

    def certify_samples(self, removals: "Mapping[Path, tuple[Removal, Record]]") -> None:
        """Write the certificate, if one is asked for, of checkpoints that groups or samples were taken out of.

        Args:
            removals: what went out of each checkpoint, and the ledger's line that says so.
        """
        from pfm.forgetting import certificate
        from pfm.forgetting.keys import load_key, secret_of
        from pfm.forgetting.subjects import spoken_of, subject_key
        from pfm_export.contents import open_content

        if self.certificate is None:
            return
        signer, is_new = load_key(self.key_path)
        secret = secret_of(signer)
        pairs = list(dict.fromkeys(pair for removal, _ in removals.values() for pair in removal.pairs))
        subjects = dict(zip(pairs, spoken_of(pairs, secret), strict=True))
        described = [
            certificate.describe_samples(path, open_content(path), line, [subjects[pair] for pair in removal.pairs])
            for path, (removal, line) in removals.items()
        ]
        self._sign(described, is_new=is_new)
        click.echo("it names nobody; for whoever asked, the key of their entry (`pfm verify --subject_key`):")
        for (what, name), subject in subjects.items():
            click.echo(f"  {what} {name}: {subject_key(secret, subject['salt']).hex()}")

    def _sign(self, described: "Sequence[Record]", *, is_new: bool = False) -> None:
        from pfm.forgetting import certificate
        from pfm.forgetting.keys import load_key, public_hex

        assert self.certificate is not None
        signer, was_made = load_key(self.key_path)
        is_new |= was_made
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        certificate.write_certificate(
            self.certificate, signer, described, reason=self.reason, requested_by=self.requested_by, time=now
        )
        click.echo(f"wrote {self.certificate}, signed with the {'new ' if is_new else ''}key in {self.key_path}")
        click.echo(f"keep {self.key_path} to yourself: whoever has it can sign in your name")
        click.echo(f"public key {public_hex(signer)}: publish it, so that others can tell it is yours")


def copy_path(ckpt: Path, checkpoint: "Checkpoint", keys: Sequence[str], out: Path | None) -> Path:
    """Where a copy without some classes goes; whether it can is said now, before any long work.

    Raises:
        ClassNameError: it would have no class.
        ConfigError, StorageError: nothing can be written there.
    """
    from pfm.forgetting import files

    positions = checkpoint.classes.positions(keys)
    check_removal(checkpoint.classes, positions)
    target = out or files.erased_path(ckpt, checkpoint, positions)
    files.check_copy(ckpt, target)
    return target


def write_copy(
    ckpt: Path,
    checkpoint: "Checkpoint",
    keys: Sequence[str],
    target: Path,
    record: RecordOptions,
    *,
    centre_prompts: bool = False,
    scrubbed: "Scrubbed | None" = None,
) -> None:
    """Write a copy of a checkpoint without some classes, and say what was done and what is still there.

    Args:
        centre_prompts: move the prompts that are left to mean zero.
        scrubbed: what to write instead of the erased checkpoint: one with other shared weights.
    """
    from pfm.forgetting import files
    from pfm.forgetting.artifacts import Request

    request = Request(record.reason, record.requested_by, centre_prompts)
    written = files.erase_file(ckpt, checkpoint, keys, target, request=request, scrubbed=scrubbed)
    left = checkpoint.classes.without(checkpoint.classes.positions(keys))
    click.echo(f"erased {listed(entry['name'] for entry in written['classes'])}: {', '.join(written['erased'])}")
    click.echo(f"classes left: {left.describe()}\nwrote {target}\nrecord {target.parent / 'ledger.jsonl'}")
    click.echo(f"still there: {ckpt} holds the erased classes until you delete it")
    for remark in written["remains"]:
        click.echo(f"still there: {remark}")
