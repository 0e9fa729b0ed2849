"""What a run says of itself: lines for people, records in its log, points for trackers, and its summary."""

import dataclasses
import math

import torch

from pfm.backbones.backbone import SUMMARY
from pfm.model.flops import StepWork, step_flops
from pfm.runlog import RunLog
from pfm.storage import write_json
from pfm.training.learner import Learner
from pfm.training.position import Position
from pfm.training.saving import next_commands
from pfm.training.setup import Setup
from pfm.training.throughput import Meter, Rates

SHOWN = ("full_bank", "match_only", "all_wrong", "none", "infer_best")  # modes in an epoch's line


class Records:
    """Speaks on the main process only, but every process has to call it.

    Attributes:
        meter: of the work of the running epoch.
    """

    def __init__(self, setup: Setup, learner: Learner, log: RunLog) -> None:
        self.setup = setup
        self.at = learner.at
        self.learner = learner
        self.log = log
        processes = setup.processes
        self.meter = Meter(processes.device, processes.world_size, flops_per_sample(setup))
        self._totals: dict[str, torch.Tensor] = {}
        self._pending = 0
        self._epochs: list[dict[str, float | None]] = []

    def start(self) -> None:
        """The run begins, or goes on."""
        self.log.write(
            "resume" if self.at.step else "start",
            step=self.at.step,
            config=self.setup.config.to_dict(),
            device=str(self.setup.processes.device),
            processes=self.setup.processes.world_size,
        )

    def add(self, numbers: dict[str, torch.Tensor]) -> int:
        """Take in a step's part of its losses; returns how many steps were taken since the last record of losses."""
        self._totals = {name: self._totals.get(name, 0) + value for name, value in numbers.items()}
        self._pending += 1
        return self._pending

    def losses(self) -> None:
        """Means since the last record; the only place where an epoch waits for the device.

        Raises:
            TrainingError: the loss is no longer a number.
        """
        names = list(self._totals)
        summed = self.setup.processes.reduce(torch.stack([self._totals[name] for name in names]))
        values: list[float] = (summed / self._pending).tolist()
        self._totals, self._pending = {}, 0
        self.at.losses = dict(zip(names, values, strict=True))
        rate, rates = self.learner.rate, self.meter.rates()
        self.log.write(
            "step", step=self.at.step, epoch=self.at.epoch + 1, lr=rate, **self.at.losses, **dataclasses.asdict(rates)
        )
        points = {f"loss/{name}": value for name, value in self.at.losses.items()}
        self._track({**points, "lr": rate, "samples_per_s": rates.samples_per_s})
        if not math.isfinite(self.at.losses["loss"]):
            raise self.learner.broken("the loss is no longer a number")

    def epoch(self, rates: Rates, modes: dict[str, float] | None, *, checkpoint: str | None, is_best: bool) -> None:
        """An epoch is done, evaluated and perhaps saved.

        Args:
            checkpoint: name of the file that was written.
        """
        values = dataclasses.asdict(rates)
        self.log.write("epoch", epoch=self.at.epoch, **values, accuracies=modes, checkpoint=checkpoint, is_best=is_best)
        self._track({f"accuracy/{name}": value for name, value in (modes or {}).items()})
        self._epochs.append({"epoch": self.at.epoch, **values})
        self.setup.tell(_epoch_line(self.at, self.setup.config.train.epochs, rates.samples_per_s, modes))

    def stopped(self, signal_number: int) -> None:
        """A signal ended the run."""
        self.log.write("stopped", signal=signal_number, step=self.at.step)

    def end(self, seconds: float) -> None:
        """The run is through."""
        setup, train = self.setup, self.setup.config.train
        if not self._epochs:
            setup.tell("nothing is left to train")
        elif self.at.is_over:
            setup.tell(
                f"stopped early: --best_metric {train.best_metric} has not risen for {self.at.stale} "
                f"evaluations; the best epoch is in {setup.files.best}"
            )
        setup.accelerator.wait_for_everyone()
        self.log.write("end", seconds=round(seconds, 2))
        if setup.accelerator.is_main_process and self._epochs:
            summary = {
                "config": setup.config.to_dict(),
                "device": str(setup.processes.device),
                "processes": setup.processes.world_size,
                "seconds": round(seconds, 2),
                "flops_per_sample": self.meter.flops_per_sample,
                "epochs": self._epochs,
            }
            with setup.files.writing():
                write_json(setup.files.summary, summary)
        path = setup.files.epoch(self.at.epoch)
        setup.tell(f"saved {path} ({seconds:.0f} s)\n{next_commands(path)}")

    def _track(self, values: dict[str, float]) -> None:
        if values and self.setup.accelerator.trackers:
            self.setup.accelerator.log(values, step=self.at.step)


def _epoch_line(at: Position, epochs: int, samples_per_s: float, modes: dict[str, float] | None) -> str:
    line = f"epoch {at.epoch}/{epochs}  loss {at.losses['loss']:.4f} ({samples_per_s:.0f} samples/s)"
    if modes is not None:
        line += "  " + "  ".join(f"{name} {100 * modes[name]:.1f}" for name in SHOWN)
    return line


def flops_per_sample(setup: Setup) -> float:
    """Floating-point operations of a sample in a step with as many prompts as there are on average."""
    model = setup.model
    tokens, classes, decoys = model.config.prompt_tokens, model.num_classes, setup.config.objective.decoys
    present = tokens * ((classes + 1) / 2 + decoys)  # on average
    absent = tokens * ((classes - 1) / 2 + decoys * (classes - 1) / classes)  # none where no prompt is there
    work = StepWork(
        prompts=(present, absent),
        num_scores=len(model.readout.weights(model)[0]),
        rank=setup.lora.lora_r if setup.lora else 0,
        prompt_layer=model.config.prompt_layer,
        is_cached=setup.config.feed.cache_trunk != "off",
        is_frozen=model.trunk_is_frozen,
        reads_prompts=model.readout.reads(model.num_tokens) != SUMMARY,
    )
    return step_flops(setup.spec, work)
