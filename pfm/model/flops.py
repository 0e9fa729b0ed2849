"""How much arithmetic an input costs: the matrix products, a multiply-add counted as two.

Counted are the patch embedding, projections, attention, MLP, adapters and classifier. Not counted
are normalisation, softmax, GELU, losses, the optimizer, and what a fused attention or activation
checkpointing computes twice.

Letters: T tokens of the backbone, S tokens with the prompts behind them, D hidden size, r rank of
the adapters, C classes, L the block before which the prompts enter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pfm.backbones.spec import BackboneSpec


@dataclass(frozen=True)
class _Block:
    """Multiply-adds of one transformer block in the forward pass."""

    weights: int  # products with the block's own weights
    adapters: int
    attention: int

    @property
    def forward(self) -> int:
        return 2 * (self.weights + self.adapters + self.attention)

    def backward(self, *, is_frozen: bool) -> int:
        """A product of activations and weights has one gradient, or two where the weights train."""
        return 2 * (self.weights * (1 if is_frozen else 2) + 2 * self.adapters + 2 * self.attention)


def _block(spec: BackboneSpec, tokens: int, queries: int, rank: int) -> _Block:
    """A block that reads `tokens` and computes the outputs of `queries` of them."""
    width, hidden = spec.hidden_size, spec.config["intermediate_size"]
    return _Block(
        weights=2 * (queries + tokens) * width * width + 2 * queries * width * hidden,
        adapters=2 * rank * width * (queries + tokens),
        attention=2 * queries * tokens * width,
    )


def step_flops(
    spec: BackboneSpec,
    prompts: Sequence[float],
    *,
    num_classes: int,
    rank: int,
    prompt_layer: int = 0,
    cached: bool = False,
    plain: bool = False,
    backward: bool = True,
    is_frozen: bool = True,
    readout_tokens: int = 1,
) -> float:
    """Floating-point operations of one image in a step.

    Args:
        prompts: how many prompt tokens each branch sees.
        rank: of the adapters; 0 where there are none.
        prompt_layer: the blocks below it run once for all branches, without adapters.
        cached: and not at all.
        plain: a whole forward for each branch and all tokens in the last block, which ours cuts.
        backward: False counts the forward alone.
        is_frozen: False where the backbone's own weights train too.
        readout_tokens: tokens that are read out.
    """
    width = spec.hidden_size
    own = spec.num_patches + spec.num_special
    embedding = 2 * spec.num_patches * spec.patch_values * width
    low = _block(spec, own, own, 0)
    trunk = embedding + prompt_layer * low.forward
    if backward and not is_frozen:
        trunk += embedding + prompt_layer * low.backward(is_frozen=False)  # the pixels need no gradient
    total = 0.0 if cached else trunk * (len(prompts) if plain else 1)
    for count in prompts:
        tokens = own + count
        whole = _block(spec, tokens, tokens, rank)  # type: ignore[arg-type]
        last = whole if plain else _block(spec, tokens, readout_tokens, rank)  # type: ignore[arg-type]
        blocks = [*[whole] * (spec.num_layers - prompt_layer - 1), last]
        classifier = 2 * width * num_classes
        total += sum(block.forward for block in blocks) + classifier
        if backward:
            total += sum(block.backward(is_frozen=is_frozen) for block in blocks) + 2 * classifier
            if plain and count == 0 and is_frozen:  # nothing that trains lies below the first block's projections
                total -= 2 * (3 * tokens * width * width + 2 * rank * tokens * width + tokens * tokens * width)
    return total
