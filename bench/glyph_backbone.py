"""A small backbone, pretrained on drawn glyphs of random strokes and not on photographs.

    python bench/glyph_backbone.py FOLDER

writes it to FOLDER in Hugging Face layout, for `--model_name`, and prints its accuracy on new samples of the glyphs.

There are a hundred classes, each a few quadratic curves drawn at random. Samples are bent, turned, scaled, shifted and
drawn with another pen. A ViT of the shape `scratch:vit_digits` learns to tell them apart, which takes a minute.
It stands for a pretrained backbone where none can be
downloaded: it knows strokes, but not digits. (Pretraining on drawn formulas: Kataoka et al., 2020, arXiv 2101.08515.)

Letters: N images of a class, S strokes, P points on them, B batch.
"""

import argparse
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

import torch
from torch import nn
from torch.nn import functional as F

from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone
from pfm.data.images import ImagePreprocess
from pfm.seeds import make_generator

NUM_CLASSES, PER_CLASS, EPOCHS, BATCH, LR = 100, 200, 12, 256, 2e-3
SIDE = 8


def draw_glyph(strokes: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Samples (N, 1, SIDE, SIDE) uint8 of a glyph whose control points are (S, 3, 2) in [-1, 1]."""
    points = strokes + 0.1 * torch.randn(count, *strokes.shape, generator=generator)  # (N, S, 3, 2)
    angle = (torch.rand(count, generator=generator) - 0.5) * 0.5
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # (N, 2, 2)
    scale = 0.85 + 0.3 * torch.rand(count, 1, 1, 2, generator=generator)
    shift = (torch.rand(count, 1, 1, 2, generator=generator) - 0.5) * 0.25
    points = torch.einsum("nij,nskj->nski", turned, points) * scale + shift
    t = torch.linspace(0, 1, 16)[:, None]
    weights = torch.cat([(1 - t) ** 2, 2 * t * (1 - t), t**2], dim=1)  # of a quadratic curve's control points
    curve = torch.einsum("tk,nskj->nstj", weights, points).flatten(1, 2)  # (N, P, 2)
    places = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).flatten(0, 1)
    distance = torch.cdist(curve, pixels.expand(count, -1, -1)).amin(dim=1)  # (N, SIDE²)
    width = 0.13 + 0.08 * torch.rand(count, 1, generator=generator)
    ink = 240 * torch.sigmoid((width - distance) / 0.06)
    return ink.reshape(count, 1, SIDE, SIDE).to(torch.uint8)


def pretrain(folder: Path) -> float:
    """Train, write `folder`, and return the accuracy on new samples of the same glyphs."""
    generator = make_generator("glyphs")
    glyphs = [
        torch.rand(int(torch.randint(1, 4, (), generator=generator)), 3, 2, generator=generator) * 1.7 - 0.85
        for _ in range(NUM_CLASSES)
    ]
    train = torch.cat([draw_glyph(strokes, PER_CLASS, generator) for strokes in glyphs])
    test = torch.cat([draw_glyph(strokes, 20, generator) for strokes in glyphs])
    labels = torch.arange(NUM_CLASSES).repeat_interleave(PER_CLASS)
    backbone = build_backbone(describe_backbone(BackboneConfig(model_name="scratch:vit_digits")), seed=0)
    torch.manual_seed(0)
    head = nn.Linear(backbone.hidden_size, NUM_CLASSES)
    preprocess = ImagePreprocess(size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def answer(images: torch.Tensor) -> torch.Tensor:
        return head(backbone.readout(backbone.embed(preprocess(images)), 0, slice(0, 1))[:, 0])  # (B, NUM_CLASSES)

    tensors = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(tensors, lr=LR, weight_decay=0.05)
    steps = EPOCHS * math.ceil(len(train) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for _ in range(EPOCHS):
        backbone.train()
        for index in torch.randperm(len(train), generator=generator).split(BATCH):
            loss = F.cross_entropy(answer(train[index]), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    backbone.eval()
    config_class, model_class = backbone.spec.family.hf_classes()
    model = model_class(config_class(**backbone.spec.config), **backbone.spec.family.model_settings)
    model.load_state_dict(backbone.encoder.state_dict())
    model.save_pretrained(folder)
    with torch.no_grad():
        right = answer(test).argmax(dim=1) == torch.arange(NUM_CLASSES).repeat_interleave(20)
    return float(right.double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    print(f"{100 * pretrain(folder):.1f} % of new samples of the glyphs; wrote {folder}")


if __name__ == "__main__":
    main()
