"""Resurrection: an attacker who holds the weights learns a new prompt from a few samples of the class.

Everything is frozen but m new prompt tokens and, where the readout has classifier rows, one new row. All
attack seeds are one batch. Recovery is *selective*: S@n = ½ (accuracy on the class + accuracy on the
retained classes), since calling everything the class recovers it in any model, even one that never saw it.

Letters: A attack seeds, n samples each, N test samples, C classes left, m new tokens, T tokens of the
backbone, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pfm.audit import figures
from pfm.audit.comparisons.data import renumber
from pfm.audit.config import AuditConfig
from pfm.audit.groups import Groups
from pfm.audit.sampled import Sampled, area_of, placed
from pfm.audit.subject import Loaded
from pfm.data.splits import ClassificationData
from pfm.model.classifier import PromptedClassifier
from pfm.seeds import make_generator


@dataclass(frozen=True)
class Recovery:
    """What one attack brought back, on the CPU.

    Attributes:
        forget: (A, N) whether each test sample of the class was answered with it.
        retain: (A, N′) whether each other test sample was answered rightly.
        placed, placed_rest: (A, N), (A, N′) share of the other group whose probability of the class is below that of
            each sample of the class, and share of the class that is above each of the others.
    """

    forget: torch.Tensor
    retain: torch.Tensor
    placed: torch.Tensor
    placed_rest: torch.Tensor

    @property
    def auroc(self) -> torch.Tensor:
        """Of the class's probability, class against rest, (A,)."""
        return self.placed.mean(dim=1)

    @property
    def area(self) -> Sampled:
        """The mean of it over the attacks, by test samples."""
        return placed(self.placed.mean(dim=0), self.placed_rest.mean(dim=0))

    @property
    def selective(self) -> torch.Tensor:
        """S@n of each attack seed, (A,)."""
        return 0.5 * (self.forget.double().mean(dim=1) + self.retain.double().mean(dim=1))

    def replicates(self, seeds: torch.Tensor, forget: torch.Tensor, retain: torch.Tensor) -> torch.Tensor:
        """(R,) S@n with attack seeds (R, A) and test samples (R, N), (R, N′) drawn as often as said."""
        parts = []
        for hits, drawn in ((self.forget, forget), (self.retain, retain)):
            weighed = torch.einsum("ra,an,rn->r", seeds, hits.double(), drawn)
            parts.append(weighed / (hits.shape[0] * hits.shape[1]))
        return 0.5 * (parts[0] + parts[1])


def gap_interval(
    forgotten: Recovery, retrained: Recovery, generator: torch.Generator
) -> tuple[float, tuple[float, float]]:
    """G = S@n(forgotten) - S@n(retrained), and its interval over attack seeds and test samples, drawn in pairs."""
    size = forgotten.forget.shape
    draws = [
        figures.draw_counts(count, figures.REPLICATES, generator)
        for count in (size[0], size[1], forgotten.retain.shape[1])
    ]
    replicates = forgotten.replicates(*draws) - retrained.replicates(*draws)
    gap = float(forgotten.selective.mean() - retrained.selective.mean())
    return gap, figures.interval(replicates)


def choose_samples(pool: torch.Tensor, size: int, seeds: int, *key: int | str) -> torch.Tensor:
    """(A, n) positions drawn from a pool, without replacement within an attack."""
    count = min(size, len(pool))
    rows = [pool[torch.randperm(len(pool), generator=make_generator(*key, seed))[:count]] for seed in range(seeds)]
    return torch.stack(rows)


