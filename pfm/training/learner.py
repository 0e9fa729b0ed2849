"""What a run moves, and how it is written to a file and read back: model, optimizer, average and position."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pfm.device import compile_module
from pfm.errors import CheckpointError, TrainingError
from pfm.model.abstention import choose_threshold
from pfm.model.checkpoint import Checkpoint, RunState, save_checkpoint, snapshot
from pfm.model.sharding import is_sharded, shared_out
from pfm.training.optim import Average, build_optimizer, learning_rate
from pfm.training.position import Position
from pfm.training.saving import check_same_run, labels_checksum
from pfm.training.setup import Setup, check_sharded


class Learner:
    """A model in training.

    Attributes:
        model: as the setup has it.
        wrapped: the same as the Accelerator prepared it, for steps.
        average: of the trained tensors, where --ema asks for one.
        at: where the run stands.
        last_saved: the newest checkpoint of this run.
    """

    def __init__(self, setup: Setup) -> None:
        """
        Raises:
            ConfigError: an option that does not go with a sharded model.
        """
        self.setup = setup
        self.model = setup.model
        train = setup.config.train
        if train.compile:
            compile_module(self.model)
        optimizer = build_optimizer(self.model, train, prompt_lr=setup.config.start.resolve_prompt_lr())
        wrapped, self.optimizer = setup.accelerator.prepare(self.model, optimizer)
        self.wrapped: nn.Module = wrapped
        if is_sharded(self.model):
            check_sharded(setup.config, self.model)
        self.average = Average(self.model, train.ema) if train.ema else None
        self.at = Position()
        self.last_saved: Path | None = None

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def set_rate(self, total_steps: int) -> None:
        """Set the learning rate of the next step, of `total_steps` in the whole run."""
        rate = learning_rate(self.at.step, total_steps, self.setup.config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]

    def finish_step(self) -> None:
        """Note that a step was taken."""
        if self.average:
            self.average.update()
        self.at.step += 1
        self.at.batch += 1

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """The average, if there is one, stands in for the model's own tensors while the block runs."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def broken(self, what: str) -> TrainingError:
        """The error of a run that cannot go on."""
        state = self.setup.files.state
        newest = state if state.exists() else self.last_saved
        saved = f"the last good state is {newest}" if newest else "nothing was saved yet"
        return TrainingError(
            f"{what} at step {self.at.step} (epoch {self.at.epoch + 1}, learning rate {self.rate:g}); {saved}. "
            "Lower --lr, clip with --max_grad_norm 1, or use --mixed_precision bf16 or no"
        )

    def save(self, path: Path) -> None:
        """Write the model and where the run stands; every process has to call it.

        Raises:
            TrainingError: a trained number is none any more, or a class was erased; nothing is written.
        """
        setup = self.setup
        if not (setup.accelerator.is_main_process or is_sharded(self.model)):
            return
        scaler = setup.accelerator.scaler
        state = snapshot(
            self.model,
            spec=setup.spec,
            preprocess=setup.preprocess,
            lora=setup.lora,
            optimizer=self.optimizer.optimizer,
            frozen_sha256=setup.frozen_sha256,
            state=RunState(
                seed=setup.config.train.seed,
                epoch=self.at.epoch,
                step=self.at.step,
                run=self._run(),
                averaged=self.average.tensors if self.average else {},
                unknown_below=self._choose_threshold(),
                data_commit=setup.data.commit,
                start=setup.config.start.prompt_start,
                init_key=setup.config.start.init_key,
                progress={
                    **dataclasses.asdict(self.at),
                    # since when they are meant depends on where a run was stopped; a whole epoch needs them no more
                    "losses": self.at.losses if self.at.batch else {},
                    "global_batch": setup.global_batch,
                    "labels": labels_checksum(setup.data.train.labels),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                },
            ),
        )
        broken = [name for name, tensor in state.tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise self.broken(f"{broken[0]} is no longer a number")
        if setup.accelerator.is_main_process:
            with setup.files.writing():
                save_checkpoint(path, state)

    def _run(self) -> dict[str, Any]:
        """The configuration as it is saved: the same whether a run was stopped and went on or not."""
        run = self.setup.config.to_dict()
        return {**run, "train": {**run["train"], "resume": ""}}

    def _choose_threshold(self) -> float:
        """Below which probability the model that is saved answers `unknown`; 0 where it never does."""
        setup, share = self.setup, self.setup.config.model.abstain
        if not share or self.at.batch:  # a state inside an epoch is to go on from, not to be asked
            return 0.0
        assert setup.data.val is not None
        with self.averaged(), setup.processes.autocast():
            return choose_threshold(
                self.model, setup.data.val, setup.preprocess, share, device=setup.processes.device,
                batch_size=setup.config.evaluation.eval_batch_size,
            )  # fmt: skip

    def restore(self, path: Path, state: Checkpoint) -> None:
        """Go on from a saved state of the same run.

        Raises:
            ConfigError: it is not the same run.
            CheckpointError: the file does not hold all that is needed.
        """
        setup, train = self.setup, self.setup.config.train
        check_same_run(
            state,
            setup.config.to_dict(),
            global_batch=setup.global_batch,
            labels=setup.data.train.labels,
            preprocess=setup.preprocess,
            depends_on_length=train.depends_on_length,
        )
        trained = self.model.trained_tensors()
        if set(trained) != set(state.tensors) or set(trained) != set(state.moments):
            raise CheckpointError(f"{path} does not hold the tensors and moments of this run's model")
        if state.frozen_sha256 != setup.frozen_sha256:
            at = f" with --revision {state.spec.commit}" if state.spec.commit else ""
            raise CheckpointError(f"{path} was trained on other weights of {setup.spec.model_name}; give those{at}")
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(shared_out(state.tensors[name], tensor))
                moments = {key: value.clone() for key, value in state.moments[name].items()}
                step = moments.pop("step").to(tensor.device)
                laid_out = {key: shared_out(value, tensor) for key, value in moments.items()}
                self.optimizer.state[tensor] = {"step": step, **laid_out}
        if self.average:
            self.average.load(state.averaged)
        scaler = state.progress["scaler"]
        if scaler is not None and setup.accelerator.scaler is not None:
            setup.accelerator.scaler.load_state_dict(scaler)
        self.at = Position.from_dict(state.progress)
        self.at.is_over = self.at.is_over and train.patience > 0
        self.last_saved = path
        setup.tell(f"resumed {path}: step {self.at.step}, epoch {self.at.epoch + 1}, batch {self.at.batch + 1}")
