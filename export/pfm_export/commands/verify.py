"""`pfm verify`: is a certificate intact, and do the artifacts hold none of the classes that it says were erased?"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.classes import listed
from pfm.commands.options import CONTEXT_SETTINGS, PATH, with_options
from pfm.errors import CertificateError, ConfigError, NotShownError
from pfm.options import option

if TYPE_CHECKING:
    from pfm.forgetting.certificate import Certificate
    from pfm.forgetting.verify import Check


@dataclass(frozen=True, kw_only=True)
class AskedFor:
    """Groups and samples that somebody wants to know of."""

    group: tuple[str, ...] = option((), "A group that was to be forgotten: sought in the artifacts.")
    sample: tuple[str, ...] = option((), "A sample that was to be forgotten, its file or its name: sought likewise.")
    subject_key: tuple[str, ...] = option(
        (),
        "The key of an entry of the certificate, as `pfm forget` printed it: says whether it speaks of that group or "
        "sample.",
    )

    def __post_init__(self) -> None:
        if self.subject_key and not self.pairs:
            raise ConfigError("--subject_key is the key of a group's or a sample's entry; name that too")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Kind and name of each."""
        return [*(("group", name) for name in self.group), *(("sample", name) for name in self.sample)]


@click.command("verify", context_settings=CONTEXT_SETTINGS)
@click.argument("cert", type=PATH)
@click.argument("artifacts", nargs=-1, type=PATH)
@click.option(
    "--public_key",
    default="",
    show_default=False,
    help="The key it has to be signed with, 64 hexadecimal digits, as its owner published it.  "
    "[default: none; nothing is shown then]",
)
@click.option(
    "--later",
    multiple=True,
    type=PATH,
    help="Certificate of a later erasure, by the same key: says what prompts are since they were centred, and what "
    "classes of an exact readout are solved from since samples were taken out.",
)
@with_options(asked=AskedFor)
def verify(cert: Path, artifacts: tuple[Path, ...], public_key: str, later: tuple[Path, ...], asked: AskedFor) -> None:
    """Check a certificate, open each artifact, and look for the classes that were erased.

    An artifact is a checkpoint file or the folder of a bundle. A bundle needs no torch. The ledger beside an
    artifact is compared too, where there is one. A certificate of groups or samples names nobody: --group or
    --sample, with the key of its entry, says whether it speaks of them, and looks for them in the artifacts.

    Exit code 0: everything given holds. 2: something is broken, and which link. 3: nothing is broken, and yet
    nothing is shown: no --public_key was named, a file of a bundle could not be looked into, or a later
    erasure centred the prompts or took samples out, and its certificate was not given with --later.
    """
    from pfm.forgetting import verify as verifying
    from pfm.forgetting.certificate import read_certificate
    from pfm_export.contents import open_content

    if cert.is_dir():
        raise ConfigError(f"{cert} is a folder; the certificate comes first: pfm verify CERT {cert}")
    signed = read_certificate(cert, public_key)
    known = ", ".join(entry.file for entry in signed.artifacts)
    if not artifacts:
        raise ConfigError(f"name the artifacts to look into; {cert} speaks of {known}")
    _refuse_folders(artifacts, signed)
    click.echo(f"signed  {cert}: {signed.time}, with the key {signed.public_key}")
    if signed.version == 1:
        click.echo("        a certificate of the first version: it names files by their bytes alone")
    vouching = [read_certificate(path, signed.public_key) for path in later]
    checks = verifying.verify(signed, artifacts, open_content, vouching)
    checks += [*_about(signed, asked), *_sought(artifacts, asked)]
    checks = [check for check in checks if not (check.is_unknown and Path(check.name).resolve() == cert.resolve())]
    for check in checks:
        word = "UNKNOWN" if check.is_unknown else "BROKEN" if check.problem else "agrees"
        told = check.problem or check.remark
        click.echo(f"{word:7} {check.name}" + f": {told}" * bool(told))
    given = {path.resolve().name for path in artifacts}
    for entry in signed.artifacts:
        if entry.file not in given:
            click.echo(f"not checked: {entry.file} ({entry.artifact_kind})")
    for remark in signed.not_proven:
        click.echo(f"not proven: {remark}")
    for check in checks:
        if check.problem and not check.is_unknown:
            raise CertificateError(f"{check.name}: {check.problem}")
    if not public_key:
        raise NotShownError(
            f"{cert} is unsigned for you: anybody can make a key. Get the signer's public key from the signer, and "
            "give it with --public_key"
        )
    for check in checks:
        if check.is_unknown and check.problem:
            raise NotShownError(f"{check.name}: {check.problem}; look into it, or take it out of the bundle's folder")
    for check in checks:
        if not check.problem and check.is_unknown:
            raise NotShownError(f"{check.name}: {check.remark}")
    for line in _held(checks):
        click.echo(line)


