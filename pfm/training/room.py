"""Whether a run fits into memory, by its options alone: said before a model is built that would take hours to fail.

`pfm.data.room` says how much memory there is; this says how much a run takes, and refuses one that is far too large.

The parts are rough and the limit is wide: what is refused here is several times what there is, mostly a digit too many.
"""

from collections.abc import Sequence

import torch

from pfm.backbones.spec import BackboneSpec
from pfm.data.room import all_memory, size_text
from pfm.errors import ConfigError
from pfm.model.readouts import READOUTS
from pfm.training.config import RunConfig

FAR = 2  # times all the memory there is
# of what a block keeps of a token for the backward pass, in numbers of width D: inputs of its products and norms, the
# MLP's hidden layer before and after its activation; attention is fused and keeps no matrix
KEPT_PER_TOKEN = 17
_COPIES = 4  # of what trains: itself, its gradient, two moments
_FLOAT = 4  # bytes


def activation_bytes(config: RunConfig, spec: BackboneSpec, *, num_prompts: int, first: int, batch_size: int) -> int:
    """Of both branches of a batch: every block that passes gradients keeps its intermediate results.

    Args:
        num_prompts: tokens of all prompts of the bank, of which an example sees half; it sees every decoy beside them.
        first: block from which on gradients are passed.
    """
    seen = num_prompts // 2 + config.objective.decoys * config.model.prompt_tokens
    tokens, blocks = spec.num_special + spec.num_patches + seen, spec.num_layers - first
    kept = KEPT_PER_TOKEN * tokens * spec.hidden_size * (1 if config.train.gradient_checkpointing else blocks)
    if config.train.gradient_checkpointing:
        kept += tokens * spec.hidden_size * blocks  # the input of each block
    width = _FLOAT if config.device.mixed_precision == "no" else 2  # bytes of a number
    return 2 * batch_size * kept * width


def check_steps_fit(
    config: RunConfig, spec: BackboneSpec, device: torch.device, *, num_classes: int, num_samples: int
) -> None:
    """Refuse prompts, adapters or batches far beyond the memory there is.

    Raises:
        ConfigError: so they are; which option it is.
    """
    model, train = config.model, config.train
    if not READOUTS.get(model.readout).sees_prompts:
        return
    tune = model.resolve_tune(is_pretrained=spec.is_pretrained)
    first = 0 if tune == "full" else min(model.prompt_layer, spec.num_layers)
    prompts = num_classes * model.prompt_tokens
    batch = 1 if train.auto_batch_size else min(train.batch_size, num_samples)
    activations = activation_bytes(config, spec, num_prompts=prompts, first=first, batch_size=batch)
    decoys = config.objective.decoys
    _, smaller = max(
        (spec.num_special + spec.num_patches, f"--batch_size {train.batch_size}"),
        (prompts // 2, f"--prompt_tokens {model.prompt_tokens}"),
        (decoys * model.prompt_tokens, f"--decoys {decoys}"),
        key=lambda part: part[0],
    )
    # two projections of each block, a pair of matrices each
    adapters = 4 * (spec.num_layers - first) * config.lora.lora_r * spec.hidden_size if tune == "lora" else 0
    check_room(
        (
            (f"--prompt_tokens {model.prompt_tokens}", _COPIES * _FLOAT * prompts * spec.hidden_size),
            (f"--lora_r {config.lora.lora_r}", _COPIES * _FLOAT * adapters),
            (smaller, activations),
        ),
        device,
    )


def check_room(needed: Sequence[tuple[str, int]], device: torch.device) -> None:
    """Refuse what does not fit by far.

    Args:
        needed: an option with its value, and the bytes that it decides.

    Raises:
        ConfigError: the sum is more than `FAR` times all the memory there is.
    """
    total, there = sum(size for _, size in needed), memory_of(device)
    if total > FAR * there:
        largest, _ = max(needed, key=lambda part: part[1])
        where = "the GPU" if device.type == "cuda" else "this machine"
        raise ConfigError(
            f"{largest}: the run would take about {size_text(total)} of memory, and {where} has {size_text(there)}; "
            "give a smaller number"
        )


def memory_of(device: torch.device) -> int:
    """Bytes of all its memory, taken or not."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else all_memory()
