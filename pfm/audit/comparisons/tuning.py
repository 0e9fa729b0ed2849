"""Training a model on, as its recipe did: the fine-tuned comparison and every round of a scrub."""

import torch

from pfm.data.splits import Split
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import branch_subsets
from pfm.seeds import make_generator
from pfm.training.objective import absent_loss, others_target, present_loss
from pfm.training.run import RunConfig
from pfm.training.step import epoch_order


def tune(
    model: PromptedClassifier, split: Split, checkpoint: Checkpoint, config: RunConfig, *, epochs: int, lr: float
) -> None:
    """Train a model on, in place, with the paper's two branches and a constant rate."""
    model.train()
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.trained_tensors().values(), lr=lr)
    seed, weight = config.train.seed, config.objective.absent_weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            for step, index in enumerate(epoch_order(len(split), seed, epoch).split(config.train.batch_size)):
                labels = split.labels[index]
                inputs = checkpoint.preprocess(split.inputs[index].to(device))
                subsets = branch_subsets(labels, model.num_classes, make_generator(seed, "tune", epoch, step))
                own, other = model(inputs, [subset.to(device) for subset in subsets])
                loss = present_loss(own.float(), labels.to(device), has_unknown=model.has_unknown).mean()
                target = others_target(own.float(), labels.to(device)) if model.copies_others else None
                loss = loss + weight * absent_loss(other.float(), has_unknown=model.has_unknown, target=target).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(list(model.trained_tensors().values()), 1.0)
                optimizer.step()
    model.eval()
