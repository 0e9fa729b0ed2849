"""`pfm forget --group` and `--sample`: what is smaller than a class, out of artifacts whose readout is solved."""

from collections.abc import Mapping, Sequence
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
    from pfm.forgetting.samples import Removal, Removed


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
    def removal(self) -> "Removal":
        """Each once."""
        from pfm.forgetting.samples import Removal

        return Removal(groups=tuple(dict.fromkeys(self.group)), samples=tuple(dict.fromkeys(self.sample)))


def forget_copy(ckpt: Path, out: Path | None, chosen: SampleChoice, record: RecordOptions) -> None:
    """Write a checkpoint without the samples."""
    from pfm.forgetting.sample_files import erase_samples

    target = out or ckpt.with_name(f"{ckpt.stem}_without_samples{ckpt.suffix}")
    check_file(target)
    removal = chosen.removal
    removed, line = erase_samples(
        expanded(ckpt), removal, target=target, reason=record.reason, requested_by=record.requested_by
    )
    _tell(target, removed, removal)
    click.echo(f"still there: {ckpt} holds the samples until you delete it")
    record.certify_samples({target: (removal, line)})


def forget_in_place(
    artifacts: Sequence[Path],
    chosen: SampleChoice,
    record: RecordOptions,
    *,
    yes: bool,
    allow_unknown: bool,
) -> None:
    """Take what it has of the samples out of every checkpoint that is named or in a folder; name what still has them.

    Raises:
        ClassNameError: none of them has one of the groups or samples, or one would have nothing left. Nothing changes.
        NotLookedIntoError: it is done, and something else may hold what was learned from the samples.
    """
    from pfm_export.erasing import check_names, sweep
    from pfm_export.survey import survey

    found = survey(artifacts)
    changed = [held for held in found.held if held.holding.keeps_samples]
    if not changed:
        raise ConfigError(
            f"{artifacts[0]} keeps no samples that could be taken out; only checkpoints of --readout ridge with "
            "--memory features do"
        )
    check_names(found, changed, allow_unknown=allow_unknown)
    removal = chosen.removal
    parts, untold = _parts([held.path for held in changed], removal)
    affected = [f"checkpoint  {path}" for path, part in parts.items() if part]
    ask([f"{what} {name}" for what, name in removal.pairs], affected, found.closed, yes=yes)
    done = _take_out(parts, removal, record)
    found.others += sweep(found.walk.parts)
    record.certify_samples(done)
    others = [held.path for held in found.held if held.path not in (*parts, *untold)]
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


def _take_out(
    parts: "Mapping[Path, Removal]", removal: "Removal", record: RecordOptions
) -> "dict[Path, tuple[Removal, Record]]":
    """Take its part out of each checkpoint, and say so: what went, and the ledger's line of it.

    Args:
        removal: what was asked for, of which a checkpoint may have had a part only.
    """
    from pfm.forgetting.sample_files import erase_samples

    done: dict[Path, tuple[Removal, Record]] = {}
    for path, part in parts.items():
        if not part:  # nothing records whose samples went, so nobody can say whether it ever had it
            click.echo(f"{'does not have it':<17}  {path}")
            continue
        removed, line = erase_samples(path, part, reason=record.reason, requested_by=record.requested_by)
        done[path] = part, line
        _tell(path, removed, part)
        if lacking := [f"{what} {name}" for what, name in removal.pairs if (what, name) not in part.pairs]:
            click.echo(f"{'':<17}  it had no {listed(lacking)}")
    return done


def _parts(paths: Sequence[Path], removal: "Removal") -> "tuple[dict[Path, Removal], list[Path]]":
    """What of it is in which checkpoint, and those of which nobody can tell; nothing is changed.

    Raises:
        ClassNameError: something is in none of them, or one would have nothing left.
        ConfigError: nobody can tell of any.
    """
    from pfm.forgetting.samples import part_of
    from pfm.model.checkpoint import load_checkpoint

    parts: dict[Path, Removal] = {}
    untold: list[Path] = []
    for path in paths:
        try:
            parts[path] = part_of(load_checkpoint(path), removal)
        except ClassNameError as error:
            raise ClassNameError(f"{path}: {error}") from error
        except ConfigError as error:
            if len(untold) + 1 == len(paths):
                raise ConfigError(f"{path}: {error}") from error
            untold.append(path)
    found = {pair for part in parts.values() for pair in part.pairs}
    for what, name in removal.pairs:
        if (what, name) not in found:
            raise ClassNameError(f"{what} {name!r} is not in the memory of {listed(map(str, paths))}")
    return parts, untold


def _tell(path: Path, removed: "Removed", removal: "Removal") -> None:
    from pfm.forgetting.solution import cannot_tell

    named = listed(removed.classes)
    emptied = f"; no sample of {named} is left, so the class went too" if removed.classes else ""
    click.echo(f"{'erased':<17}  {path}: {removed.num_samples:,} stored samples, copies included{emptied}")
    click.echo(f"exact: the weights are those of a fit without them, digest {removed.digest}")
    if why := cannot_tell(removed.checkpoint, removal):
        click.echo(f"still there: {path}: {why}")
