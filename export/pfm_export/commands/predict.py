"""`pfm predict`: files through a checkpoint or a bundle, an answer a line."""

import contextlib
import io
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH, TEXT, with_options
from pfm.errors import ConfigError, DataError
from pfm_export.predicting.config import DEFAULT_FORMAT, FORMATS, PredictConfig

if TYPE_CHECKING:
    from pfm.classes import ClassList
    from pfm_export.predicting.checkpoint import CheckpointModel
    from pfm_export.predicting.pipeline import FileAnswer, Unreadable
    from pfm_export.predicting.rows import Rows
    from pfm_export.serving.answers import ActiveSet
    from pfm_export.serving.bundle import Bundle
    from pfm_export.serving.session import PromptSession

SKIPPED_SOME = 3  # what the command leaves with then


@click.command("predict", context_settings=CONTEXT_SETTINGS)
@click.argument("artifact", type=PATH)
@click.argument("paths", nargs=-1, required=True, type=TEXT)
@click.option("--out", type=PATH, help="File that takes the answers, whole or not at all.  [default: standard output]")
@click.option(
    "--model_name", type=TEXT, help="Where the frozen backbone of a checkpoint is.  [default: where it was in training]"
)
@with_options(config=PredictConfig)
def predict(
    artifact: Path, paths: tuple[str, ...], out: Path | None, model_name: str | None, config: PredictConfig
) -> int:
    """Classify files with a checkpoint or a bundle, which needs no torch.

    PATHS are files, folders, patterns, and `-` for a list on standard input. Every line has the file's path, its
    answer, the probability of `unknown` and of every active class. Files are read ahead by several threads and
    answered in their order; memory does not grow with their number, nor with the length of a sound.
    """
    from pfm.options import expanded
    from pfm.runlog import progress
    from pfm.storage import check_file
    from pfm_export.predicting.files import LIST, Search, check_there
    from pfm_export.predicting.pipeline import predict_files
    from pfm_export.predicting.rows import open_rows
    from pfm_export.serving.bundle import Bundle

    form = _format(config, out)
    if paths.count(LIST) > 1:
        raise ConfigError("standard input is one list; give - once")
    if out is not None:
        check_file(out)
    names = [str(expanded(Path(path))) if path.startswith("~") else path for path in paths]
    if not config.skip_bad:
        check_there(names)
    opened = _open(artifact, model_name, config)
    chosen = _chosen(config, artifact, opened.classes)
    positions = chosen.positions(opened) if isinstance(opened, Bundle) else opened.positions(chosen)
    classes = tuple(opened.classes.names[p] for p in positions)
    first = Search(opened.input.endings)
    if LIST not in paths and next(first.files(names), None) is None:
        raise _nothing_found(first.note(), opened.input.items)
    model = _loaded(opened, config)
    search = Search(model.input.endings)
    counts_first = sys.stderr.isatty() and LIST not in paths
    total = sum(1 for _ in Search(model.input.endings).files(names)) if counts_first else None
    tally = _Tally()
    answers = predict_files(
        model,
        search.files(names, sys.stdin),
        chosen,
        batch_size=config.batch_size,
        num_workers=config.num_workers or os.cpu_count() or 1,
    )
    with (
        contextlib.closing(answers),
        _opened(out) as file,
        progress(total, "predicting", unit="file") as bar,
    ):
        rows = open_rows(form, file, classes)
        for answer in answers:
            tally.take(answer, rows, skip_bad=config.skip_bad)
            bar.update()
    return tally.tell(search.note(), model.input.items)


