"""`pfm eval`: a checkpoint's accuracy in every inference mode, and after forgetting k classes."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH, SEED, TEXT, data_of_run, of_run, only, was_given, with_options
from pfm.commands.sections import SectionedCommand
from pfm.data.config import DataConfig, FeedConfig
from pfm.device import DeviceConfig, resolve_device
from pfm.errors import ConfigError
from pfm.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from pfm.classes import ClassList
    from pfm.evaluation.evaluator import Evaluator
    from pfm.model.classifier import PromptedClassifier


@click.command("eval", cls=SectionedCommand, context_settings=CONTEXT_SETTINGS)
@click.option("--ckpt", required=True, type=PATH, help="Checkpoint of pfm or of the paper's tool.")
@click.option(
    "--model_name", default=None, type=TEXT, help="Where the frozen backbone is.  [default: where it was in training]"
)
@with_options(
    data=of_run(DataConfig),
    evaluation=EvalConfig,
    device=DeviceConfig,
    feed=only(FeedConfig, "data_on", "data_memory", "data_workers", "cache", "num_workers"),
)
@click.option(
    "--batch_size",
    default=None,
    type=click.IntRange(min=1),
    help="The same as --eval_batch_size, by the name that the paper's tool has.  [default: --eval_batch_size]",
)
@click.option(
    "--suspend",
    default="",
    type=TEXT,
    show_default=False,
    help="Evaluate with these classes' prompts left out (names, separated by commas), and nothing else.",
)
@click.option("--seed", default=42, type=SEED, help="Seed of the random modes and of sampled subsets.")
@click.option(
    "--save_dir",
    default=None,
    type=PATH,
    help="Folder for the JSON files, pictures and the page.  [default: the checkpoint's]",
)
def evaluate(
    ckpt: Path,
    model_name: str | None,
    data: DataConfig,
    evaluation: EvalConfig,
    device: DeviceConfig,
    feed: FeedConfig,
    batch_size: int | None,
    suspend: str,
    save_dir: Path | None,
    seed: int,
) -> None:
    """Accuracy in every inference mode, forget and retain accuracy for k = 1, C/2 and C-1, and the field's measures.

    The data set is the one the checkpoint was trained on, unless --dataset says otherwise.
    """
    evaluation = _in_batches(evaluation, batch_size)
    if suspend and was_given("max_subsets"):
        raise ConfigError("--max_subsets is about forgetting k classes, which is not measured with --suspend")
    if suspend and evaluation.exact_subsets:
        raise ConfigError("--exact_subsets is about forgetting k classes, which is not measured with --suspend")
    if suspend and was_given("resamples"):
        raise ConfigError("--resamples is about the measures of the whole model, which are not taken with --suspend")

    import torch

    from pfm.data.loading import load_data
    from pfm.data.reading import Intake
    from pfm.evaluation.advice import advise
    from pfm.evaluation.earlier import check_same_data
    from pfm.evaluation.evaluator import Evaluator
    from pfm.evaluation.measures import measure_field
    from pfm.evaluation.measures_report import describe_measures, write_measures
    from pfm.evaluation.removal import measure_removal
    from pfm.evaluation.results import describe_evaluation, write_evaluation
    from pfm.evaluation.samples import Samples, label_positions
    from pfm.evaluation.subsets import forget_sizes
    from pfm.model.checkpoint import load_checkpoint
    from pfm.storage import check_folder, make_folder
    from pfm.training.launch import host_of, leave, processes_of, start_accelerator

    where = resolve_device(device, gpu_was_asked_for=was_given("gpu_id"), say=click.echo)
    checkpoint = load_checkpoint(ckpt, model_name=model_name)
    if evaluation.exact_subsets and not checkpoint.exact:
        raise ConfigError(
            f"--exact_subsets solves weights from sums; --readout {checkpoint.model.readout} was trained and has none"
        )
    is_frozen = checkpoint.lora is not None or checkpoint.model.tune == "prompts"
    if device.frozen_dtype == "bf16" and not is_frozen:
        raise ConfigError(f"--frozen_dtype bf16: {ckpt} was trained whole, and has nothing frozen; leave it out")
    active = _left_active(checkpoint.classes, suspend) if suspend else []
    folder = save_dir or ckpt.parent
    check_folder(folder)
    for note in checkpoint.notes:
        click.echo(f"note: {note}")
    accelerator = start_accelerator(where, device)
    intake = Intake(
        feed=feed,
        device=accelerator.device,
        host=host_of(accelerator),
        splits=frozenset({"test"}),
        say=click.echo if accelerator.is_main_process else lambda _: None,
        is_shown=accelerator.is_main_process,
    )
    data = data_of_run(checkpoint, data).placed()
    loaded = load_data(data, checkpoint.preprocess.storage, intake=intake)
    click.echo(loaded.describe(checkpoint.preprocess.storage))
    positions = label_positions(checkpoint.classes, loaded.classes, checkpoint.erased)
    stem = make_folder(folder) / f"{loaded.name}_seed_{seed}"
    check_same_data(stem, data.dataset)
    model = checkpoint.build_model()
    if device.stores_frozen_in_bf16 and model.trunk_is_frozen:
        model.store_frozen(torch.bfloat16)
    model.to(accelerator.device)
    samples = Samples.of(loaded.test, positions, checkpoint.preprocess, accelerator.device, feed)
    evaluator = Evaluator(samples, processes_of(accelerator), batch_size=evaluation.eval_batch_size, seed=seed)
    if suspend:
        _evaluate_suspended(evaluator, model, active, Path(f"{stem}_suspended.json"))
    else:
        measured = evaluator.evaluate(
            model, ks=forget_sizes(model.num_classes), max_subsets=evaluation.max_subsets, with_answers=True
        )
        if evaluation.exact_subsets:
            from pfm.evaluation.exact_subsets import solve_subsets
            from pfm.model.readouts.ridge import memory_of

            measured = solve_subsets(evaluator, model, measured, memory_of(checkpoint))
        if accelerator.is_main_process:
            assert measured.served is not None
            names, title = model.classes.names, f"{loaded.name}: {ckpt.name}"
            field = measure_field(
                measured.served, names, groups=loaded.test.groups, num_resamples=evaluation.resamples, seed=seed
            )
            removal = measure_removal(measured.served, names)
            click.echo(describe_evaluation(measured, model))
            click.echo(describe_measures(field, removal))
            for line in advise(measured, model):
                click.echo(f"note: {line}")
            written = write_evaluation(stem, measured, model, title=title, dataset=data.dataset)
            for path in [*written, *write_measures(stem, field, removal, title=title)]:
                click.echo(f"wrote {path}")
    leave(accelerator)


def _in_batches(evaluation: EvalConfig, batch_size: int | None) -> EvalConfig:
    """With what --batch_size, the paper tool's name of it, says.

    Raises:
        ConfigError: --eval_batch_size says otherwise.
    """
    if batch_size is None:
        return evaluation
    if was_given("eval_batch_size") and evaluation.eval_batch_size != batch_size:
        raise ConfigError(
            f"--batch_size {batch_size} and --eval_batch_size {evaluation.eval_batch_size} are the same option; "
            "give one"
        )
    return dataclasses.replace(evaluation, eval_batch_size=batch_size)


def _left_active(classes: "ClassList", suspend: str) -> list[int]:
    """Positions of the classes that --suspend leaves.

    Raises:
        ClassNameError: an unknown class, or all of them.
    """
    from pfm.classes import Typed, names_meant, split_names
    from pfm.forgetting.suspend import active_positions

    names = names_meant([Typed(text) for text in split_names(suspend)], {"the checkpoint": classes})
    return active_positions(classes, names)


def _evaluate_suspended(evaluator: "Evaluator", model: "PromptedClassifier", active: list[int], path: Path) -> None:
    from pfm.classes import listed
    from pfm.evaluation.results import percent
    from pfm.storage import write_json

    result = evaluator.accuracy_of_set(model, active)
    names = [name for i, name in enumerate(model.classes.names) if i not in active]
    if not evaluator.processes.is_main:
        return
    click.echo(
        f"suspended (reversible, nothing erased): {listed(names)}\n"
        f"  accuracy on their samples  {percent(result.forget)}\n"
        f"  accuracy on the others     {percent(result.retain)}"
    )
    write_json(path, {"suspended": names, **dataclasses.asdict(result)})
    click.echo(f"wrote {path}")