def _held(checks: "Iterable[Check]") -> list[str]:
    """What is shown of the artifacts that were looked into, and of no other that the certificate names."""
    seen = [(check.name, check.entry) for check in checks if check.entry is not None]
    lines = [
        f"exact: {name} was solved from what was left when this was signed, digest {entry.exact}"
        for name, entry in seen
        if entry.exact
    ]
    gone: dict[tuple[str, ...], list[str]] = {}
    for path, entry in seen:
        gone.setdefault(tuple(name for _, name in entry.classes), []).append(path)
    for names, paths in gone.items():
        if names:
            lines.append(f"holds: {listed(names)} erased, and nowhere in {', '.join(paths)}")
    samples = [(path, entry.num_samples) for path, entry in seen if entry.num_samples]
    return lines + [f"holds: {count:,} stored samples taken out of {path}, copies included" for path, count in samples]


def _about(signed: "Certificate", asked: AskedFor) -> "list[Check]":
    """Whether the certificate speaks of the groups and samples that were asked for."""
    from pfm.forgetting.subjects import parse_key
    from pfm.forgetting.verify import Check

    found: list[Check] = []
    keys = [parse_key(given) for given in asked.subject_key]
    subjects = [subject for entry in signed.artifacts for subject in entry.subjects]
    for kind, given in asked.pairs:
        name = f"{kind} {given}"
        if any(subject.is_meant(kind, given, key) for subject in subjects for key in keys):
            found.append(Check(name=name, remark="the certificate speaks of it"))
        elif keys:
            found.append(Check(name=name, problem="the certificate does not speak of it, or that is another's key"))
        else:
            remark = "whether the certificate speaks of it, only the key of its entry shows; give --subject_key"
            found.append(Check(name=name, remark=remark, is_unknown=True))
    return found


def _sought(artifacts: Iterable[Path], asked: AskedFor) -> "list[Check]":
    """Whether checkpoints that keep samples have some of those that were asked for."""
    from pfm.forgetting.verify import Check
    from pfm_export.serving.manifest import is_bundle

    found: list[Check] = []
    for path in artifacts if asked.pairs else ():
        if is_bundle(path) or not path.is_file():
            continue
        from pfm.forgetting.samples import Removal
        from pfm.forgetting.solution import cannot_tell, still_stored
        from pfm.model.checkpoint import load_checkpoint

        checkpoint, sought = load_checkpoint(path), Removal.of(asked.pairs)
        try:
            there = still_stored(checkpoint, sought)
        except ConfigError as error:
            found.append(Check(name=str(path), remark=str(error), is_unknown=True))
            continue
        found += [Check(name=str(path), problem=told) for told in there]
        if not there and (why := cannot_tell(checkpoint, sought)):
            found.append(Check(name=str(path), remark=why, is_unknown=True))
        elif not there:
            found.append(Check(name=str(path), remark="none of its stored samples is of what was asked for"))
    return found


def _refuse_folders(artifacts: Iterable[Path], signed: "Certificate") -> None:
    """A folder with artifacts in it is not one.

    Raises:
        ConfigError: which one, and what to name instead.
    """
    from pfm_export.serving.manifest import is_bundle

    known = {entry.file for entry in signed.artifacts}
    for folder in artifacts:
        if not folder.is_dir() or is_bundle(folder) or folder.resolve().name in known:
            continue
        inside = sorted(path for path in folder.rglob("*") if path.name in known)
        instead = f"name what is in it: {' '.join(map(str, inside))}" if inside else "the certificate names none in it"
        raise ConfigError(f"{folder} is a folder and not an artifact (a checkpoint file or a bundle); {instead}")
