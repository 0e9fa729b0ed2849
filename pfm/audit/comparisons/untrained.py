"""Models into which no class was trained: the untrained one, and least squares on its frozen features.

Letters: N samples, C classes, T tokens, D hidden size, E features.
"""

from collections.abc import Sequence

import torch

from pfm.audit import closed_form
from pfm.audit.comparisons.data import renumber
from pfm.audit.subject import Subject
from pfm.backbones.loading import build_backbone
from pfm.data.splits import ClassificationData
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.starts import STARTS
from pfm.model.starts.keys import stand_ins

PENALTY = 1e-4
MOST_FEATURES = 1024


def untrained(checkpoint: Checkpoint) -> PromptedClassifier:
    """The model before any training: the backbone, fresh adapters, prompts and readout; in eval mode."""
    backbone = build_backbone(checkpoint.spec, seed=checkpoint.seed, load_weights=bool(checkpoint.frozen_sha256))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checkpoint.seed)
        model = PromptedClassifier(backbone, checkpoint.classes, checkpoint.model, checkpoint.lora).eval()
    start = STARTS.get(checkpoint.prompt_start)
    start.apply(model, checkpoint.seed, stand_ins(checkpoint.classes.names) if start.takes_keys else ())
    return model


@torch.no_grad()
def frozen_features(checkpoint: Checkpoint, stored: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Features (N, E) of the backbone before any training: its last tokens (T, D), all where they are few.

    Each sample is normalised by itself: a mean over the samples would remember those that are to be forgotten.
    """
    backbone = build_backbone(checkpoint.spec, seed=checkpoint.seed).eval()
    parts = []
    for chunk in stored.split(batch):
        tokens = backbone.embed(checkpoint.preprocess(chunk))
        tokens = backbone.run_blocks(tokens, 0, backbone.num_layers)
        if tokens.shape[1] * tokens.shape[2] <= MOST_FEATURES:
            parts.append(tokens.flatten(1))
        else:
            parts.append(torch.cat([tokens[:, 0], backbone.mean_of(tokens, 1)], dim=1))
    features = torch.cat(parts)
    return torch.nn.functional.layer_norm(features, features.shape[1:])


def closed_form_subject(
    checkpoint: Checkpoint, data: ClassificationData, positions: Sequence[int]
) -> tuple[Subject, float]:
    """The exact baseline after removal, and the largest difference of its weights to those of retraining."""
    num_classes = len(data.classes)
    kept = [p for p in range(num_classes) if p not in positions]
    features = frozen_features(checkpoint, data.train.inputs)
    statistics = closed_form.collect(features, data.train.labels, num_classes)
    weights = closed_form.remove(statistics, list(positions), PENALTY)
    stays = torch.isin(data.train.labels, torch.tensor(kept))
    renumbered = renumber(num_classes, positions)
    fresh = closed_form.collect(features[stays], renumbered[data.train.labels[stays]], len(kept)).solve(PENALTY)
    difference = float((weights - fresh).abs().max())

    def answer(stored: torch.Tensor) -> torch.Tensor:
        rows = closed_form.with_constant(frozen_features(checkpoint, stored))
        result = torch.full((len(stored), num_classes + 1), -torch.inf, dtype=torch.float64)
        result[:, kept] = rows @ weights
        return result

    return Subject("closed_form", answer), difference
