"""Options in, one call, text out: `pfm forget`, `pfm verify`.

They stand here and not beside `pfm train` since they know bundles as well as checkpoints.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfm.classes import split_names
from pfm.commands.options import CONTEXT_SETTINGS, data_of_run
from pfm.errors import CertificateError, ConfigError, StorageError
from pfm.forgetting import certificate

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of `pfm forget`; the attributes are its options."""

    artifacts: tuple[Path, ...]
    classes: str
    ckpt: Path | None
    out: Path | None
    in_place: bool
    suspend: bool
    restore: bool
    profile: str | None
    scrub: bool
    epsilon: float
    budget: float
    reason: str
    requested_by: str
    out_certificate: Path | None
    key: Path | None

    @property
    def keys(self) -> list[str]:
        """Names or numbers of the classes."""
        return split_names(self.classes)

    @property
    def edits_profiles(self) -> bool:
        """Whether nothing is to be removed."""
        return self.suspend or self.restore

    @property
    def in_place_paths(self) -> list[Path]:
        """The artifacts to be changed for good."""
        return [*self.artifacts, *([self.ckpt] if self.ckpt else [])]

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            ClassNameError: no class is named.
            ConfigError: which options.
        """
        assert self.keys
        if self.key is not None and self.out_certificate is None:
            raise ConfigError("--key signs a certificate; name the file to write with --certificate")
        if self.edits_profiles:
            self._check_profiles()
        elif self.profile is not None:
            raise ConfigError("--profile belongs to --suspend or --restore; an erased class is gone for everyone")
        elif self.scrub and (self.in_place or self.ckpt is None):
            raise ConfigError(
                "--scrub writes a new checkpoint; name the one to start from with --ckpt, without --in_place"
            )
        elif self.in_place:
            if not self.in_place_paths or self.out is not None:
                raise ConfigError("--in_place wants artifacts (files or folders) and no --out")
        elif self.artifacts:
            raise ConfigError(
                f"{self.artifacts[0]} would be changed for good; add --in_place to do that, or write a copy with --ckpt"
            )
        elif self.ckpt is None:
            raise ConfigError("name a checkpoint with --ckpt, or artifacts and --in_place")

    def _check_profiles(self) -> None:
        others = (
            self.ckpt, self.out, self.out_certificate, self.in_place, self.scrub, self.reason, self.requested_by,
        )  # fmt: skip
        if (self.suspend and self.restore) or any(others):
            raise ConfigError("--suspend and --restore take bundles, --classes and --profile, and nothing else")
        if not self.artifacts:
            raise ConfigError("name the bundles whose profile is to change")


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
def forget(**given: Any) -> None:
    """Erase classes: prompts, classifier rows, averaged copies and optimizer moments.

    pfm forget --classes 3 --in_place ARTIFACT… erases from any number of checkpoints, resume states,
    bundles and whole run folders, for good. Interrupted, the same command completes it.

    pfm forget --classes 3 --ckpt X writes a checkpoint without the class and leaves X as it is.
    With --scrub its shared weights are retuned too, and the gap to a retrained model measured.

    pfm forget --classes 3 --suspend --profile ward-7 BUNDLE… removes nothing: the bundles' sessions
    leave the class out of that profile's answers from their next prediction on, until --restore.

    What an erasure does not reach is printed and recorded in ledger.jsonl beside each artifact.
    """
    request = Request(**given)
    request.check()
    if request.edits_profiles:
        _edit_profiles(request)
        return
    done = _erase_in_place(request) if request.in_place else [_write_copy(request)]
    if request.out_certificate is not None:
        _certify(request.out_certificate, request, done)


def _edit_profiles(request: Request) -> None:
    from pfm_export.serving.bundle import DEFAULT_PROFILE, Bundle

    profile = request.profile or DEFAULT_PROFILE
    bundles = [Bundle.open(folder) for folder in request.artifacts]
    for bundle in bundles:  # all are looked at before one is changed
        bundle.classes.positions(request.keys)
        if request.restore:
            bundle.suspended(profile)
    for folder, found in zip(request.artifacts, bundles, strict=True):
        bundle = (found.suspend if request.suspend else found.restore)(request.keys, profile=profile)
        out = bundle.suspended(profile)
        names = [name for position, name in enumerate(bundle.classes.names) if position in out]
        click.echo(f"{folder}: profile {profile} leaves out {', '.join(names) or 'nothing'}")
    if request.suspend:
        click.echo("no byte was removed: the classes are in the bundles as before, for whoever has the files")


def _erase_in_place(request: Request) -> list[Path]:
    from pfm_export.erasing import erase_everywhere
    from pfm_export.serving.bundle import REMAINS

    found, outcomes = erase_everywhere(
        request.in_place_paths, request.keys, reason=request.reason, requested_by=request.requested_by
    )
    for outcome in outcomes:
        click.echo(f"{outcome.what:<17}  {outcome.path}")
    done = [outcome.path for outcome in outcomes if outcome.what != "never had it"]
    click.echo("this cannot be undone; the record is ledger.jsonl beside each artifact")
    for file in found.linked:
        click.echo(f"still there: {file} has another name on this disk, which holds the file as it was; delete it too")
    for file in found.foreign:
        click.echo(f"not looked into: {file} is not an artifact of pfm and may hold tensors")
    from_checkpoints = ("copies of these artifacts elsewhere (backups, snapshots, other exports) are out of reach",)
    for remark in (REMAINS[0].replace("the graph's ", "the "), *from_checkpoints):
        click.echo(f"still there: {remark}")
    return done


def _write_copy(request: Request) -> Path:
    from pfm.forgetting import files as forgetting
    from pfm.model.checkpoint import load_checkpoint

    ckpt, keys = request.ckpt, request.keys
    assert ckpt is not None
    checkpoint = load_checkpoint(ckpt)
    positions = checkpoint.classes.positions(keys)
    target = request.out or forgetting.erased_path(ckpt, checkpoint, positions)
    scrubbed = _scrub(checkpoint, request, target) if request.scrub else None
    record = forgetting.erase_file(
        ckpt, checkpoint, keys, target, reason=request.reason, requested_by=request.requested_by, scrubbed=scrubbed
    )
    left = checkpoint.classes.without(positions)
    click.echo(f"erased {', '.join(entry['name'] for entry in record['classes'])}: {', '.join(record['erased'])}")
    click.echo(f"classes left: {left.describe()}\nwrote {target}\nrecord {target.parent / 'ledger.jsonl'}")
    click.echo(f"still there: {ckpt} holds the erased classes until you delete it")
    for remark in record["remains"]:
        click.echo(f"still there: {remark}")
    return target


def _scrub(checkpoint: "Checkpoint", request: Request, target: Path) -> "Checkpoint":
    """The retuned checkpoint; its report is written beside the target."""
    import torch

    from pfm.audit.config import QUICK
    from pfm.audit.scrubbing import ScrubConfig, scrub
    from pfm.data.config import DataConfig
    from pfm.data.loading import load_data
    from pfm.storage import write_json

    if target.exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    data = load_data(data_of_run(checkpoint, DataConfig()), checkpoint.preprocess.storage)
    config = ScrubConfig(epsilon=request.epsilon, budget=request.budget)
    folder = target.parent / "pfm-audit" / "models"
    scrubbed, report = scrub(checkpoint, data, request.keys, config, QUICK, folder, torch.device("cpu"), say=click.echo)
    write_json(target.with_suffix(".scrub.json"), report.to_dict())
    what = "within" if report.is_within else "NOT within"
    last = report.rounds[-1]
    click.echo(
        f"{what} --epsilon {request.epsilon:g}: the gap is {last.gap:+.3f} (up to {last.gap_high:+.3f}); it cost "
        f"{100 * report.retained_cost:.1f} points on the retained classes"
        + ("" if report.is_within else "; the budget is spent")
    )
    return scrubbed


def _certify(path: Path, request: Request, done: list[Path]) -> None:
    key_path, keys = request.key or path.with_suffix(".key"), request.keys
    if key_path.resolve() == path.resolve():
        raise ConfigError(f"--certificate and --key are both {path}; give two files")
    signer, is_new = certificate.load_key(key_path)
    numbers = [int(text) for text in keys if text.isdecimal()]
    described = [certificate.describe_artifact(artifact, keys, numbers) for artifact in done]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    certificate.write_certificate(
        path, signer, described, reason=request.reason, requested_by=request.requested_by, time=now
    )
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
