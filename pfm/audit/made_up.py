"""A prompt that is learned without data of the class: on inputs that the attacker made up.

No erasure of rows touches what the shared weights know, so what this brings back is reported and not judged.
"""

import torch

from pfm.audit.config import AuditConfig
from pfm.audit.resurrection import Learning, Recovery, Tested, resurrect
from pfm.audit.subject import Loaded
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.seeds import make_generator

MADE_UP = 8  # inputs that a prompt is learned on
LR = 0.05  # of Adam, for prompts that are learned on them, and for the inputs
MOST_LEARNED = 5  # prompts that are


def learn_without_data(loaded: Loaded, tested: Tested, config: AuditConfig) -> dict[str, Recovery]:
    """What prompts bring back that are learned on made-up inputs: noise, and noise that the model knows least about."""
    shape = (min(config.attack_seeds, MOST_LEARNED), MADE_UP, *tested.forget.shape[1:])
    noise = torch.randn(shape, generator=make_generator(config.seed, "made up")).to(tested.forget)
    inputs = {"noise": noise, "inputs that the model is least sure about": _least_sure(loaded.model, noise, config)}
    return {
        how: resurrect(
            loaded.model, samples, tested,
            Learning(tokens=loaded.model.config.prompt_tokens, steps=config.attack_steps, lr=LR, seed=config.seed),
        )
        for how, samples in inputs.items()
    }  # fmt: skip


def _least_sure(model: PromptedClassifier, noise: torch.Tensor, config: AuditConfig) -> torch.Tensor:
    """Inputs (A, n, …), from noise on, whose answer is as even as can be, `unknown` first: as of an erased class."""
    inputs = noise.flatten(0, 1).clone().requires_grad_()
    present = shared_set(list(range(model.num_classes)), len(inputs), inputs.device)
    optimizer = torch.optim.Adam([inputs], lr=LR)
    for _ in range(config.attack_steps):
        logits = model.logits(inputs, present)
        score = logits.logsumexp(dim=1) if model.unknown_logit > -torch.inf else -logits.log_softmax(dim=1).mean(dim=1)
        (gradient,) = torch.autograd.grad(score.sum(), inputs)
        inputs.grad = gradient
        optimizer.step()
    return inputs.detach().view(noise.shape)
