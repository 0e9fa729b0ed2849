"""Files as the paper's tool writes them, and what their weights imply."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTModel

PAPER_SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
}


def old_name(name: str) -> str:
    """transformers 5 module names -> transformers 4."""
    for new, old in (
        ("layers.", "encoder.layer."), ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"), ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"),
    ):  # fmt: skip
        name = name.replace(new, old)
    return name


def paper_vit() -> ViTModel:
    return ViTModel(ViTConfig(image_size=32, patch_size=8, **PAPER_SHAPE))


def paper_file(
    path: Path, *, num_classes: int = 3, make_encoder: Callable[[], Any] = paper_vit
) -> tuple[Path, Any, dict[str, torch.Tensor]]:
    """A file as the paper's tool writes it, and the parts it was made from; the encoder is 128 wide."""
    torch.manual_seed(4)
    encoder = make_encoder()
    for tensor in encoder.parameters():
        torch.nn.init.normal_(tensor, std=0.05)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in encoder.state_dict().items():
        module, _, leaf = old_name(name).rpartition(".")
        base = "base_layer." if module.endswith(("attention.query", "attention.value")) else ""
        state[f"backbone.base_model.model.{module}.{base}{leaf}".replace("..", ".")] = tensor
        if base and leaf == "weight":
            state[f"backbone.base_model.model.{module}.lora_A.default.weight"] = torch.randn(4, 128) * 0.1
            state[f"backbone.base_model.model.{module}.lora_B.default.weight"] = torch.randn(128, 4) * 0.1
    for i in range(num_classes):
        state[f"prompt_dict.{i}"] = torch.randn(1, 128)
    state["classifier.weight"], state["classifier.bias"] = torch.randn(num_classes, 128), torch.randn(num_classes)
    torch.save({"model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": []}}, path)
    return path, encoder, state


def paper_logits(encoder: Any, state: dict[str, torch.Tensor], inputs: torch.Tensor, seen: list[int]) -> torch.Tensor:
    """What those weights imply: adapters folded in (alpha / r = 1), prompts in front, CLS before the LayerNorm."""
    for i, layer in enumerate(encoder.layers):
        for ours, theirs in (("q_proj", "query"), ("v_proj", "value")):
            prefix = f"backbone.base_model.model.encoder.layer.{i}.attention.attention.{theirs}"
            delta = state[f"{prefix}.lora_B.default.weight"] @ state[f"{prefix}.lora_A.default.weight"]
            projection = getattr(layer.attention, ours)
            projection.weight = torch.nn.Parameter(state[f"{prefix}.base_layer.weight"] + delta)
    prompts = torch.cat([state[f"prompt_dict.{i}"] for i in seen])
    tokens = torch.cat([prompts.expand(len(inputs), -1, -1), encoder.embeddings(inputs)], dim=1)
    for layer in encoder.layers:
        tokens = layer(tokens)
    return tokens[:, len(seen)] @ state["classifier.weight"].T + state["classifier.bias"]
