"""Training a model on, as its recipe did: the fine-tuned comparison and every round of a scrub."""

import torch

from pfm.data.splits import Split
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.decoys import draw_decoys
from pfm.model.draws import branch_subsets
from pfm.seeds import make_generator
from pfm.training.config import RunConfig
from pfm.training.objective import Objective, class_weights
from pfm.training.shares import balanced_order, epoch_order


def tune(
    model: PromptedClassifier, split: Split, checkpoint: Checkpoint, recipe: RunConfig, *, epochs: int, lr: float
) -> None:
    """Train a model on, in place, for what its recipe trains it for, at a constant rate.

    Args:
        split: labels are positions in the model's bank.
    """
    model.train()
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.trained_tensors().values(), lr=lr)
    objective = Objective.over(model, recipe.objective, split.labels)
    seed, is_nested = recipe.train.seed, model.target.wants_nested(model.readout)
    decoys = model.decoys(recipe.objective.decoys)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            for step, index in enumerate(_order(split.labels, recipe, epoch).split(recipe.train.batch_size)):
                labels = split.labels[index]
                inputs = checkpoint.preprocess(split.inputs[index].to(device))
                generator = make_generator(seed, "tune", epoch, step)
                subsets = branch_subsets(labels, model.num_classes, generator, is_nested=is_nested)
                labels = labels.to(device)
                presents = [subset.to(device) for subset in subsets]
                drawn = None if decoys is None else draw_decoys(decoys, generator).to(device)
                with_own, without_own = model(inputs, presents, passing=objective.passing(labels), decoys=drawn)
                loss = objective(with_own, without_own, labels).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(list(model.trained_tensors().values()), 1.0)
                optimizer.step()
    model.eval()


def _order(labels: torch.Tensor, recipe: RunConfig, epoch: int) -> torch.Tensor:
    """The examples of an epoch, each class equally often where the recipe has it so."""
    seed = recipe.train.seed
    if recipe.objective.balance == "sampling":
        return balanced_order(labels, class_weights(labels, int(labels.max()) + 1), seed, epoch)
    return epoch_order(len(labels), seed, epoch)
