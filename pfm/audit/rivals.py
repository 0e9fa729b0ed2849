"""The models that a forgotten one is compared with, trained once and kept by a hash of what they are.

- retrained (oracle): the same recipe, without any sample of the classes;
- fine-tuned: the erased model, trained on with the retained samples;
- shadow: the same recipe on half of the samples, for the membership attacks;
- closed form: least squares on frozen features, whose forgetting is exact.
"""

import dataclasses
import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pfm.audit import closed_form
from pfm.audit.subject import Subject
from pfm.backbones.loading import build_backbone
from pfm.classes import ClassList
from pfm.data.splits import ClassificationData, Split, hold_out_for_threshold
from pfm.errors import ConfigError
from pfm.evaluation.samples import label_positions
from pfm.forgetting.erase import erase
from pfm.forgetting.ledger import canonical
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import branch_subsets
from pfm.seeds import make_generator
from pfm.storage import sha256_bytes, write_json
from pfm.training.config import RunConfig
from pfm.training.objective import Objective
from pfm.training.run import train
from pfm.training.shares import epoch_order

PENALTY = 1e-4
MOST_FEATURES = 1024


@dataclass(frozen=True)
class Rival:
    """A trained model to compare with, and what it took in seconds."""

    checkpoint: Checkpoint
    seconds: float


def run_config(checkpoint: Checkpoint) -> RunConfig:
    """The training run a checkpoint came from.

    Raises:
        ConfigError: the file does not say.
    """
    if not checkpoint.run:
        raise ConfigError(
            "the checkpoint does not say how it was trained, so nothing can be trained like it; audit one of pfm train"
        )
    return RunConfig.from_dict(checkpoint.run)


def by_position(data: ClassificationData, checkpoint: Checkpoint) -> ClassificationData:
    """The data with the checkpoint's classes, their positions as labels; samples of erased classes left out.

    What training held out is held out here too, so that nobody takes it for trained on.
    """
    data = hold_out_for_threshold(data, checkpoint.model.abstain)
    positions = label_positions(checkpoint.classes, data.classes, checkpoint.erased)

    def relabel(split: Split) -> Split:
        labels = positions[split.labels]
        return Split(split.inputs[labels >= 0], labels[labels >= 0])

    val = None if data.val is None else relabel(data.val)
    return dataclasses.replace(
        data, classes=checkpoint.classes, train=relabel(data.train), test=relabel(data.test), val=val
    )


def renumber(num_classes: int, positions: Sequence[int]) -> torch.Tensor:
    """(C,) new position of each class once some are gone; -1 for those."""
    kept = [p for p in range(num_classes) if p not in positions]
    new = torch.full((num_classes,), -1)
    new[torch.tensor(kept)] = torch.arange(len(kept))
    return new


def without_classes(data: ClassificationData, positions: Sequence[int]) -> ClassificationData:
    """The data as if some classes had never been in it."""
    new = renumber(len(data.classes), positions)

    def keep(split: Split) -> Split:
        labels = new[split.labels]
        return Split(split.inputs[labels >= 0], labels[labels >= 0])

    classes: ClassList = data.classes.without(positions)
    val = None if data.val is None else keep(data.val)
    return dataclasses.replace(data, classes=classes, train=keep(data.train), test=keep(data.test), val=val)


def fingerprint(split: Split) -> list[int]:
    """Number and CRC-32 of a split's images and labels."""
    return [len(split), zlib.crc32(split.inputs.contiguous().numpy().data), zlib.crc32(split.labels.numpy().data)]


