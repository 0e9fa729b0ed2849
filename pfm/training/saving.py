"""Which files a run leaves, which one it goes on from, and whether it may.

Everything random in a run is drawn from (seed, epoch, step) and from nothing else, so what is
needed to go on is the trained tensors, the optimizer's moments and a position; no generator's state.
"""

import contextlib
import re
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pfm.classes import listed
from pfm.data.config import DataConfig
from pfm.data.inputs import Preprocess
from pfm.errors import CheckpointError, ConfigError
from pfm.holding import writing
from pfm.locks import try_lock
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.starts import UNSTATED

NEWEST = "auto"  # of `--resume`: the newest state in the folder


def next_commands(checkpoint: Path) -> str:
    """What to type once a run is through, with the path as a shell takes it."""
    path = shlex.quote(str(checkpoint))
    return f"next: pfm eval --ckpt {path}   pfm export onnx --ckpt {path} --out bundle"


@dataclass(frozen=True)
class RunFiles:
    """The files of one run, by its data set and seed.

    Attributes:
        classes: names of those that are trained.
    """

    folder: Path
    stem: str
    classes: tuple[str, ...] = ()

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Files of the run may be written while the block runs; see `pfm.holding.writing`."""
        return writing(self.folder, self.classes)

    def epoch(self, number: int) -> Path:
        return self.folder / f"{self.stem}_{number}.pt"

    @property
    def state(self) -> Path:
        """Where a run stands inside an epoch."""
        return self.folder / f"{self.stem}_resume.pt"

    @property
    def best(self) -> Path:
        return self.folder / f"{self.stem}_best.pt"

    @property
    def accuracies(self) -> Path:
        return self.folder / f"{self.stem}_accuracies.json"

    @property
    def summary(self) -> Path:
        """The configuration, and the rates of each epoch."""
        return self.folder / f"{self.stem}_run.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.stem}_log.jsonl"

    def epochs(self) -> list[tuple[int, Path]]:
        """The checkpoints of whole epochs that are there, the latest last."""
        pattern = re.compile(re.escape(self.stem) + r"_(\d+)\.pt")
        found = ((pattern.fullmatch(path.name), path) for path in self.folder.glob("*.pt"))
        return sorted((int(match[1]), path) for match, path in found if match)

    def prune(self, keep: int) -> None:
        """Delete all but the last `keep` epochs; called once the new one stands."""
        if keep:
            for _, path in self.epochs()[:-keep]:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what a killed process left half written; nothing ever reads it."""
        for path in self.folder.glob(f".{self.stem}*.part"):
            file = try_lock(path)  # unless somebody, such as an evaluation, is writing it
            if file is not None:
                with file:
                    path.unlink(missing_ok=True)

    def _candidates(self) -> Iterator[Path]:
        """Newest first; a state inside an epoch is younger than every whole epoch, or was deleted."""
        if self.state.exists():
            yield self.state
        yield from (path for _, path in reversed(self.epochs()))

    def newest(self, say: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
        """The checkpoint that is furthest on; one that cannot be read is named and passed over."""
        best: tuple[Path, Checkpoint] | None = None
        for path in self._candidates():
            try:
                checkpoint = load_checkpoint(path)
            except CheckpointError as error:
                say(f"passed over: {error}")
                continue
            if best is None or checkpoint.step > best[1].step:
                best = path, checkpoint
            if path != self.state:
                break
        return best


def find_state(resume: str, files: RunFiles, say: Callable[[str], None]) -> tuple[Path, Checkpoint] | None:
    """What `--resume` names; None where there is nothing to go on from, and the run starts anew.

    Raises:
        CheckpointError: a path that cannot be read, or a file no run can go on from.
    """
    if not resume:
        return None
    found = files.newest(say) if resume == NEWEST else (Path(resume), load_checkpoint(Path(resume)))
    if found is None:
        say(f"nothing to resume in {files.folder}: starting anew")
        return None
    path, checkpoint = found
    if checkpoint.erased:
        gone = listed(name for _, name in checkpoint.erased)
        raise CheckpointError(
            f"--resume: {path} is erased of {gone}, and of the optimizer's state, from which that would follow; no run "
            "can go on from it. Train anew in another --save_dir, on data without what was erased"
        )
    if not checkpoint.progress:
        raise CheckpointError(
            f"{path} does not say where its run stood (another version or tool wrote it); a run cannot go on from it"
        )
    return path, checkpoint


# what may differ between the run that stopped and the one that goes on
_FREE = {
    "train": {
        "epochs", "save_dir", "save_every", "save_steps", "keep", "best_metric", "patience", "resume", "eval_every",
        "log_every", "batch_size", "gradient_accumulation_steps", "auto_batch_size", "gradient_checkpointing",
        "compile", "report_to",
    },
    "data": {"data_dir"},
    "device": {"gpu_id", "cpu"},
    "evaluation": {"eval_batch_size", "max_subsets", "resamples"},
    "recipe": {"recipe", "chose"},  # what they came to is compared
    "feed": {"data_on", "data_memory", "data_workers", "cache", "num_workers", "cache_trunk"},
}  # fmt: skip


_OF_OLDER_RUNS = {"prompt_start": UNSTATED}  # what held for runs that do not say, where it is not today's default


def check_same_run(
    checkpoint: Checkpoint,
    run: Mapping[str, Mapping[str, Any]],
    *,
    global_batch: int,
    labels: torch.Tensor,
    preprocess: Preprocess,
    depends_on_length: bool,
) -> None:
    """Refuse to go on with other options, other data or another global batch: it would be another run.

    Args:
        preprocess: of the run as it would go on, with the rules that its files were decoded by.

    Raises:
        ConfigError: what differs, and what to give instead.
    """
    before, state = checkpoint.run, checkpoint.progress
    free = {section: set(names) for section, names in _FREE.items()}
    if depends_on_length:
        free["train"].discard("epochs")
    for section, values in run.items():
        for name, value in values.items():
            old = before.get(section, {}).get(name, _OF_OLDER_RUNS.get(name, value))
            if name not in free.get(section, ()) and old != value and not _was_moved(section, name, old, value):
                raise ConfigError(
                    f"--resume: the run had --{name} {old}, now it is {value}; give --{name} {old}, or start anew"
                )
    if state["global_batch"] != global_batch:
        raise ConfigError(
            f"--resume: the run took {state['global_batch']} examples a step over all processes, now it would take "
            f"{global_batch}; choose --batch_size and --gradient_accumulation_steps so that batch x accumulation x "
            f"processes is {state['global_batch']}"
        )
    if state["labels"] != labels_checksum(labels):
        at = f", with --data_revision {checkpoint.data_commit}" if checkpoint.data_commit else ""
        raise ConfigError(f"--resume: the training split is not the one the run began with; give the same data{at}")
    old, new = (known.to_dict().get("decoding") for known in (checkpoint.preprocess, preprocess))
    if isinstance(old, dict) and isinstance(new, dict) and old != new:
        names = [f"{name} {old[name]}, now {new[name]}" for name in new if old[name] != new[name]]
        raise ConfigError(
            f"--resume: files were decoded by other rules when the run began ({'; '.join(names)}), so that it would go "
            "on with other pixels; start anew in another --save_dir"
        )


def _was_moved(section: str, name: str, old: Any, value: Any) -> bool:
    """Whether an option says where the same data is now; of before, where it was relative, or is no longer there."""
    if section != "data" or name not in ("dataset", "table", "hash_groups") or not (old and value):
        return False
    if name != "dataset":
        was, now = Path(old).absolute(), Path(value)
    else:
        before, after = DataConfig(dataset=old).placed(), DataConfig(dataset=value).placed()
        if before.dataset == after.dataset:
            return True
        if before.place is None or after.place is None or before.kind != after.kind:
            return False
        was, now = before.place, after.place
    return was == now or (was.name == now.name and not was.exists())


def labels_checksum(labels: torch.Tensor) -> list[int]:
    """Number and CRC-32 of the training labels: enough to notice another data set, order or split."""
    return [len(labels), zlib.crc32(labels.numpy().tobytes())]
