"""`pfm verify`: is a certificate intact, and are the artifacts and ledgers those that it speaks of?"""

from collections.abc import Iterable
from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH
from pfm.errors import CertificateError, ConfigError
from pfm.forgetting.ledger import Record


@click.command("verify", context_settings=CONTEXT_SETTINGS)
@click.argument("cert", type=PATH)
@click.argument("artifacts", nargs=-1, type=PATH)
@click.option(
    "--public_key",
    default="",
    show_default=False,
    help="The key it has to be signed with, 64 hexadecimal digits.  [default: any key]",
)
def verify(cert: Path, artifacts: tuple[Path, ...], public_key: str) -> None:
    """Check a certificate, the artifacts it names and the ledgers beside them, and say which link is broken.

    An artifact is a checkpoint file or the folder of a bundle. Needs no torch.
    """
    from pfm.forgetting import certificate

    signed = certificate.read_certificate(cert, public_key)
    _refuse_folders(artifacts, signed)
    click.echo(f"holds   {cert}: signed {signed['time']} with {signed['public_key']}")
    if not public_key:
        click.echo("        whose key that is, is not checked; give --public_key")
    checks = certificate.verify(signed, artifacts)
    for check in checks:
        click.echo(
            f"{'BROKEN' if check.problem else 'holds '}  {check.name}" + f": {check.problem}" * bool(check.problem)
        )
    given = {path.resolve().name for path in artifacts}
    for entry in signed["artifacts"]:
        if entry["file"] not in given:
            click.echo(f"not checked: {entry['file']} ({entry['kind']})")
    for remark in signed["not_proven"]:
        click.echo(f"not proven: {remark}")
    broken = [check for check in checks if check.problem]
    if broken:
        raise CertificateError(f"{broken[0].name}: {broken[0].problem}")


def _refuse_folders(artifacts: Iterable[Path], signed: Record) -> None:
    """A folder with artifacts in it is not one.

    Raises:
        ConfigError: which one, and what to name instead.
    """
    from pfm_export.serving.manifest import is_bundle

    known = {entry["file"] for entry in signed["artifacts"]}
    for folder in artifacts:
        if not folder.is_dir() or is_bundle(folder) or folder.resolve().name in known:
            continue
        inside = sorted(path for path in folder.rglob("*") if path.name in known)
        instead = f"name what is in it: {' '.join(map(str, inside))}" if inside else "the certificate names none in it"
        raise ConfigError(f"{folder} is a folder and not an artifact (a checkpoint file or a bundle); {instead}")
