"""Abstention: a model without an `unknown` output answers `unknown` where its largest probability is small.

The threshold is the share-quantile of the largest probability on held-out samples, all classes there: so it gives
up a known share of the answers that the model would give on data like its own, and needs no sample of a class that
is gone. (A classifier with a reject option: Chow, 1970; the quantile as in split conformal prediction, Vovk et al.,
2005.)

Letters: N held-out samples, B batch, C classes.
"""

import torch

from pfm.data.inputs import Preprocess
from pfm.data.splits import Split
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.views import Views


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