@dataclass(frozen=True)
class Tested:
    """What a learned prompt is tried on.

    Attributes:
        forget, retain: (N, …), (N′, …) model inputs of the class and of the others.
        retain_positions: (N′,) positions of the latter in the attacked model.
    """

    forget: torch.Tensor
    retain: torch.Tensor
    retain_positions: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How a new prompt is learned.

    Attributes:
        tokens: m, of the new prompt.
        steps, lr: of Adam.
        until: an attack stops where its samples are answered with the class with this probability, their mean; what is
            learned beyond that fits the samples and not the class. 1 never stops it.
        restarts: starts of each attack; the one that took the fewest steps is kept, of those the one with the lowest
            loss.
    """

    tokens: int
    steps: int
    lr: float
    seed: int
    until: float = 1.0
    restarts: int = 1


class Attacker:
    """Makes the same attack on any model that has the retained classes.

    Args:
        data: labels are positions in the full model's bank.
        positions: of the forgotten classes there.
    """

    def __init__(
        self, data: ClassificationData, positions: Sequence[int], config: AuditConfig, device: torch.device
    ) -> None:
        self.groups = Groups.of(data, positions)
        self.config = config
        self.device = device
        new = renumber(len(data.classes), positions)
        self._retain_positions = new[self.groups.retain_test.labels].to(device)

    @property
    def sizes(self) -> list[int]:
        """How many samples the attacker has, each in turn and each once."""
        return list(dict.fromkeys(map(self.num_samples, self.config.sizes)))

    def num_samples(self, size: int) -> int:
        """n, where the attacker asks for `size` samples of the class: there may be fewer."""
        return min(size, len(self.groups.forget_train))

    def attack(
        self, target: Loaded, *, size: int, tokens: int, restarts: int = 1, is_control: bool = False
    ) -> Recovery:
        """Bring the class back in a model.

        Args:
            restarts: how many starts are tried; the one with the lowest loss is kept.
            is_control: the attacker knows nothing of the class: samples of others carry its label.
        """
        config, groups = self.config, self.groups
        split, key = (groups.retain_train, "shuffled") if is_control else (groups.forget_train, "class")
        pool = torch.arange(len(split))
        chosen = choose_samples(pool, self.num_samples(size), config.attack_seeds, config.seed, key)
        samples = target.preprocess(split.inputs[chosen.flatten()].to(self.device)).unflatten(0, chosen.shape)
        tested = Tested(
            forget=target.preprocess(groups.forget_test.inputs.to(self.device)),
            retain=target.preprocess(groups.retain_test.inputs.to(self.device)),
            retain_positions=self._retain_positions,
        )
        how = Learning(tokens=tokens, steps=config.attack_steps, lr=config.attack_lr, until=config.attack_until,
                       seed=config.seed, restarts=restarts)  # fmt: skip
        return resurrect(target.model, samples, tested, how)


def resurrect(model: PromptedClassifier, samples: torch.Tensor, tested: Tested, how: Learning) -> Recovery:
    """Learn a new prompt from `samples` and measure what it brings back.

    Args:
        model: in eval mode; the class is not among its classes.
        samples: (A, n, …) model inputs the attacker holds; n = 0 leaves the prompt as it was drawn.
    """
    samples = samples.repeat_interleave(how.restarts, dim=0)
    num_seeds, size = samples.shape[:2]
    hidden = model.row_size
    device = next(model.parameters()).device
    generator = make_generator(how.seed, "resurrection")
    prompt = torch.randn(num_seeds, how.tokens, hidden, generator=generator).to(device)
    row = torch.zeros(num_seeds, hidden + 1, device=device)
    frozen = [tensor for tensor in model.parameters() if tensor.requires_grad]
    for tensor in frozen:
        tensor.requires_grad_(False)
    try:
        if size:
            with torch.no_grad():
                tokens = model.trunk(samples.flatten(0, 1)).unflatten(0, (num_seeds, size))  # (A, n, T, D)
            prompt, row = _learn(model, tokens, prompt, row, how)
        with torch.no_grad():
            return recover(model, tested, prompt[: len(samples) // how.restarts], row[: len(samples) // how.restarts])
    finally:
        for tensor in frozen:
            tensor.requires_grad_(True)


def _learn(
    model: PromptedClassifier, tokens: torch.Tensor, prompt: torch.Tensor, row: torch.Tensor, how: Learning
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts and rows after learning, one for each attack.

    All attacks are one batch; those that are done leave it. Adam's steps are of each number on its own, so that an
    attack takes the same ones whichever others are in the batch.

    Args:
        tokens: (A, n, T, D); prompt: (A, m, D) and row: (A, D + 1), where they start. A counts each start.
    """
    size = tokens.shape[1]
    losses = torch.zeros(len(tokens), device=tokens.device)
    taken = torch.full((len(tokens),), how.steps, device=tokens.device)
    at = torch.arange(len(tokens), device=tokens.device)  # which attacks are still in the batch
    here = [prompt.clone().requires_grad_(), row.clone().requires_grad_()]
    count = len(here) if model.readout.class_rows else 1  # how many of them are learned
    optimizer = torch.optim.Adam(here[:count], lr=how.lr)
    for step in range(how.steps + 1):
        which = torch.arange(len(at), device=at.device).repeat_interleave(size)
        target = torch.full((len(which),), model.num_classes, device=at.device)
        logits = _logits(model, tokens[at].flatten(0, 1), here[0][which], here[1][which])
        each = F.cross_entropy(logits, target, reduction="none").view(len(at), size)
        is_done = (-each.detach()).exp().mean(dim=1) >= how.until
        if step == how.steps:
            is_done = torch.ones_like(is_done)
        if bool(is_done.any()):
            with torch.no_grad():
                gone = at[is_done]
                prompt[gone], row[gone] = here[0][is_done], here[1][is_done]
                losses[gone], taken[gone] = each[is_done].mean(dim=1), step
            at = at[~is_done]
            if not len(at):
                break
            each = each[~is_done]
        # each attack is on its own: the sum over attacks of a mean over its samples
        each.mean(dim=1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if bool(is_done.any()):
            here, optimizer = _without(here, optimizer, is_done, count)
    order = (taken + losses / (1 + losses)).view(-1, how.restarts)  # by steps, then by loss
    best = order.argmin(dim=1) + torch.arange(0, len(prompt), how.restarts, device=at.device)
    return prompt[best], row[best]


def _without(
    tensors: list[torch.Tensor], optimizer: torch.optim.Optimizer, is_done: torch.Tensor, count: int
) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """The attacks that go on, with their moments; the first `count` tensors are learned."""
    left = [tensor.detach()[~is_done].requires_grad_() for tensor in tensors]
    fresh = torch.optim.Adam(left[:count], lr=optimizer.param_groups[0]["lr"])
    for old, new in zip(tensors[:count], left, strict=False):
        state = optimizer.state[old]
        fresh.state[new] = {name: v if name == "step" else v[~is_done] for name, v in state.items()}
    return left, fresh


def recover(model: PromptedClassifier, tested: Tested, prompt: torch.Tensor, row: torch.Tensor) -> Recovery:
    """What new prompts bring back, each on its own.

    Args:
        prompt: (A, m, D).
        row: (A, D + 1) a classifier row and its bias, not looked at without class rows.
    """
    forget = _test(model, tested.forget, prompt, row)  # (A, N, C + 1, maybe unknown)
    retain = _test(model, tested.retain, prompt, row)
    areas = [
        area_of(*(figures.log_odds(part, model.num_classes) for part in attack)).parts
        for attack in zip(forget, retain, strict=True)
    ]
    return Recovery(
        forget=(forget.argmax(dim=2) == model.num_classes).cpu(),
        retain=(retain.argmax(dim=2) == tested.retain_positions).cpu(),
        placed=torch.stack([own for own, _ in areas]).cpu(),
        placed_rest=torch.stack([rest for _, rest in areas]).cpu(),
    )


def _logits(model: PromptedClassifier, tokens: torch.Tensor, prompt: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Logits (B, C + 1) with every prompt of the model there and one more for each example; `unknown` last."""
    return _scores(model, _outputs(model, tokens, prompt), prompt.shape[1], row)


def _outputs(model: PromptedClassifier, tokens: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """What the readout reads, (B, P, D), with every prompt of the model there and one more for each example."""
    return model.read(tokens, torch.cat([model.bank.everyone(len(tokens)), prompt], dim=1))


def _scores(model: PromptedClassifier, outputs: torch.Tensor, new_tokens: int, row: torch.Tensor) -> torch.Tensor:
    """Logits (B, C + 1) of outputs (B, P, D) and a row for each example; `unknown` last."""
    scores = model.readout.score_with_new(
        outputs,
        model.readout.weights(model),
        row * model.readout.row_scale,
        prompt_tokens=model.config.prompt_tokens,
        new_tokens=new_tokens,
    )
    return F.pad(scores, (0, 1), value=model.unknown_logit)


def _test(
    model: PromptedClassifier, inputs: torch.Tensor, prompt: torch.Tensor, row: torch.Tensor, batch: int = 512
) -> torch.Tensor:
    """Logits (A, N, …) of every attack on every input; attacks with the same prompt go through the blocks once."""
    distinct, place = torch.unique(prompt, dim=0, return_inverse=True)  # (U, m, D), (A,)
    parts = []
    for chunk in inputs.split(max(1, batch // len(prompt))):
        tokens, size = model.trunk(chunk), len(chunk)
        which = torch.arange(len(distinct), device=tokens.device).repeat_interleave(size)
        outputs = _outputs(model, tokens.repeat(len(distinct), 1, 1), distinct[which])  # (U · N, P, D)
        each = outputs.unflatten(0, (len(distinct), size))[place].flatten(0, 1)  # (A · N, P, D)
        logits = _scores(model, each, prompt.shape[1], row.repeat_interleave(size, dim=0))
        parts.append(logits.unflatten(0, (len(prompt), size)))
    return torch.cat(parts, dim=1)
