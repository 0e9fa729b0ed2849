"""What an attack may ask for: the models that are compared, their answers, and the samples they are asked about.

Everything is made when it is first asked for, so that an attack pays for what it uses.

Letters: N samples, C classes of the full model.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pfm.audit.comparisons.beside import Beside
from pfm.audit.comparisons.data import by_position
from pfm.audit.comparisons.trained import RETRAINED, SHADOW, Comparisons, Job, Shadow, Trained
from pfm.audit.comparisons.untrained import closed_form_subject, untrained
from pfm.audit.config import AuditConfig
from pfm.audit.enough import oracles_wanted
from pfm.audit.figures import share_interval
from pfm.audit.groups import Groups
from pfm.audit.probe import layer_features
from pfm.audit.resurrection import Attacker
from pfm.audit.rule import Comparison, Learned, Side
from pfm.audit.sampled import Sampled, compare
from pfm.audit.subject import Loaded, Subject, as_subject
from pfm.classes import ClassKeys, check_removal
from pfm.data.config import DataConfig
from pfm.data.splits import ClassificationData
from pfm.errors import ClassNameError
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint
from pfm.seeds import make_generator

BASELINES = ("closed_form", "masked", "untrained")  # simple stand-ins: nobody asks them who was trained on
Answers = Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Features:
    """(N, E) of one layer, of the training and the test samples."""

    train: torch.Tensor
    test: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What is to be judged.

    Attributes:
        full: the model before.
        data: as `pfm train` loaded it for this model.
        keys: the classes, one or several: names (strings) or numbers (ints).
        judged: the model after; None for what `erase` makes of `full`. One that still holds the classes is
            judged with their prompts left out.
        judged_file: that it was read from, to be searched for rows of the classes.
        served: exported graphs to ask as well, by name.
        source: where the data came from, to read it once more; None is the source of the full model's run.
    """

    full: Checkpoint
    data: ClassificationData
    keys: ClassKeys
    judged: Checkpoint | None = None
    judged_file: Path | None = None
    served: Mapping[str, Subject] = field(default_factory=dict)
    source: DataConfig | None = None


