"""The plain reference: the paper's method written the slow, obvious way, for ours to be timed beside and checked by.

As the paper's tool does it: the prompts of each sample are picked in a Python loop and stacked, a
training step is two separate forwards, evaluation runs one active set at a time through the whole
model, everything is float32. Nothing is shared, cut short or kept.

Letters: B batch, C classes, K prompts a sample sees, T tokens of the backbone, D hidden size.
"""

import random
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneSpec
from pfm.data.inputs import Preprocess
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings
from pfm.model.lora import add_adapters

Chosen = Sequence[Sequence[int]]  # the classes whose prompts each sample sees


class PlainClassifier(nn.Module):
    """A frozen ViT with LoRA, one parameter for each prompt, prompts in front, a linear classifier on CLS."""

    def __init__(self, spec: BackboneSpec, num_classes: int, lora: LoraSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        backbone = build_backbone(spec, seed=seed, load_weights=False)
        add_adapters(backbone, lora, first_layer=0)
        self.encoder = backbone.encoder
        self.prompts = nn.ParameterDict({str(i): torch.randn(1, spec.hidden_size) for i in range(num_classes)})
        self.classifier = nn.Linear(spec.hidden_size, num_classes)

    def forward(self, inputs: torch.Tensor, chosen: Chosen) -> torch.Tensor:
        """Logits (B, C); CLS is read before the backbone's final LayerNorm."""
        tokens = self.encoder.embeddings(inputs)  # (B, T, D)
        num_prompts = len(chosen[0])
        if num_prompts:
            tokens = torch.cat([self.stack_prompts(chosen), tokens], dim=1)  # (B, K + T, D)
        for block in self.encoder.layers:
            tokens = block(tokens, None, None)
        return self.classifier(tokens[:, num_prompts])

    def stack_prompts(self, chosen: Chosen) -> torch.Tensor:
        """(B, K, D), sample by sample."""
        return torch.stack([torch.cat([self.prompts[str(i)] for i in classes]) for classes in chosen])

    @torch.no_grad()
    def load_weights_of(self, model: PromptedClassifier) -> None:
        """Take over every weight of one of our models (readout `cls`, prompts at block 0, one token each)."""
        self.encoder.load_state_dict(model.backbone.encoder.state_dict())
        for i in range(self.num_classes):
            self.prompts[str(i)].copy_(model.bank.prompts[i])
        weight, bias = model.readout.weights(model)
        self.classifier.weight.copy_(weight)
        self.classifier.bias.copy_(bias)


def choose_with_own(labels: torch.Tensor, num_classes: int, size: int, dice: random.Random) -> list[list[int]]:
    """The own class and `size` others at random, sample by sample."""
    chosen = []
    for label in labels:
        own = int(label.item())
        chosen.append([own, *dice.sample([i for i in range(num_classes) if i != own], size)])
    return chosen


def choose_others(labels: torch.Tensor, num_classes: int, size: int, dice: random.Random) -> list[list[int]]:
    """`size` classes at random, never the own one, sample by sample."""
    return [dice.sample([i for i in range(num_classes) if i != int(label.item())], size) for label in labels]


def build_plain_optimizer(model: PlainClassifier, lr: float = 1e-3) -> torch.optim.Optimizer:
    """Adam with its defaults over what trains."""
    return torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=lr)


def plain_step(
    model: PlainClassifier,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    mixed: Chosen,
    wrong: Chosen,
) -> dict[str, float]:
    """One training step: a forward with the own prompt, a forward without it, backward, update.

    Args:
        inputs: (B, 3, H, W) model input.
        labels: (B,).
        mixed, wrong: the prompts of each sample in the two branches.

    Returns:
        "loss", "present" (own prompt there) and "absent" (own prompt not there).
    """
    present = F.cross_entropy(model(inputs, mixed), labels)
    logits = model(inputs, wrong)
    uniform = torch.full_like(logits, 1 / model.num_classes)
    absent = F.kl_div(F.log_softmax(logits, dim=1), uniform, reduction="batchmean")
    loss = present + absent
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item(), "present": present.item(), "absent": absent.item()}


class PlainEvaluation:
    """Answers for every image, one active set at a time, each a pass over all batches."""

    def __init__(self, images: torch.Tensor, preprocess: Preprocess, *, device: torch.device, batch_size: int) -> None:
        self.batches = images.split(batch_size)
        self.preprocess = preprocess
        self.device = device

    @torch.no_grad()
    def answers(self, model: PlainClassifier, active: Sequence[int]) -> torch.Tensor:
        """The class answered for each image (N,) when exactly the prompts of `active` are there."""
        return torch.cat([self._logits(model, batch, active).argmax(dim=1).cpu() for batch in self.batches])

    @torch.no_grad()
    def infer_best(self, model: PlainClassifier) -> torch.Tensor:
        """The class answered (N,) by the largest logit of each class over the forwards with one prompt alone."""
        found = []
        for batch in self.batches:
            single = [self._logits(model, batch, [i]) for i in range(model.num_classes)]
            found.append(torch.stack(single).amax(dim=0).argmax(dim=1).cpu())
        return torch.cat(found)

    def _logits(self, model: PlainClassifier, batch: torch.Tensor, active: Sequence[int]) -> torch.Tensor:
        inputs = self.preprocess(batch.to(self.device))
        return model(inputs, [list(active) for _ in range(len(batch))])
