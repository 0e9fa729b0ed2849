"""`pfm forget`: classes are erased from artifacts in place, or from a copy of a checkpoint."""

from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH, with_options
from pfm.errors import ConfigError
from pfm_export.commands.records import RecordOptions, copy_path, write_copy


@click.command("forget", context_settings=CONTEXT_SETTINGS)
@click.argument("artifacts", nargs=-1, type=PATH)
@click.option("--classes", required=True, help="Names or numbers, separated by commas; a name wins over a number.")
@click.option("--ckpt", type=PATH, help="Checkpoint to copy without the classes.")
@click.option("--out", type=PATH, help="With --ckpt: file to write.  [default: beside it]")
@click.option("--in_place", is_flag=True, help="Erase from the artifacts themselves. Cannot be undone.")
@with_options(record=RecordOptions)
def forget(
    artifacts: tuple[Path, ...],
    classes: str,
    ckpt: Path | None,
    out: Path | None,
    in_place: bool,
    record: RecordOptions,
) -> None:
    """Erase classes: prompts, classifier rows, averaged copies and optimizer moments.

    pfm forget --classes 3 --in_place ARTIFACT… erases from any number of checkpoints, resume states,
    bundles and whole run folders, for good. Interrupted, the same command completes it.

    pfm forget --classes 3 --ckpt X writes a checkpoint without the class and leaves X as it is.

    What an erasure does not reach is printed and recorded in ledger.jsonl beside each artifact.
    `pfm suspend` leaves classes out of a bundle's answers and can be undone; `pfm scrub` retunes the
    shared weights too.
    """
    from pfm.classes import split_names

    keys = split_names(classes)
    if in_place:
        named = (*artifacts, *([ckpt] if ckpt else []))
        if not named or out is not None:
            raise ConfigError("--in_place wants artifacts (files or folders) and no --out")
        record.check_key()
        done = _erase_in_place(named, keys, record)
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
        done = [copy_path(ckpt, checkpoint, keys, out)]
        write_copy(ckpt, checkpoint, keys, done[0], record)
    record.certify(done, keys)


def _erase_in_place(artifacts: tuple[Path, ...], keys: list[str], record: RecordOptions) -> list[Path]:
    """Returns the artifacts that hold none of the classes now, and did once."""
    from pfm_export.erasing import erase_everywhere
    from pfm_export.serving.bundle import REMAINS

    found, outcomes = erase_everywhere(artifacts, keys, reason=record.reason, requested_by=record.requested_by)
    for outcome in outcomes:
        click.echo(f"{outcome.what:<17}  {outcome.path}")
    click.echo("this cannot be undone; the record is ledger.jsonl beside each artifact")
    for file in found.linked:
        click.echo(f"still there: {file} has another name on this disk, which holds the file as it was; delete it too")
    for file in found.foreign:
        click.echo(f"not looked into: {file} is not an artifact of pfm and may hold tensors")
    from_checkpoints = ("copies of these artifacts elsewhere (backups, snapshots, other exports) are out of reach",)
    for remark in (REMAINS[0].replace("the graph's ", "the "), *from_checkpoints):
        click.echo(f"still there: {remark}")
    return [outcome.path for outcome in outcomes if outcome.what != "never had it"]