class _Tally:
    """Counts answers and what was skipped, and says so on standard error."""

    def __init__(self) -> None:
        self.answered, self.skipped = 0, 0

    def take(self, answer: "FileAnswer | Unreadable", rows: "Rows", *, skip_bad: bool) -> None:
        """Write an answer, or name a file that has none.

        Raises:
            DataError: it cannot be read, and such files are not skipped.
        """
        from pfm_export.predicting.pipeline import FileAnswer

        if isinstance(answer, FileAnswer):
            self.answered += 1
            rows.write(answer)
            return
        if not skip_bad:
            raise DataError(f"{answer.reason}; fix the file, take it out, or give --skip_bad")
        self.skipped += 1
        click.echo(f"skipped: {answer.reason}", err=True)

    def tell(self, note: str, items: str) -> int:
        """Say how many; returns the exit code.

        Raises:
            DataError: there was no file at all.
        """
        if not self.answered and not self.skipped:
            raise _nothing_found(note, items)
        if note:
            click.echo(f"note: {note}", err=True)
        if not self.skipped:
            return 0
        click.echo(f"{self.answered:,} answered, {self.skipped:,} skipped, which cannot be read", err=True)
        return SKIPPED_SOME


def _nothing_found(note: str, items: str) -> DataError:
    return DataError(f"no file was found to classify; the model takes {items}" + (f"; {note}" if note else ""))


def _chosen(config: PredictConfig, artifact: Path, classes: "ClassList") -> "ActiveSet":
    """The active set that was asked for."""
    from pfm_export.serving.answers import ActiveSet

    return ActiveSet.of(
        _typed(config.active, artifact, classes) if config.active else None,
        _typed(config.without, artifact, classes) if config.without else (),
        config.profile or None,
    )


def _loaded(opened: "Bundle | CheckpointModel", config: PredictConfig) -> "PromptSession | CheckpointModel":
    """The same with what computes, which takes long."""
    from pfm_export.serving.bundle import Bundle

    if not isinstance(opened, Bundle):
        return opened.loaded()
    from pfm_export.serving.session import PromptSession

    return PromptSession(opened.folder, device=config.device)


def _typed(text: str, artifact: Path, classes: "ClassList") -> list[str]:
    """The names of the classes that were typed."""
    from pfm.classes import Typed, names_meant, split_names

    return names_meant([Typed(part) for part in split_names(text)], {str(artifact): classes})


def _format(config: PredictConfig, out: Path | None) -> str:
    """How answers are written: as is asked for, or as the file's name says.

    Raises:
        ConfigError: it is asked for otherwise than the name says.
    """
    ending = out.suffix.lower().lstrip(".") if out is not None else ""
    if ending not in FORMATS:
        return config.format or DEFAULT_FORMAT
    if config.format not in (None, ending):
        raise ConfigError(f"--format {config.format}, but --out {out} ends in .{ending}; give one of them")
    return ending


def _open(artifact: Path, model_name: str | None, config: PredictConfig) -> "Bundle | CheckpointModel":
    """What answers; neither a graph nor a backbone is loaded yet.

    Raises:
        PfmError: it is neither a checkpoint nor a bundle, or an option is not for it.
    """
    from pfm_export.serving.manifest import is_bundle

    if is_bundle(artifact):
        from pfm_export.serving.bundle import Bundle

        if model_name is not None:
            raise ConfigError("--model_name is for checkpoints; a bundle has its backbone in it")
        return Bundle.open(artifact)
    if not artifact.exists():
        raise ConfigError(f"{artifact} is not there; name a bundle, or a checkpoint (.pt), and then the files")
    if artifact.is_dir():
        raise ConfigError(f"{artifact} is a folder, and not a bundle; name a bundle, or a checkpoint (.pt)")
    from pfm_export.predicting.checkpoint import CheckpointModel

    model = CheckpointModel(artifact, model_name=model_name, device=config.device)
    for note in model.notes:
        click.echo(f"note: {note}", err=True)
    return model


@contextlib.contextmanager
def _opened(out: Path | None) -> Generator[TextIO]:
    """Where rows go: standard output, or a file that is there when all of them are."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    from pfm.storage import replacing

    with replacing(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        yield text
        text.flush()
        text.detach()
