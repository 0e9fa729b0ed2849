"""Options in, one call, text out: `pfm audit`. It stands here since it asks bundles as well as checkpoints."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfm.audit.config import FULL, QUICK, AuditConfig
from pfm.audit.verdict import LEVELS, PASS
from pfm.classes import check_removal
from pfm.commands.class_choice import ClassChoice
from pfm.commands.options import CONTEXT_SETTINGS, PATH, data_of_run, of_run, only, was_given, with_options
from pfm.commands.sections import SectionedCommand
from pfm.data.config import DataConfig
from pfm.device import DeviceConfig, resolve_device
from pfm.errors import AuditError, BundleError, ClassNameError
from pfm.options import option
from pfm.storage import check_folder, make_folder, write_compact_json, write_text

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from pfm.audit.protocol import AuditDocument
    from pfm.audit.subject import Subject
    from pfm.model.checkpoint import Checkpoint

SMALL = 1_000_000  # parameters
LONG = 300  # steps of a training for which it is worth it to start a second process


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What is judged beside the checkpoint's own erasure, by what tolerance, and where the report goes."""

    forgotten: Path | None = option(None, "Checkpoint to be judged.  [default: what pfm forget makes of --ckpt]")
    bundle: Path | None = option(None, "Exported graph to ask too, its answers only.")
    epsilon: float = option(QUICK.epsilon, "Tolerance of areas under attack.", minimum=0)
    oracles: int | None = option(
        None,
        f"Models to retrain for it.  [default: {QUICK.oracles}, with --full {FULL.oracles} to {FULL.most_oracles}, by "
        "how much they differ]",
        minimum=1,
    )
    out: Path = option(Path("pfm-audit"), "Folder for the report.")
    require: str | None = option(None, "Leave with code 1 unless this level passes.", choices=LEVELS)


@click.command("audit", cls=SectionedCommand, context_settings=CONTEXT_SETTINGS)
@click.option("--ckpt", required=True, type=PATH, help="Checkpoint that has the classes.")
@click.option("--quick/--full", "is_quick", default=True, help="Minutes on two cores, or everything.")
@with_options(
    chosen=ClassChoice, options=AuditOptions, data=of_run(DataConfig), device=only(DeviceConfig, "gpu_id", "cpu")
)
def audit_command(
    ckpt: Path, chosen: ClassChoice, is_quick: bool, options: AuditOptions, data: DataConfig, device: DeviceConfig
) -> None:
    """Attack a model that forgot classes, beside one that never saw them, and judge.

    Writes audit.json and audit.html; trains what it compares with and keeps that under --out/models.
    Those models hold the classes too: delete the folder, or name it to pfm forget.
    """
    import torch

    from pfm.audit.models import AuditRequest, check_classes
    from pfm.audit.page import render
    from pfm.audit.protocol import audit
    from pfm.data.loading import load_data
    from pfm.data.reading import Intake
    from pfm.model.checkpoint import checkpoint_file, load_checkpoint

    where = resolve_device(device, gpu_was_asked_for=was_given("gpu_id"), say=click.echo)
    checkpoint, out = load_checkpoint(ckpt), options.out
    keys = chosen.names_in(checkpoint)
    present, gone = checkpoint.classes.split_erased(keys, checkpoint.erased)
    if gone or not present:
        raise ClassNameError(
            f"{gone[0][1]} was erased from {ckpt}: give the checkpoint from before as --ckpt, this one as --forgotten"
        )
    is_small = where.type == "cpu" and sum(tensor.numel() for tensor in checkpoint.tensors.values()) < SMALL
    if is_small:
        torch.set_num_threads(1)  # a model this small is all overhead, which a second thread doubles
    source = data_of_run(checkpoint, data)
    check_removal(checkpoint.classes, present)
    judged = load_checkpoint(options.forgotten) if options.forgotten else None
    if judged is not None:
        check_classes(checkpoint, judged)
    check_folder(out)
    served = {"bundle": _served(options.bundle, checkpoint)} if options.bundle else {}
    request = AuditRequest(
        full=checkpoint,
        source=source,
        data=load_data(source, checkpoint.preprocess.storage, intake=Intake(device=where)),
        keys=keys,
        judged=judged,
        judged_file=checkpoint_file(options.forgotten) if options.forgotten else None,
        served=served,
    )
    make_folder(out)
    config: AuditConfig = dataclasses.replace(QUICK if is_quick else FULL, epsilon=options.epsilon)
    is_worth_it = is_small and checkpoint.step >= LONG and (os.cpu_count() or 1) > 1
    processes = 2 if is_worth_it else 1
    config = dataclasses.replace(config, processes=processes)
    if options.oracles:
        config = dataclasses.replace(config, oracles=options.oracles, most_oracles=options.oracles)
    found = audit(request, config, out / "models", where, say=click.echo)
    document: AuditDocument = {
        "ckpt": ckpt.name,
        "data": request.data.name,
        "kind": "quick" if is_quick else "full",
        **found,
    }
    click.echo(describe(document))  # first: it took long, and the disk may be full by now
    write_compact_json(out / "audit.json", document)
    write_text(out / "audit.html", render(document))
    click.echo(f"wrote {out / 'audit.json'} and {out / 'audit.html'}")
    levels = document["verdict"]["levels"]
    verdict = levels.get(options.require, "not claimed") if options.require else PASS
    if verdict != PASS:
        raise AuditError(f"level {options.require} was required; the verdict is {verdict}")


