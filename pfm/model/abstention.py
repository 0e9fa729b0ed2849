"""Abstention: a model without an `unknown` output answers `unknown` where its largest probability is small.

The threshold is the share-quantile of the largest probability on held-out samples, all classes there: so it gives
up a known share of the answers that the model would give on data like its own, and needs no sample of a class that
is gone. (A classifier with a reject option: Chow, 1970; the quantile as in split conformal prediction, Vovk et al.,
2005.)

Letters: N held-out samples, B batch, C classes.
"""

import dataclasses

import torch

from pfm.data.inputs import Preprocess
from pfm.data.splits import ClassificationData, Split
from pfm.errors import DataError
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.views import Views
from pfm.seeds import make_generator

HELD_OUT = 0.1  # of each class's training samples, where there is no validation split


def hold_out(data: ClassificationData, abstain: float) -> ClassificationData:
    """The data with something to choose a threshold on, if one is to be chosen.

    A validation split stays as it is. Otherwise a tenth of each class's training samples becomes one; the same
    samples whatever the run's seed.

    Raises:
        DataError: no class has ten training samples.
    """
    if abstain == 0 or data.val is not None:
        return data
    labels = data.train.labels
    order = torch.randperm(len(labels), generator=make_generator("held out", len(labels)))
    rank = torch.empty_like(labels)  # of a sample within its class, in the drawn order
    for label in labels.unique():
        members = order[labels[order] == label]
        rank[members] = torch.arange(len(members))
    counts = torch.bincount(labels)[labels]
    is_held = rank < (counts * HELD_OUT).long()
    if not is_held.any():
        raise DataError(
            "--abstain needs held-out samples, and there is neither a validation split nor a class with ten training "
            "samples; give more data or leave --abstain out"
        )
    note = f"--abstain: {int(is_held.sum())} training samples are held out to choose a threshold on"
    return dataclasses.replace(
        data,
        train=data.train.subset((~is_held).nonzero()[:, 0]),
        val=data.train.subset(is_held.nonzero()[:, 0]),
        notes=(*data.notes, note),
    )


@torch.inference_mode()
def choose_threshold(
    model: PromptedClassifier,
    split: Split,
    preprocess: Preprocess,
    share: float,
    *,
    device: torch.device,
    batch_size: int = 128,
) -> float:
    """The largest probability that a `share` of the split's samples stays under, all prompts there."""
    was_training = model.training
    model.eval()
    everyone = list(range(model.num_classes))
    largest = []
    for inputs in split.inputs.split(batch_size):
        views = Views.of(model, preprocess, inputs.to(device))
        logits = views.logits(shared_set(everyone, len(inputs), device))  # (B, C)
        largest.append(logits.float().softmax(dim=1).amax(dim=1).cpu())
    model.train(was_training)
    return float(torch.cat(largest).double().quantile(share))
