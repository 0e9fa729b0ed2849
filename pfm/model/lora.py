"""Low-rank adapters on the query and value projections: the one module that knows peft.

LoRA: Hu et al., 2021 (arXiv 2106.09685).
"""

import copy
from typing import Any

from torch import nn

from pfm.backbones.backbone import Backbone
from pfm.backbones.dropout import RowDropout
from pfm.model.config import LoraSettings


def add_adapters(backbone: Backbone, settings: LoraSettings, *, first_layer: int) -> None:
    """Put adapters into the blocks from `first_layer` on, in place; only they are trainable afterwards.

    Their dropout belongs to the example, as that of the blocks does.
    """
    from peft import LoraConfig, inject_adapter_in_model

    encoder = backbone.encoder
    encoder.requires_grad_(False)
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(backbone.spec.family.adapter_targets),
        layers_to_transform=list(range(first_layer, backbone.num_layers)),
        layers_pattern="layers",
        bias="none",
    )
    inject_adapter_in_model(config, encoder)
    if settings.lora_dropout > 0:
        for name, layer in _adapters(encoder).items():
            for adapter in layer.lora_dropout:
                own = f"{name}.lora_dropout.{adapter}/0"
                layer.lora_dropout[adapter] = RowDropout(settings.lora_dropout, own, encoder.row_keys)


def has_adapters(module: nn.Module) -> bool:
    return any("lora_A" in name for name, _ in module.named_parameters())


def merged(module: nn.Module) -> nn.Module:
    """`module` with every adapter folded into the projection it sits on, to be read and not trained.

    It has parameters of its own, without gradients, which share the memory of `module`'s where no adapter changes them.
    """
    layers = _adapters(module)
    changed = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    shared = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in module.parameters()
        if id(parameter) not in changed
    }
    result = copy.deepcopy(module, shared).requires_grad_(False)
    for name, layer in _adapters(result).items():
        layer.merge()
        parent = result.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
    return result


def _adapters(module: nn.Module) -> dict[str, Any]:
    """Every adapted projection of `module`, by name."""
    if not has_adapters(module):
        return {}  # without the second that peft takes to be imported
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
