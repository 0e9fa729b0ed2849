"""`pfm verify`: is a certificate intact, and do the artifacts hold none of the classes that it says were erased?"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH
from pfm.errors import CertificateError, ConfigError, NotShownError

if TYPE_CHECKING:
    from pfm.forgetting.certificate import Certificate


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
def verify(cert: Path, artifacts: tuple[Path, ...], public_key: str) -> None:
    """Check a certificate, open each artifact, and look for the classes that were erased.

    An artifact is a checkpoint file or the folder of a bundle. A bundle needs no torch. The ledger beside an
    artifact is compared too, where there is one.

    Exit code 0: everything given holds. 2: something is broken, and which link. 3: nothing is broken, and yet
    nothing is shown: no --public_key was named, or a file of a bundle could not be looked into.
    """
    from pfm.forgetting import verify as verifying
    from pfm.forgetting.certificate import read_certificate
    from pfm_export.contents import open_content

    signed = read_certificate(cert, public_key)
    known = ", ".join(entry.file for entry in signed.artifacts)
    if not artifacts:
        raise ConfigError(f"name the artifacts to look into; {cert} speaks of {known}")
    _refuse_folders(artifacts, signed)
    click.echo(f"signed  {cert}: {signed.time}, with the key {signed.public_key}")
    if signed.version == 1:
        click.echo("        a certificate of the first version: it names files by their bytes alone")
    checks = verifying.verify(signed, artifacts, open_content)
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
        if check.is_unknown:
            raise NotShownError(f"{check.name}: {check.problem}; look into it, or take it out of the bundle's folder")
    names = dict.fromkeys(name for entry in signed.artifacts for _, name in entry.classes)
    click.echo(f"holds: {', '.join(names)} erased, and nowhere in what was looked into")


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