def describe(document: "AuditDocument") -> str:
    """Utility and verdict as a table for people, of the attacks that were made."""
    lines = ["model         forget %  retain %  H/ln C"]
    for name, row in document.get("utility", {}).items():
        forget, retain = 100 * row["forget_accuracy"], 100 * row["retain_test_accuracy"]
        entropy = f"{document['shape'][name]['entropy']:6.3f}" if "shape" in document else "     –"
        lines.append(f"{name:<13} {forget:8.1f}  {retain:8.1f}  {entropy}")
    for entry in document["verdict"]["measures"]:
        lines.append(f"{entry['verdict']:<13} {entry['level']}: {entry['measure']}: {entry['reason']}")
    lines += [f"{level}: {sentence}" for level, sentence in document["verdict"]["sentences"].items()]
    levels = ", ".join(f"{level} {verdict}" for level, verdict in document["verdict"]["levels"].items())
    return "\n".join([*lines, f"by level: {levels}", f"overall: {document['verdict']['overall']}"])


def _served(folder: Path, checkpoint: "Checkpoint") -> "Subject":
    """A bundle as a black box: inputs as stored go in, one score a class comes out.

    Raises:
        BundleError: its graph takes what cannot be made of the data as it is stored, such as samples of sound.
    """
    import torch

    from pfm.audit.subject import Subject
    from pfm.model.views import averaged
    from pfm_export.graph.front_ends import FRONT_ENDS
    from pfm_export.serving.session import PromptSession

    session, ids = PromptSession(folder, device="cpu"), checkpoint.classes.ids
    numbers = dict(zip(session.classes.names, session.classes.ids, strict=True))
    columns = [ids.index(numbers[name]) for name in session.active()]  # less those suspended
    front_end = FRONT_ENDS.get(session.input.name)(session.input, checkpoint.preprocess)
    if not front_end.measures_accuracy:
        raise BundleError(
            f"{folder} takes {session.input.name}, which an audit cannot make of the data as it is stored; export "
            "without that input, whose weights are the same"
        )
    unknown = -torch.inf if session.stated.unknown_score is None else session.stated.unknown_score

    def score(inputs: "npt.NDArray[Any]") -> "torch.Tensor":
        return torch.asarray(session.scores(inputs)).double()

    def answer(stored: "torch.Tensor") -> "torch.Tensor":
        result = torch.full((len(stored), len(ids) + 1), -torch.inf, dtype=torch.float64)
        result[:, columns] = averaged(front_end.windows(stored), score)
        result[:, -1] = unknown
        return result

    return Subject("bundle", answer)