def same_values(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two models are one, value for value."""
    pairs = [{**one.tensors, **one.averaged} for one in (first, second)]
    return pairs[0].keys() == pairs[1].keys() and all(
        torch.equal(tensor.cpu(), pairs[1][name].cpu()) for name, tensor in pairs[0].items()
    )


def check_classes(full: Checkpoint, judged: Checkpoint) -> None:
    """Refuse to judge a model with other classes than it had.

    Raises:
        ClassNameError: the judged model has a class, by number and name, that the full one has not.
    """
    known = set(zip(full.classes.ids, full.classes.names, strict=True))
    there = zip(judged.classes.ids, judged.classes.names, strict=True)
    other = next((entry for entry in there if entry not in known), None)
    if other is not None:
        raise ClassNameError(
            f"what is to be judged has the class {other[1]!r} (number {other[0]}), which the model of before has not: "
            "give the checkpoint that it was made of"
        )


class Models:
    """The compared models of one audit.

    Attributes:
        full, judged, smaller: the checkpoint before, the one after, and what `erase` makes of the former.
        forgotten: `judged`, less what it still holds of the classes.
        left_over: numbers of the classes that `judged` still holds.
        judged_file: that `judged` was read from; None where it was made here.
        source: where the data came from; None is the source of the full model's run.
        data, groups: labels are positions in the full model's bank.
        positions, gone, names: of the classes to be forgotten; `gone` are their numbers.
        generator: of the bootstrap; attacks draw from it in their order.
    """

    def __init__(
        self,
        request: AuditRequest,
        config: AuditConfig,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        """
        Args:
            folder: where comparison models are kept.

        Raises:
            ClassNameError: the full model does not have the classes, or no others, or the judged one has further ones.
        """
        full = request.full
        if not full.classes.names:
            raise ClassNameError("the checkpoint has no classes")
        self.positions = full.classes.positions(request.keys)
        check_removal(full.classes, self.positions)
        self.gone = [full.classes.ids[p] for p in self.positions]
        self.names = [full.classes.names[p] for p in self.positions]
        self.full = full
        self.smaller = erase(full, self.names)
        self.judged = self.smaller if request.judged is None else request.judged
        self.judged_file = request.judged_file
        check_classes(full, self.judged)
        held = dict(zip(self.judged.classes.ids, self.judged.classes.names, strict=True))
        self.left_over = [number for number in self.gone if number in held]
        self.forgotten = (
            erase(self.judged, [held[number] for number in self.left_over]) if self.left_over else self.judged
        )
        self.data = by_position(request.data, full)
        self.groups = Groups.of(self.data, self.positions)
        self.served = request.served
        self.source = request.source
        self.config = config
        self.device = device
        self.say = say
        self.comparisons = Comparisons(full, self.data, self.positions, folder, device, say)
        self.generator = make_generator(config.seed, "bootstrap")
        self._beside: Beside | None = None

    @functools.cached_property
    def oracles(self) -> list[Trained]:
        """Models retrained without the classes, from the full model's own seed on.

        Where that one is the judged model itself, made by `pfm scrub --retrain`, it says nothing of how far others are:
        another one takes its place.
        """
        count = self.config.oracles
        found = self._oracles(0, count)
        if self.config.most_oracles > count > 1:
            attacker = Attacker(self.data, self.positions, self.config, self.device)
            loaded = [Loaded.of(one.checkpoint, self.device) for one in found]
            found += self._oracles(count, oracles_wanted(attacker, loaded, self.say))
        if same_values(found[0].checkpoint, self.forgotten):
            self.say("this retrained model is the judged one; another one takes its place")
            found = [*found[1:], self.comparisons.retrained(len(found))]
        return found

    def _oracles(self, first: int, end: int) -> list[Trained]:
        self._train([(RETRAINED, number) for number in range(first, end)])
        return [self.comparisons.retrained(number) for number in range(first, end)]

    @functools.cached_property
    def finetuned(self) -> Trained:
        """The erased model, trained on with the retained samples."""
        return self.comparisons.finetuned()

    @functools.cached_property
    def shadows(self) -> list[Shadow]:
        """Models of random halves of the samples."""
        self._train(self._shadow_jobs)
        return [self.comparisons.shadow(number) for number in range(self.config.shadows)]

    @property
    def _shadow_jobs(self) -> list[Job]:
        return [(SHADOW, number) for number in range(self.config.shadows)]

    def _train(self, jobs: list[Job]) -> None:
        """Train what is not kept yet, with a second process that goes on with the shadow models meanwhile."""
        if self.config.processes < 2:
            return
        later = [job for job in (*jobs, *self._shadow_jobs) if not self.comparisons.is_kept(job)]
        if len(later) > 1 and not (self._beside and self._beside.is_at_work):
            self.say(f"training {len(later)} models in two processes")
            self._beside = Beside(self.comparisons, list(dict.fromkeys(later)))
        if self._beside:
            self._beside.finish(jobs)

    def close(self) -> None:
        """Stop what still trains beside."""
        if self._beside:
            self._beside.close()

    @functools.cached_property
    def loaded(self) -> dict[str, Loaded]:
        """The torch models: full, forgotten, retrained (the first oracle) and finetuned."""
        checkpoints = {
            "full": self.full,
            "forgotten": self.forgotten,
            "retrained": self.oracles[0].checkpoint,
            "finetuned": self.finetuned.checkpoint,
        }
        return {name: Loaded.of(checkpoint, self.device) for name, checkpoint in checkpoints.items()}

    @functools.cached_property
    def loaded_oracles(self) -> list[Loaded]:
        """Every oracle as a torch model."""
        return [self.loaded["retrained"], *(Loaded.of(o.checkpoint, self.device) for o in self.oracles[1:])]

    def subject(self, name: str, checkpoint: Checkpoint) -> Subject:
        """Any other checkpoint as something that can be asked."""
        return as_subject(name, Loaded.of(checkpoint, self.device), self.full.classes.ids)

    @functools.cached_property
    def subjects(self) -> dict[str, Subject]:
        """Whatever can be asked, by name."""
        ids, full = self.full.classes.ids, self.loaded["full"]
        fresh = Loaded(untrained(self.smaller).to(self.device), self.full.preprocess)
        return {
            **{name: as_subject(name, loaded, ids) for name, loaded in self.loaded.items()},
            "masked": as_subject("masked", full, ids, masked=self.gone),
            "suspended": as_subject("suspended", full, ids, without=self.gone),
            "untrained": as_subject("untrained", fresh, ids),
            "closed_form": self._closed_form[0],
            **self.served,
        }

    @functools.cached_property
    def answers(self) -> Answers:
        """{model: {group of samples: log probabilities (N, C + 1)}}, the last column `unknown`."""
        subjects = self.subjects
        self.say("asking every model")
        return {
            name: {group: subject.log_probabilities(split) for group, split in self.groups.items()}
            for name, subject in subjects.items()
        }

    @functools.cached_property
    def answers_of_oracles(self) -> list[Mapping[str, torch.Tensor]]:
        """{group of samples: log probabilities (N, C + 1)} of every oracle."""
        ids = self.full.classes.ids
        others = [as_subject(f"oracle {n + 2}", loaded, ids) for n, loaded in enumerate(self.loaded_oracles[1:])]
        return [
            self.answers["retrained"],
            *({group: other.log_probabilities(split) for group, split in self.groups.items()} for other in others),
        ]

    @functools.cached_property
    def is_gone(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) bool, which training and which test samples are of the classes."""
        gone = torch.tensor(self.positions)
        return torch.isin(self.data.train.labels, gone), torch.isin(self.data.test.labels, gone)

    @functools.cached_property
    def last_layers(self) -> tuple[Features, list[Features]]:
        """What the last layer makes of all samples, in the forgotten model and in every oracle."""
        forgotten, *oracles = (self._last_layer(m) for m in (self.loaded["forgotten"], *self.loaded_oracles))
        return forgotten, oracles

    def _last_layer(self, loaded: Loaded) -> Features:
        train, test = (
            layer_features(loaded.model, loaded.preprocess(split.inputs))[-1]
            for split in (self.data.train, self.data.test)
        )
        return Features(train, test)

    @functools.cached_property
    def learned(self) -> Learned:
        """Whether the full model knows the classes: the precondition of every verdict."""
        subject, gone = self.subject("full", self.full), torch.tensor(self.positions)
        own, rest = self.groups.forget_test, self.groups.retain_test
        hits = int((subject.log_probabilities(own).argmax(dim=1) == own.labels).sum())
        wrongly = torch.isin(subject.log_probabilities(rest).argmax(dim=1), gone).double().mean()
        return Learned(
            accuracy=hits / max(1, len(own)),
            low=share_interval(hits, len(own))[0],
            chance=max(1 / len(self.full.classes), float(wrongly)),
        )

    def compare(
        self,
        measure: Callable[[Mapping[str, torch.Tensor]], Sampled],
        tolerance: float,
        *,
        name: str = "forgotten",
        side: Side = Side.BOTH,
    ) -> Comparison:
        """A measure of the answers of one model, beside the oracles.

        Args:
            measure: of {group of samples: log probabilities}.
        """
        oracles = [measure(by_group) for by_group in self.answers_of_oracles]
        return compare(measure(self.answers[name]), oracles, tolerance, side=side)

    @property
    def answers_of_trained(self) -> Answers:
        """The same without the baselines: of models that a membership attack is made on."""
        return {name: by_group for name, by_group in self.answers.items() if name not in BASELINES}

    @property
    def difference_of_closed_form(self) -> float:
        """The largest difference of a weight between removing the classes in closed form and fitting without them."""
        return self._closed_form[1]

    @functools.cached_property
    def _closed_form(self) -> tuple[Subject, float]:
        return closed_form_subject(self.full, self.data, self.positions)
