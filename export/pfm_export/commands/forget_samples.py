"""`pfm forget --group` and `--sample`: what is smaller than a class, out of artifacts whose readout is solved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.classes import listed
from pfm.errors import ClassNameError, ConfigError, NotLookedIntoError
from pfm.options import expanded, option
from pfm.storage import check_file
from pfm_export.commands.asking import ask
from pfm_export.commands.records import RecordOptions

if TYPE_CHECKING:
    from pfm.forgetting.ledger import Record
    from pfm.forgetting.samples import Removal


@dataclass(frozen=True, kw_only=True)
class SampleChoice:
    """Groups and samples that were typed."""

    group: tuple[str, ...] = option(
        (), "A group of samples, such as a patient or a speaker; give it once for each. --readout ridge only."
    )
    sample: tuple[str, ...] = option(
        (),
        "A sample, with all its copies: its file, or the name that the data set had for it; once for each. "
        "--readout ridge only.",
    )

    def __bool__(self) -> bool:
        return bool(self.group or self.sample)

    @property
    def described(self) -> list[str]:
        """For people."""
        return [*(f"group {name}" for name in self.group), *(f"sample {name}" for name in self.sample)]


def forget_copy(ckpt: Path, out: Path | None, chosen: SampleChoice, record: RecordOptions) -> None:
    """Write a checkpoint without the samples."""
    from pfm.forgetting.sample_files import erase_samples
    from pfm.forgetting.samples import Removal

    target = out or ckpt.with_name(f"{ckpt.stem}_without_samples{ckpt.suffix}")
    check_file(target)
    removal = Removal(groups=chosen.group, samples=chosen.sample)
    removed, line = erase_samples(
        expanded(ckpt), removal, target=target, reason=record.reason, requested_by=record.requested_by
    )
    _tell(target, removed.num_samples, removed.classes, removed.digest)
    click.echo(f"still there: {ckpt} holds the samples until you delete it")
    record.certify_samples({target: line}, {target: removal})


def forget_in_place(
    artifacts: Sequence[Path],
    chosen: SampleChoice,
    record: RecordOptions,
    *,
    yes: bool,
    allow_unknown: bool,
) -> None:
    """Take samples out of every checkpoint that the paths name or hold, and name what still has them.

    Raises:
        ClassNameError: none of them has the samples.
        NotLookedIntoError: it is done, and something else may hold what was learned from the samples.
    """
    from pfm.forgetting.sample_files import erase_samples
    from pfm_export.erasing import check_names, sweep
    from pfm_export.survey import survey

    found = survey(artifacts)
    changed = [held for held in found.held if held.holding.is_exact and held.path.is_file()]
    exact = [held.path for held in changed]
    others = [held.path for held in found.held if held.path not in exact]
    if not exact:
        raise ConfigError(
            f"{artifacts[0]} keeps no samples that could be taken out; only checkpoints of --readout ridge with "
            "--memory features do"
        )
    check_names(found, changed, allow_unknown=allow_unknown)
    parts, untold = _parts(exact, chosen)
    ask(chosen.described, [f"checkpoint  {path}" for path in exact], found.closed, yes=yes)
    lines: dict[Path, Record] = {}
    for path, part in parts.items():
        if part.groups or part.samples:
            removed, lines[path] = erase_samples(path, part, reason=record.reason, requested_by=record.requested_by)
            _tell(path, removed.num_samples, removed.classes, removed.digest)
        else:
            click.echo(f"{'never had it':<17}  {path}")
    found.others += sweep(found.walk.parts)
    record.certify_samples(lines, parts)
    for path in others:
        click.echo(f"still there: {path} learned from the samples, and cannot forget them; export or train it again")
    for seen in found.closed:
        click.echo(f"not looked into: {seen.path}")
    for path in found.linked:
        click.echo(f"still there: {path} had another name on its disk, which goes on holding the samples")
    for path in untold:
        click.echo(f"not looked into: {path} has no groups stored, so that nobody can tell whose samples are in it")
    left = [*others, *found.linked, *untold, *(seen.path for seen in found.closed)]
    if left and not allow_unknown:
        raise NotLookedIntoError(f"done, but {left[0]} still holds what was learned from the samples, or may")


def _parts(paths: Sequence[Path], chosen: SampleChoice) -> "tuple[dict[Path, Removal], list[Path]]":
    """What of it is in which checkpoint, and those of which nobody can tell; nothing is changed.

    Raises:
        ClassNameError: something is in none of them.
        ConfigError: nobody can tell of any.
    """
    from pfm.forgetting.samples import Removal, part_of
    from pfm.model.checkpoint import load_checkpoint

    wanted = Removal(groups=chosen.group, samples=chosen.sample)
    parts: dict[Path, Removal] = {}
    untold: list[Path] = []
    refused: list[ClassNameError] = []
    for path in paths:
        try:
            parts[path], why = part_of(load_checkpoint(path), wanted)
            refused += why
        except ConfigError:
            if len(untold) + 1 == len(paths):
                raise
            untold.append(path)
    there = {name for part in parts.values() for name in (*part.groups, *part.samples)}
    missing = [name for name in (*chosen.group, *chosen.sample) if name not in there]
    if missing:
        raise next((error for error in refused if missing[0] in str(error)), ClassNameError(f"{missing[0]} is in none"))
    return parts, untold


def _tell(path: Path, rows: int, classes: Sequence[str], digest: str) -> None:
    emptied = f"; no sample of {listed(classes)} is left, so the class went too" if classes else ""
    click.echo(f"{'erased':<17}  {path}: {rows:,} stored samples, copies included{emptied}")
    click.echo(f"exact: the weights are those of a fit without them, digest {digest}")
