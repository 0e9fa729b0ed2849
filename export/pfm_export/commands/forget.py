"""`pfm forget`: classes are erased from artifacts in place, or from a copy of a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.commands.class_choice import ClassChoice
from pfm.commands.options import CONTEXT_SETTINGS, PATH, with_options
from pfm.errors import CheckpointError, ConfigError, NotLookedIntoError
from pfm.options import option
from pfm_export.commands.asking import ask, lines_of
from pfm_export.commands.changed_answers import CHANGED_IN_GENERAL, notes_on_answers
from pfm_export.commands.forget_samples import SampleChoice, forget_copy, forget_in_place
from pfm_export.commands.records import RecordOptions, copy_path, write_copy

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint
    from pfm_export.survey import Held


@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """From what the classes are erased, and what is asked before."""

    ckpt: Path | None = option(None, "Checkpoint to copy without the classes.")
    out: Path | None = option(None, "With --ckpt: file to write.  [default: beside it]")
    in_place: bool = option(False, "Erase from the artifacts themselves. Cannot be undone.", is_flag=True)
    yes: bool = option(
        False,
        "With --in_place: do not ask at a terminal. Where there is none, as in a script, nothing is ever asked.",
        is_flag=True,
    )
    allow_unknown: bool = option(
        False,
        "With --in_place: leave with code 0 although files were not looked into, and erase from files that have "
        "another name (a hard link) elsewhere.",
        is_flag=True,
    )

    centre_prompts: bool = option(
        False,
        "Move the prompts that are left to mean zero, so that their sum says nothing of what went. Changes some "
        "answers about other classes; in place also for what the classes were erased from before.",
        is_flag=True,
    )
    on_test_data: bool = option(
        False,
        "Compute what the erasure does to answers on the run's test samples, and not on random inputs.",
        is_flag=True,
    )

    def __post_init__(self) -> None:
        for name in ("yes", "allow_unknown"):
            if getattr(self, name) and not self.in_place:
                raise ConfigError(f"--{name} is about erasing --in_place; leave it out")
        if self.in_place and self.ckpt is not None:
            raise ConfigError(
                f"--ckpt is copied, and --in_place changes what it is given for good: to erase from {self.ckpt} "
                "itself, name it without --ckpt; to write a copy, leave --in_place out"
            )


@click.command("forget", context_settings=CONTEXT_SETTINGS)
@click.argument("artifacts", nargs=-1, type=PATH)
@with_options(chosen=ClassChoice, samples=SampleChoice, options=ForgetOptions, record=RecordOptions)
def forget(
    artifacts: tuple[Path, ...],
    chosen: ClassChoice,
    samples: SampleChoice,
    options: ForgetOptions,
    record: RecordOptions,
) -> None:
    """Erase classes: prompts, classifier rows, averaged copies and optimizer moments.

    pfm forget --class NAME --in_place ARTIFACT… erases from any number of checkpoints, resume states,
    bundles and whole folders, for good. Interrupted, the same command completes it. Folders are searched
    in any depth, by what is in a file and not by its name, and links are followed. Where files could not be
    looked into (archives, tensors of other tools), they are named and the command leaves with code 3.

    pfm forget --group NAME or --sample FILE takes out less than a class, of --readout ridge.

    pfm forget --class NAME --ckpt X writes a checkpoint without the class and leaves X as it is.

    What an erasure does not reach is printed and recorded in ledger.jsonl beside each artifact.
    `pfm suspend` leaves classes out of a bundle's answers and can be undone; `pfm scrub` retunes the
    shared weights too.
    """
    ckpt = options.ckpt
    if samples:
        _forget_samples(artifacts, chosen, samples, options, record)
        return
    chosen.typed()
    if options.in_place:
        if not artifacts or options.out is not None:
            raise ConfigError("--in_place wants artifacts (files or folders) and no --out")
        record.check_key()
        _erase_in_place(artifacts, chosen, options, record)
    elif artifacts:
        raise ConfigError(
            f"{artifacts[0]} would be changed for good; add --in_place to do that, or write a copy with --ckpt"
        )
    elif ckpt is None:
        raise ConfigError("name a checkpoint with --ckpt, or artifacts and --in_place")
    else:
        from pfm.model.checkpoint import load_checkpoint

        record.check_key()
        checkpoint = load_checkpoint(ckpt)
        check_prompts(checkpoint, ckpt, options)
        keys = chosen.names_in(checkpoint)
        target = copy_path(ckpt, checkpoint, keys, options.out)
        notes = notes_on_answers(
            checkpoint, keys, on_test_data=options.on_test_data, centre_prompts=options.centre_prompts
        )
        write_copy(ckpt, checkpoint, keys, target, record, centre_prompts=options.centre_prompts)
        for note in notes:
            click.echo(f"changed: {note}")
        record.certify([target], keys)


def check_prompts(checkpoint: "Checkpoint", ckpt: Path, options: ForgetOptions) -> None:
    """Refuse what is about prompts where there are none.

    Raises:
        ConfigError: which option.
    """
    from pfm.model.readouts import READOUTS

    given = [f"--{name}" for name in ("centre_prompts", "on_test_data") if getattr(options, name)]
    if given and not READOUTS.get(checkpoint.model.readout).sees_prompts:
        raise ConfigError(f"{', '.join(given)}: {ckpt} has no prompts; leave it out")


def _forget_samples(
    artifacts: Sequence[Path],
    chosen: ClassChoice,
    samples: SampleChoice,
    options: ForgetOptions,
    record: RecordOptions,
) -> None:
    """Groups and samples."""
    if chosen.class_ or chosen.classes:
        raise ConfigError("classes go by themselves; give --group and --sample in a command of their own")
    for name in ("centre_prompts", "on_test_data"):
        if getattr(options, name):
            raise ConfigError(f"--{name} is about models with prompts, which forget classes alone; leave it out")
    record.check_key()
    if options.in_place:
        if not artifacts or options.out is not None:
            raise ConfigError("--in_place wants artifacts (files or folders) and no --out")
        forget_in_place(artifacts, samples, record, yes=options.yes, allow_unknown=options.allow_unknown)
    elif artifacts:
        raise ConfigError(
            f"{artifacts[0]} would be changed for good; add --in_place to do that, or write a copy with --ckpt"
        )
    elif options.ckpt is None:
        raise ConfigError("name a checkpoint with --ckpt, or artifacts and --in_place")
    else:
        forget_copy(options.ckpt, options.out, samples, record)


def _erase_in_place(
    artifacts: Sequence[Path], chosen: ClassChoice, options: ForgetOptions, record: RecordOptions
) -> None:
    """List, ask, erase, and say what is still there.

    Raises:
        NotLookedIntoError: it is done, and some files may hold the classes all the same.
    """
    from pfm.forgetting.artifacts import FolderKind
    from pfm.forgetting.centring import SUM_LEFT
    from pfm_export.erasing import BEFORE, NEVER, erase_everywhere
    from pfm_export.serving.damage import NOT_SERVED
    from pfm_export.survey import copies, survey

    found = survey(artifacts)
    if options.on_test_data and not any(held.kind.name == "checkpoint" for held in found.held):
        raise ConfigError(
            f"--on_test_data asks a checkpoint before and after, and there is none in {artifacts[0]}; leave it out"
        )
    names = chosen.names({str(held.path): held.ever for held in found.held if held.numbers_classes})
    affected = [
        held
        for held in found.held
        if any(held.holding.classes.knows(name) for name in names)
        or (options.centre_prompts and held.holding.prompts_centred is False and any(map(held.ever.knows, names)))
    ]
    same = copies(affected)
    lines = [
        f"{held.kind.name}  {held.path}" + (f", a copy of {same[held.path]}" if held.path in same else "")
        for held in affected
    ]
    ask(names, lines, found.closed, yes=options.yes)
    notes = _notes_of_newest(affected, names, options)
    found, outcomes = erase_everywhere(
        artifacts, names, reason=record.reason, requested_by=record.requested_by, allow_unknown=options.allow_unknown,
        centre_prompts=options.centre_prompts,
    )  # fmt: skip
    for outcome in outcomes:
        what = "stops soon" if outcome.is_run and outcome.what not in (BEFORE, NEVER) else outcome.what
        click.echo(f"{what:<17}  {outcome.path}")
    for note in notes:
        click.echo(f"changed: {note}")
    for line in lines_of(found.clean):
        click.echo(f"{'clean':<17}  {line}")
    own = dict.fromkeys(held.kind.record for held in affected) or [""]
    places = " and ".join(f"{name} in that folder" if name else "ledger.jsonl beside each artifact" for name in own)
    click.echo(f"this cannot be undone; the record is {places}")
    if any(outcome.is_run for outcome in outcomes):
        click.echo("a training run is going on there; it has the classes in memory, and stops before it writes again")
    for path, said in found.damage():
        click.echo(f"damaged: {path}: {said}; {NOT_SERVED}")
    for file in found.linked:
        click.echo(f"still there: {file} has another name on its disk, which goes on holding the class; delete it too")
    for line in lines_of(found.traces, most=None):
        click.echo(f"still there: {line}; it was left as it is")
    for line in lines_of(found.closed, most=None):
        click.echo(f"not looked into: {line}")
    elsewhere = "copies of these artifacts elsewhere (backups, snapshots, other exports) are out of reach"
    left = [held.kind.open(held.path) if isinstance(held.kind, FolderKind) else held.holding for held in found.held]
    for held, holding in zip(found.held, left, strict=True):
        if holding.is_exact:
            click.echo(f"exact: {held.path} is the model that never saw the class")
    is_left = not options.centre_prompts and any(held.holding.sum_is_left for held in affected)
    stills = dict.fromkeys(holding.still for holding in left if holding.still)
    for remark in (*stills, *((SUM_LEFT,) if is_left else ()), elsewhere):
        click.echo(f"still there: {remark}")
    for follows in dict.fromkeys(held.holding.follows for held in affected if held.holding.follows):
        click.echo(f"how the prompts started: {follows}")
    record.certify([outcome.path for outcome in outcomes if outcome.what != NEVER and outcome.is_kept], names)
    if found.traces:
        raise NotLookedIntoError(f"done, but {found.traces[0].path} holds the class and was left as it is; delete it")
    unknown = [*(seen.path for seen in found.closed), *found.linked]
    if unknown and not options.allow_unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise NotLookedIntoError(
            f"done, but {unknown[0]}{more} may hold the class and was not looked into; look at what is listed above, "
            "delete it or move it away, and give --allow_unknown where it is harmless"
        )


def _notes_of_newest(affected: "Sequence[Held]", names: Sequence[str], options: ForgetOptions) -> list[str]:
    """What happens to answers of the checkpoint that was trained longest; nothing where there is none."""
    paths = [held.path for held in affected if held.kind.name == "checkpoint"]
    if not paths:
        return [CHANGED_IN_GENERAL] if options.centre_prompts else []
    from pfm.model.checkpoint import load_checkpoint

    found: list[Checkpoint] = []
    for path in paths:
        try:
            found.append(load_checkpoint(path))
        except CheckpointError:
            if path.exists():
                raise
    if not found:  # a run deleted them since they were listed
        return []
    newest = max(found, key=lambda checkpoint: (checkpoint.epoch, checkpoint.step))
    present = [name for name in names if newest.classes.knows(name)]
    notes = notes_on_answers(newest, present, on_test_data=options.on_test_data, centre_prompts=options.centre_prompts)
    return [f"{note} (epoch {newest.epoch})" for note in notes] if len(paths) > 1 else notes
