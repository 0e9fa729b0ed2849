"""What the layers hold of a class: a linear probe on each, and how alike two models' layers are.

Letters: N samples, T tokens, D hidden size, L layers.
"""

import torch

from pfm.audit import closed_form
from pfm.model.classifier import PromptedClassifier

PENALTY = 1e-3


@torch.no_grad()
def layer_features(model: PromptedClassifier, inputs: torch.Tensor, batch: int = 256) -> list[torch.Tensor]:
    """Features (N, 2 D) of the L + 1 layers, all prompts of the model there: CLS beside the mean of the patches.

    Where there is one token alone, (N, D).
    """
    device = next(model.parameters()).device
    layers: list[list[torch.Tensor]] = [[] for _ in range(model.backbone.num_layers + 1)]
    for chunk in inputs.split(batch):
        tokens = model.backbone.embed(chunk.to(device))
        num_own = tokens.shape[1]
        for number in range(model.backbone.num_layers + 1):
            own = tokens[:, :num_own].float()
            parts = [own[:, 0], model.backbone.mean_of(own, 1)] if num_own > 1 else [own[:, 0]]
            layers[number].append(torch.cat(parts, dim=1).cpu())
            if number == model.backbone.num_layers:
                break
            if number == model.config.prompt_layer and model.readout.sees_prompts:
                tokens = torch.cat([tokens, model.bank.everyone(len(chunk)).to(tokens.dtype)], dim=1)
            tokens = model.backbone.run_blocks(tokens, number, number + 1, num_own)
    return [torch.cat(parts) for parts in layers]


def probe(
    train: torch.Tensor, is_class: torch.Tensor, test: torch.Tensor, is_class_test: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether a linear probe for the class answers each test sample rightly, of the class and of the others.

    The probe is a regularised least-squares one, both sides weighed alike; its threshold is ½.

    Args:
        train, test: (N, D) features; is_class, is_class_test: (N,) bool.

    Returns:
        two bool tensors, one entry a test sample.
    """
    mean, scale = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    rows = closed_form.with_constant((train - mean) / scale)
    weight = torch.where(is_class, 0.5 / is_class.sum(), 0.5 / (~is_class).sum()).double()
    products = (rows * weight[:, None]).T @ rows
    ridge = PENALTY * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
    solved = torch.linalg.solve(products + ridge, rows.T @ (weight * is_class))
    answers = closed_form.with_constant((test - mean) / scale) @ solved > 0.5
    return answers[is_class_test], ~answers[~is_class_test]
