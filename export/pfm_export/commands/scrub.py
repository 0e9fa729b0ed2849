"""`pfm scrub`: a copy of a checkpoint without some classes, its shared weights retuned without their samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.commands.class_choice import ClassChoice
from pfm.commands.options import CONTEXT_SETTINGS, PATH, data_of_run, of_run, only, was_given, with_options
from pfm.data.config import DataConfig
from pfm.device import DeviceConfig, resolve_device
from pfm.errors import StorageError
from pfm.options import option
from pfm_export.commands.records import RecordOptions, copy_path, write_copy

if TYPE_CHECKING:
    import torch

    from pfm.data.splits import ClassificationData
    from pfm.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ScrubOptions:
    """How far to go, and where the copy goes."""

    epsilon: float = option(0.05, "Resurrection gap to get within.", minimum=0)
    budget: float = option(1.0, "Train for at most this part of the recipe's epochs.", minimum=0)
    out: Path | None = option(None, "File to write.  [default: beside --ckpt]")


@click.command("scrub", context_settings=CONTEXT_SETTINGS)
@click.option("--ckpt", required=True, type=PATH, help="Checkpoint to start from; left as it is.")
@with_options(
    chosen=ClassChoice,
    options=ScrubOptions,
    record=RecordOptions,
    data=of_run(DataConfig),
    device=only(DeviceConfig, "gpu_id", "cpu"),
)
def scrub(
    ckpt: Path,
    chosen: ClassChoice,
    options: ScrubOptions,
    record: RecordOptions,
    data: DataConfig,
    device: DeviceConfig,
) -> None:
    """Erase classes from a copy of a checkpoint and retune its shared weights on the retained samples.

    Goes on until an attack with samples of the class gets no more out of the weights than out of a
    model retrained without it, within --epsilon, or until --budget is spent; says which of the two, and
    what it cost on the retained classes. The retrained model is trained first, and kept in pfm-audit/models
    beside the copy.
    """
    from pfm.data.loading import load_data
    from pfm.data.reading import Intake
    from pfm.model.checkpoint import load_checkpoint

    where = resolve_device(device, gpu_was_asked_for=was_given("gpu_id"), say=click.echo)
    record.check_key()
    checkpoint = load_checkpoint(ckpt)
    keys = chosen.names_in(checkpoint)
    target = copy_path(ckpt, checkpoint, keys, options.out)
    if target.exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    loaded = load_data(data_of_run(checkpoint, data), checkpoint.preprocess.storage, intake=Intake(device=where))
    scrubbed = _retuned(checkpoint, loaded, keys, options, target, where)
    write_copy(ckpt, checkpoint, keys, target, record, scrubbed=scrubbed)
    record.certify([target], keys)


def _retuned(
    checkpoint: "Checkpoint",
    data: "ClassificationData",
    keys: list[str],
    options: ScrubOptions,
    target: Path,
    where: "torch.device",
) -> "Checkpoint":
    """The retuned checkpoint; its report is written beside the target."""
    from pfm.audit.config import QUICK
    from pfm.audit.scrubbing import ScrubConfig
    from pfm.audit.scrubbing import scrub as retune
    from pfm.storage import write_json

    config = ScrubConfig(epsilon=options.epsilon, budget=options.budget)
    folder = target.parent / "pfm-audit" / "models"
    scrubbed, report = retune(checkpoint, data, keys, config, QUICK, folder, where, say=click.echo)
    write_json(target.with_suffix(".scrub.json"), report.to_dict())
    what = "within" if report.is_within else "NOT within"
    last = report.rounds[-1]
    click.echo(
        f"{what} --epsilon {options.epsilon:g}: the gap is {last.gap:+.3f} (up to {last.gap_high:+.3f}); it cost "
        f"{100 * report.retained_cost:.1f} points on the retained classes"
        + ("" if report.is_within else "; the budget is spent")
    )
    return scrubbed
