"""`pfm scrub`: a copy of a checkpoint without some classes, its shared weights retuned or retrained without them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.commands.class_choice import ClassChoice
from pfm.commands.options import CONTEXT_SETTINGS, PATH, data_of_run, of_run, only, was_given, with_options
from pfm.data.config import DataConfig
from pfm.device import DeviceConfig, resolve_device
from pfm.errors import ConfigError, StorageError
from pfm.options import option
from pfm_export.commands.records import RecordOptions, copy_path, write_copy

if TYPE_CHECKING:
    import torch

    from pfm.data.splits import ClassificationData
    from pfm.forgetting.files import Scrubbed
    from pfm.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ScrubOptions:
    """How far to go, and where the copy goes."""

    retrain: bool = option(
        False,
        "Train everything that is trained again, from the frozen backbone, without a sample of the classes.",
        is_flag=True,
    )
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

    With --retrain nothing is left to measure: adapters, prompts and rows are trained again by the recipe, without
    the classes, and what frozen blocks make of the retained samples is computed once. It takes about as long as
    training did, and needs its data.
    """
    from pfm.data.loading import load_data
    from pfm.data.reading import Intake
    from pfm.model.checkpoint import load_checkpoint
    from pfm.storage import write_json

    if options.retrain and (misplaced := [name for name in ("epsilon", "budget") if was_given(name)]):
        raise ConfigError(f"--{misplaced[0]} is for retuning; --retrain trains by the recipe, to its end")
    where = resolve_device(device, gpu_was_asked_for=was_given("gpu_id"), say=click.echo)
    record.check_key()
    checkpoint = load_checkpoint(ckpt)
    keys = chosen.names_in(checkpoint)
    target = copy_path(ckpt, checkpoint, keys, options.out)
    if target.exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    loaded = load_data(data_of_run(checkpoint, data), checkpoint.preprocess.storage, intake=Intake(device=where))
    if options.retrain:
        scrubbed, report = _retrained(checkpoint, loaded, keys, where)
    else:
        folder = target.parent / "pfm-audit" / "models"
        scrubbed, report = _retuned(checkpoint, loaded, keys, options, folder, where)
    write_json(target.with_suffix(".scrub.json"), report)
    write_copy(ckpt, checkpoint, keys, target, record, scrubbed=scrubbed)
    record.certify([target], keys)


def _retuned(
    checkpoint: "Checkpoint",
    data: "ClassificationData",
    keys: list[str],
    options: ScrubOptions,
    folder: Path,
    where: "torch.device",
) -> "tuple[Scrubbed, dict[str, object]]":
    """The retuned checkpoint, and its report; comparison models are kept in `folder`."""
    from pfm.audit.config import QUICK
    from pfm.audit.scrubbing import ScrubConfig
    from pfm.audit.scrubbing import scrub as retune
    from pfm.forgetting.files import Scrubbed

    config = ScrubConfig(epsilon=options.epsilon, budget=options.budget)
    scrubbed, report = retune(checkpoint, data, keys, config, QUICK, folder, where, say=click.echo)
    what = "within" if report.is_within else "NOT within"
    last = report.rounds[-1]
    click.echo(
        f"{what} --epsilon {options.epsilon:g}: the gap is {last.gap:+.3f} (up to {last.gap_high:+.3f}); it cost "
        f"{100 * report.retained_cost:.1f} points on the retained classes"
        + ("" if report.is_within else "; the budget is spent")
    )
    return Scrubbed(checkpoint=scrubbed, is_retrained=False), report.to_dict()


def _retrained(
    checkpoint: "Checkpoint", data: "ClassificationData", keys: list[str], where: "torch.device"
) -> "tuple[Scrubbed, dict[str, object]]":
    """The checkpoint that was trained again, and its report."""
    from pfm.audit.retraining import retrain
    from pfm.forgetting.files import Scrubbed

    made, report = retrain(checkpoint, data, keys, where, say=click.echo)
    click.echo(report.describe())
    return Scrubbed(checkpoint=made, is_retrained=True), report.to_dict()
