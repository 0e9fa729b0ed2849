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
    _tell(target, removed, chosen.group)
    click.echo(f"still there: {ckpt} holds the samples until you delete it")
    record.certify_samples({target: line}, chosen.group, chosen.sample)


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
        ClassNameError: none of them has the samples, and nothing was changed; or none has some of them, and the others
            were taken out. Nothing records whose samples went, so an interrupted command has to go on without them.
        ConfigError: none keeps samples that could be taken out.
        NotLookedIntoError: it is done, and something else may hold what was learned from the samples.
    """
    from pfm.forgetting.sample_files import erase_samples
    from pfm.forgetting.samples import Removal
    from pfm_export.erasing import check_names, sweep
    from pfm_export.survey import survey

    found = survey(artifacts)
    exact = [held for held in found.held if held.holding.is_exact and held.path.is_file()]
    if not exact:
        raise ConfigError(
            f"{artifacts[0]} keeps no samples that could be taken out; only checkpoints of --readout ridge with "
            "--memory features do"
        )
    plan = _plan([held.path for held in exact], Removal(groups=chosen.group, samples=chosen.sample))
    changed = [held for held in exact if plan.get(held.path)]
    others = [held.path for held in found.held if held.path not in plan]
    check_names(found, changed, allow_unknown=allow_unknown)
    there = SampleChoice(
        group=tuple(name for name in chosen.group if any(name in own.groups for own in plan.values())),
        sample=tuple(name for name in chosen.sample if any(name in own.samples for own in plan.values())),
    )
    missing = [told for told in chosen.described if told not in there.described]
    for told in missing:
        click.echo(f"{told}: no file named has it")
    ask(there.described, [f"checkpoint  {held.path}" for held in changed], found.closed, yes=yes)
    lines: dict[Path, Record] = {}
    for path, removal in plan.items():
        if not removal:
            click.echo(f"{'does not have it':<17}  {path}")
            continue
        removed, lines[path] = erase_samples(path, removal, reason=record.reason, requested_by=record.requested_by)
        _tell(path, removed, chosen.group)
    found.others += sweep(found.walk.parts)
    record.certify_samples(lines, there.group, there.sample)
    for path in others:
        click.echo(f"still there: {path} learned from the samples, and cannot forget them; export or train it again")
    for seen in found.closed:
        click.echo(f"not looked into: {seen.path}")
    for path in found.linked:
        click.echo(f"still there: {path} had another name on its disk, which goes on holding the samples")
    if missing:
        raise ClassNameError(
            f"no file named has {missing[0]}: it was taken out before, or is called otherwise; all else that was asked "
            "for is done"
        )
    left = [*others, *found.linked, *(seen.path for seen in found.closed)]
    if left and not allow_unknown:
        raise NotLookedIntoError(f"done, but {left[0]} still holds what was learned from the samples, or may")


def _plan(paths: Sequence[Path], wanted: "Removal") -> "dict[Path, Removal]":
    """What goes from which checkpoint, of those that keep what can be taken out; nothing is changed.

    Raises:
        ClassNameError: none has any of it, or a checkpoint would have no sample left.
        ConfigError: none keeps it.
    """
    from pfm.forgetting.samples import Removal, find, held_of
    from pfm.model.checkpoint import load_checkpoint

    plan: dict[Path, Removal] = {}
    lacking: list[ConfigError] = []
    for path in paths:
        checkpoint = load_checkpoint(path)
        try:
            plan[path] = held_of(checkpoint, wanted)
        except ConfigError as error:  # it keeps sums alone, or samples without groups
            lacking.append(error)
            continue
        if plan[path] and find(checkpoint, plan[path]).all():
            raise ClassNameError(f"{path} would have no sample left; delete the file if the whole model is to go")
    if not plan:
        raise lacking[0]
    if not any(plan.values()):
        find(load_checkpoint(next(iter(plan))), wanted)  # which says what is wrong
    return plan


def _tell(path: Path, removed: "Removed", groups: Sequence[str]) -> None:
    from pfm.forgetting.solution import cannot_tell

    named = listed(removed.classes)
    emptied = f"; no sample of {named} is left, so the class went too" if removed.classes else ""
    click.echo(f"{'erased':<17}  {path}: {removed.num_samples:,} stored samples, copies included{emptied}")
    click.echo(f"exact: the weights are those of a fit without them, digest {removed.digest}")
    if why := cannot_tell(removed.checkpoint, groups):
        click.echo(f"still there: {path}: {why}")
