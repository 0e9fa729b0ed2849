"""Options in, one call, text out: `pfm forget`, `pfm verify`.

They stand here and not beside `pfm train` since they know bundles as well as checkpoints.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pfm.classes import split_names
from pfm.commands.options import CONTEXT_SETTINGS, data_of_run
from pfm.errors import CertificateError, ConfigError, StorageError
from pfm.forgetting import certificate


@click.command("forget", context_settings=CONTEXT_SETTINGS)
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--classes", required=True, help="Names or numbers, separated by commas; a name wins over a number.")
@click.option("--ckpt", type=click.Path(path_type=Path), help="Checkpoint to copy without the classes.")
@click.option("--out", type=click.Path(path_type=Path), help="With --ckpt: file to write.  [default: beside it]")
@click.option("--in_place", is_flag=True, help="Erase from the artifacts themselves. Cannot be undone.")
@click.option(
    "--suspend", is_flag=True, help="Only leave the classes out of a profile of bundles, which can be undone."
)
@click.option("--restore", is_flag=True, help="Undo --suspend.")
@click.option(
    "--profile",
    help="With --suspend or --restore: whose answers.  [default: default, which counts where none is named]",
)
@click.option("--scrub", is_flag=True, help="With --ckpt: retune the shared weights too, on the retained samples.")
@click.option(
    "--epsilon", default=0.05, type=click.FloatRange(min=0), help="With --scrub: resurrection gap to get within."
)
@click.option("--budget", default=1.0, type=click.FloatRange(min=0), help="With --scrub: part of the recipe's epochs.")
@click.option("--reason", default="", help="Free text for the record.")
@click.option("--requested_by", default="", help="Free text for the record.")
@click.option(
    "--certificate", "out_certificate", type=click.Path(path_type=Path), help="Write a signed statement here."
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="Ed25519 key (PEM) to sign with; made where there is none.  [default: the certificate's name with .key]",
)
def forget(
    artifacts: tuple[Path, ...],
    classes: str,
    ckpt: Path | None,
    out: Path | None,
    in_place: bool,
    suspend: bool,
    restore: bool,
    profile: str | None,
    scrub: bool,
    epsilon: float,
    budget: float,
    reason: str,
    requested_by: str,
    out_certificate: Path | None,
    key: Path | None,
) -> None:
    """Erase classes: prompts, classifier rows, averaged copies and optimizer moments.

    pfm forget --classes 3 --in_place ARTIFACT… erases from any number of checkpoints, resume states,
    bundles and whole run folders, for good. Interrupted, the same command completes it.

    pfm forget --classes 3 --ckpt X writes a checkpoint without the class and leaves X as it is.
    With --scrub its shared weights are retuned too, and the gap to a retrained model measured.

    pfm forget --classes 3 --suspend --profile ward-7 BUNDLE… removes nothing: the bundles' sessions
    leave the class out of that profile's answers from their next prediction on, until --restore.

    What an erasure does not reach is printed and recorded in ledger.jsonl beside each artifact.
    """
    keys = split_names(classes)
    if key is not None and out_certificate is None:
        raise ConfigError("--key signs a certificate; name the file to write with --certificate")
    if suspend or restore:
        others = (ckpt, out, out_certificate, in_place, scrub, reason, requested_by)
        if (suspend and restore) or any(others):
            raise ConfigError("--suspend and --restore take bundles, --classes and --profile, and nothing else")
        _edit_profiles(artifacts, keys, profile or "default", is_suspended=suspend)
        return
    if profile is not None:
        raise ConfigError("--profile belongs to --suspend or --restore; an erased class is gone for everyone")
    if scrub and (in_place or ckpt is None):
        raise ConfigError("--scrub writes a new checkpoint; name the one to start from with --ckpt, without --in_place")
    if in_place:
        paths = [*artifacts, *([ckpt] if ckpt else [])]
        if not paths or out is not None:
            raise ConfigError("--in_place wants artifacts (files or folders) and no --out")
        done = _erase_in_place(paths, keys, reason, requested_by)
    elif artifacts:
        raise ConfigError(
            f"{artifacts[0]} would be changed for good; add --in_place to do that, or write a copy with --ckpt"
        )
    elif ckpt is None:
        raise ConfigError("name a checkpoint with --ckpt, or artifacts and --in_place")
    else:
        settings = (epsilon, budget) if scrub else None
        done = [_write_copy(ckpt, keys, out, reason, requested_by, settings)]
    if out_certificate is not None:
        _certify(out_certificate, key, done, keys, reason, requested_by)


def _edit_profiles(folders: Sequence[Path], keys: list[str], profile: str, *, is_suspended: bool) -> None:
    from pfm_export.serving.bundle import Bundle

    if not folders:
        raise ConfigError("name the bundles whose profile is to change")
    bundles = [Bundle.open(folder) for folder in folders]
    for bundle in bundles:  # all are looked at before one is changed
        bundle.classes.positions(keys)
        if not is_suspended:
            bundle.suspended(profile)
    for folder, found in zip(folders, bundles, strict=True):
        bundle = (found.suspend if is_suspended else found.restore)(keys, profile=profile)
        out = bundle.suspended(profile)
        names = [name for position, name in enumerate(bundle.classes.names) if position in out]
        click.echo(f"{folder}: profile {profile} leaves out {', '.join(names) or 'nothing'}")
    if is_suspended:
        click.echo("no byte was removed: the classes are in the bundles as before, for whoever has the files")


def _erase_in_place(paths: Sequence[Path], keys: list[str], reason: str, requested_by: str) -> list[Path]:
    from pfm_export.erasing import erase_everywhere
    from pfm_export.serving.bundle import REMAINS

    found, outcomes = erase_everywhere(paths, keys, reason=reason, requested_by=requested_by)
    for outcome in outcomes:
        click.echo(f"{outcome.what:<17}  {outcome.path}")
    done = [outcome.path for outcome in outcomes if outcome.what != "never had it"]
    click.echo("this cannot be undone; the record is ledger.jsonl beside each artifact")
    for file in found.linked:
        click.echo(f"still there: {file} has another name on this disk, which holds the file as it was; delete it too")
    for file in found.foreign:
        click.echo(f"not looked into: {file} is no artifact of pfm and may hold tensors")
    from_checkpoints = ("copies of these artifacts elsewhere (backups, snapshots, other exports) are out of reach",)
    for remark in (REMAINS[0].replace("the graph's ", "the "), *from_checkpoints):
        click.echo(f"still there: {remark}")
    return done


def _write_copy(
    ckpt: Path,
    keys: list[str],
    out: Path | None,
    reason: str,
    requested_by: str,
    scrubbing: tuple[float, float] | None,
) -> Path:
    from pfm.forgetting import files as forgetting
    from pfm.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(ckpt)
    positions = checkpoint.classes.positions(keys)
    target = out or forgetting.erased_path(ckpt, checkpoint, positions)
    scrubbed = None if scrubbing is None else _scrub(checkpoint, keys, target, *scrubbing)
    record = forgetting.erase_file(
        ckpt, checkpoint, keys, target, reason=reason, requested_by=requested_by, scrubbed=scrubbed
    )
    left = checkpoint.classes.without(positions)
    click.echo(f"erased {', '.join(entry['name'] for entry in record['classes'])}: {', '.join(record['erased'])}")
    click.echo(f"classes left: {left.describe()}\nwrote {target}\nrecord {target.parent / 'ledger.jsonl'}")
    click.echo(f"still there: {ckpt} holds the erased classes until you delete it")
    for remark in record["remains"]:
        click.echo(f"still there: {remark}")
    return target


def _scrub(checkpoint: Any, keys: list[str], target: Path, epsilon: float, budget: float) -> Any:
    """The retuned checkpoint; its report is written beside the target."""
    import torch

    from pfm.audit.groups import QUICK
    from pfm.audit.scrubbing import ScrubConfig, scrub
    from pfm.data.config import DataConfig
    from pfm.data.loading import load_data
    from pfm.storage import write_json

    if target.exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    data = load_data(data_of_run(checkpoint, DataConfig()), checkpoint.preprocess.storage)
    config = ScrubConfig(epsilon=epsilon, budget=budget)
    folder = target.parent / "pfm-audit" / "models"
    scrubbed, report = scrub(checkpoint, data, keys, config, QUICK, folder, torch.device("cpu"), say=click.echo)
    write_json(target.with_suffix(".scrub.json"), report)
    what = "within" if report["is_within"] else "NOT within"
    last = report["rounds"][-1]
    click.echo(
        f"{what} --epsilon {epsilon:g}: the gap is {last['gap']:+.3f} (up to {last['gap_high']:+.3f}); it cost "
        f"{100 * report['retained_cost']:.1f} points on the retained classes"
        + ("" if report["is_within"] else "; the budget is spent")
    )
    return scrubbed


def _certify(path: Path, key: Path | None, done: list[Path], keys: list[str], reason: str, requested_by: str) -> None:
    key_path = key or path.with_suffix(".key")
    if key_path.resolve() == path.resolve():
        raise ConfigError(f"--certificate and --key are both {path}; give two files")
    signer, is_new = certificate.load_key(key_path)
    numbers = [int(text) for text in keys if text.isdecimal()]
    described = [certificate.describe_artifact(artifact, keys, numbers) for artifact in done]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    certificate.write_certificate(path, signer, described, reason=reason, requested_by=requested_by, time=now)
    click.echo(f"wrote {path}, signed with the {'new ' if is_new else ''}key in {key_path}")
    click.echo(f"public key {certificate.public_hex(signer)}: publish it, so that others can tell it is yours")


@click.command("verify", context_settings=CONTEXT_SETTINGS)
@click.argument("cert", type=click.Path(path_type=Path))
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--public_key", default="", help="The key it has to be signed with, 64 hexadecimal digits.")
def verify(cert: Path, artifacts: tuple[Path, ...], public_key: str) -> None:
    """Check a certificate, the artifacts it names and the ledgers beside them, and say which link is broken."""
    signed = certificate.read_certificate(cert, public_key)
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