class Rivals:
    """Trains what is asked for, or takes it from `folder`.

    Args:
        data: `by_position` of the full model.
        positions: of the classes to be forgotten.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: ClassificationData,
        positions: Sequence[int],
        folder: Path,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.checkpoint = checkpoint
        self.data = data
        self.positions = list(positions)
        self.folder = folder
        self.device = device
        self.say = say
        self.config = run_config(checkpoint)

    def retrained(self, seed: int | None = None) -> Rival:
        """The oracle: the recipe without the classes, by default with the full model's own seed."""
        data = without_classes(self.data, self.positions)
        seed = self.config.train.seed if seed is None else seed
        return self._trained(f"retrained (seed {seed})", data, seed)

    def shadow(self, number: int) -> tuple[Rival, torch.Tensor]:
        """A model of a random half of all samples, and which it had: (N train + N test,) bool.

        Shadows 2k and 2k + 1 have complementary halves, so that each sample is in one of them.
        """
        train_split, test = self.data.train, self.data.test
        pool = Split(torch.cat([train_split.inputs, test.inputs]), torch.cat([train_split.labels, test.labels]))
        order = torch.randperm(len(pool), generator=make_generator("shadow", number // 2))
        half = order[: len(pool) // 2] if number % 2 == 0 else order[len(pool) // 2 :]
        is_in = torch.zeros(len(pool), dtype=torch.bool)
        is_in[half] = True
        data = dataclasses.replace(self.data, train=pool.subset(half), val=None)
        return self._trained(f"shadow {number + 1}", data, 1000 + number), is_in

    def finetuned(self) -> Rival:
        """The erased model, trained on with the retained samples for a tenth of the recipe's epochs."""
        names = [self.checkpoint.classes.names[p] for p in self.positions]
        smaller = erase(self.checkpoint, names)
        data = without_classes(self.data, self.positions)
        epochs = max(1, round(0.1 * self.config.train.epochs))
        key = {"start": _fingerprint_tensors(smaller), "epochs": epochs, "data": fingerprint(data.train)}

        def make(_: Path) -> Checkpoint:
            model = smaller.build_model().to(self.device)
            tune(model, data.train, smaller, self.config, epochs=epochs, lr=0.3 * self.config.train.lr)
            trained = {name: tensor.detach().cpu() for name, tensor in model.trained_tensors().items()}
            return dataclasses.replace(smaller, tensors={**smaller.tensors, **trained}, averaged={}, moments={})

        return self._kept("fine-tuned", key, make)

    def _trained(self, name: str, data: ClassificationData, seed: int) -> Rival:
        settings = dataclasses.replace(
            self.config.train, seed=seed, save_every=0, save_steps=0, keep=0, eval_every=0, best_metric="", patience=0,
            resume="", report_to="", save_dir="",
        )  # fmt: skip
        config = dataclasses.replace(self.config, train=settings)
        key = {
            "config": config.to_dict(),
            "classes": list(data.classes.names),
            "data": fingerprint(data.train),
            "frozen": self.checkpoint.frozen_sha256,
        }

        def make(folder: Path) -> Checkpoint:
            here = dataclasses.replace(config, train=dataclasses.replace(settings, save_dir=str(folder / "run")))
            result = train(here, self.device, lambda _: None, data=data)
            return dataclasses.replace(load_checkpoint(result.checkpoint), moments={}, progress={})

        return self._kept(name, key, make)

    def _kept(self, name: str, key: dict[str, Any], make: Callable[[Path], Checkpoint]) -> Rival:
        folder = self.folder / sha256_bytes(canonical(key))[:16]
        path, note = folder / "model.pt", folder / "made.json"
        if path.exists() and note.exists():
            self.say(f"{name}: taken from {folder}")
            return Rival(load_checkpoint(path), json.loads(note.read_text())["seconds"])
        self.say(f"{name}: training …")
        started = time.monotonic()
        made = make(folder)
        seconds = time.monotonic() - started
        save_checkpoint(path, made)
        write_json(note, {"name": name, "seconds": round(seconds, 3), "key": key})
        return Rival(made, seconds)


def tune(
    model: PromptedClassifier,
    split: Split,
    checkpoint: Checkpoint,
    config: RunConfig,
    *,
    epochs: int,
    lr: float,
    penalty: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Train a model on, in place, with the paper's two branches and a constant rate.

    Args:
        penalty: (model inputs, labels) -> what is added to the loss of a batch.
    """
    model.train()
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.trained_tensors().values(), lr=lr)
    seed, objective = config.train.seed, Objective.over(model, config.objective, split.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            for step, index in enumerate(epoch_order(len(split), seed, epoch).split(config.train.batch_size)):
                labels = split.labels[index]
                inputs = checkpoint.preprocess(split.inputs[index].to(device))
                subsets = branch_subsets(labels, model.num_classes, make_generator(seed, "tune", epoch, step))
                own, other = model(inputs, [subset.to(device) for subset in subsets])
                loss = objective(own, other, labels.to(device)).mean()
                if penalty is not None:
                    loss = loss + penalty(inputs, labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(list(model.trained_tensors().values()), 1.0)
                optimizer.step()
    model.eval()


def untrained(checkpoint: Checkpoint) -> PromptedClassifier:
    """The model before any training: the backbone, fresh adapters, prompts and readout; in eval mode."""
    backbone = build_backbone(checkpoint.spec, seed=checkpoint.seed, load_weights=bool(checkpoint.frozen_sha256))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checkpoint.seed)
        return PromptedClassifier(backbone, checkpoint.classes, checkpoint.model, checkpoint.lora).eval()


def _fingerprint_tensors(checkpoint: Checkpoint) -> int:
    total = 0
    for name, tensor in sorted({**checkpoint.tensors, **checkpoint.averaged}.items()):
        total = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), total))
    return total


@torch.no_grad()
def frozen_features(checkpoint: Checkpoint, images: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Features (N, E) of the backbone before any training: its last tokens, all where they are few."""
    backbone = build_backbone(checkpoint.spec, seed=checkpoint.seed).eval()
    parts = []
    for chunk in images.split(batch):
        tokens = backbone.embed(checkpoint.preprocess(chunk))
        tokens = backbone.run_blocks(tokens, 0, backbone.num_layers)
        if tokens.shape[1] * tokens.shape[2] <= MOST_FEATURES:
            parts.append(tokens.flatten(1))
        else:
            parts.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1))
    return torch.cat(parts)


def closed_form_subject(
    checkpoint: Checkpoint, data: ClassificationData, positions: Sequence[int]
) -> tuple[Subject, float]:
    """The exact baseline after removal, and the largest difference of its weights to those of retraining."""
    num_classes = len(data.classes)
    kept = [p for p in range(num_classes) if p not in positions]
    features = frozen_features(checkpoint, data.train.inputs)
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    features = (features - mean) / scale
    statistics = closed_form.collect(features, data.train.labels, num_classes)
    weights = closed_form.remove(statistics, list(positions), PENALTY)
    stays = torch.isin(data.train.labels, torch.tensor(kept))
    renumbered = renumber(num_classes, positions)
    fresh = closed_form.collect(features[stays], renumbered[data.train.labels[stays]], len(kept)).solve(PENALTY)
    difference = float((weights - fresh).abs().max())

    def answer(images: torch.Tensor) -> torch.Tensor:
        rows = closed_form.with_constant((frozen_features(checkpoint, images) - mean) / scale)
        result = torch.full((len(images), num_classes + 1), -torch.inf, dtype=torch.float64)
        result[:, kept] = rows @ weights
        return result

    return Subject("closed_form", answer), difference
