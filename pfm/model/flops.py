"""How much arithmetic an input costs: the matrix products, a multiply-add counted as two.

Counted are the patch embedding, projections, attention, MLP, adapters and classifier. Not counted
are normalisation, softmax, GELU, losses, the optimizer, and what a fused attention or activation
checkpointing computes twice.

Letters: T tokens of the backbone, S tokens with the prompts behind them, D hidden size, r rank of
the adapters, C classes, L the block before which the prompts enter.
"""

from dataclasses import dataclass

from pfm.backbones.spec import BackboneSpec


@dataclass(frozen=True)
class _Block:
    """Multiply-adds of one transformer block in the forward pass."""

    weights: float  # products with the block's own weights
    adapters: float
    attention: float

    @property
    def forward(self) -> float:
        return 2 * (self.weights + self.adapters + self.attention)

    def backward(self, *, is_frozen: bool) -> float:
        """A product of activations and weights has one gradient, or two where the weights train."""
        return 2 * (self.weights * (1 if is_frozen else 2) + 2 * self.adapters + 2 * self.attention)


def _block(spec: BackboneSpec, tokens: float, queries: float, rank: int) -> _Block:
    """A block that reads `tokens` and computes the outputs of `queries` of them."""
    width = spec.hidden_size
    return _Block(
        weights=2 * (queries + tokens) * width * width + queries * (spec.mlp_weights + spec.token_multiply_adds),
        adapters=2 * rank * width * (queries + tokens),
        attention=2 * queries * tokens * width,
    )


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What a step does with one image.

    Attributes:
        prompts: how many prompt tokens each branch sees.
        num_scores: rows of the classifier, of width D, that each token that is read out is multiplied with.
        rank: of the adapters; 0 where there are none.
        prompt_layer: the blocks below it run once for all branches, without adapters.
        is_cached: and not at all.
        is_plain: a whole forward for each branch and all tokens in the last block, which ours cuts.
        has_backward: False counts the forward alone.
        is_frozen: False where the backbone's own weights train too.
        reads_prompts: the prompts' tokens are read out, and not the summary of the input: CLS, or a pool's.
    """

    prompts: tuple[float, ...]
    num_scores: int
    rank: int
    prompt_layer: int = 0
    is_cached: bool = False
    is_plain: bool = False
    has_backward: bool = True
    is_frozen: bool = True
    reads_prompts: bool = False


def step_flops(spec: BackboneSpec, work: StepWork) -> float:
    """Floating-point operations of one image in a step."""
    total = 0.0 if work.is_cached else _trunk(spec, work) * (len(work.prompts) if work.is_plain else 1)
    return total + sum(_branch(spec, work, count) for count in work.prompts)


def _trunk(spec: BackboneSpec, work: StepWork) -> float:
    """The patches and the blocks below the prompts."""
    own = spec.num_patches + spec.num_special
    embedding = 2 * spec.embedding_multiply_adds
    block = _block(spec, own, own, 0)
    total = embedding + work.prompt_layer * block.forward
    if work.has_backward and not work.is_frozen:
        total += embedding + work.prompt_layer * block.backward(is_frozen=False)  # the pixels need no gradient
    return total


def _branch(spec: BackboneSpec, work: StepWork, count: float) -> float:
    """The blocks that `count` prompt tokens pass, and the classifier."""
    own, width = spec.num_patches + spec.num_special, spec.hidden_size
    tokens, pool = own + count, None if work.reads_prompts else spec.pool_multiply_adds
    read, scored = (count, count) if work.reads_prompts else (1 if pool is None else own, 1)
    whole = _block(spec, tokens, tokens, work.rank)
    last = whole if work.is_plain else _block(spec, tokens, read, work.rank)
    blocks = [*[whole] * (spec.num_layers - work.prompt_layer - 1), last]
    classifier = 2 * width * work.num_scores * scored
    total = sum(block.forward for block in blocks) + classifier + 2 * (pool or 0.0)
    if work.has_backward:
        total += sum(block.backward(is_frozen=work.is_frozen) for block in blocks) + 2 * classifier
        total += 2 * (pool or 0.0) * (1 if work.is_frozen else 2)
        if work.is_plain and count == 0 and work.is_frozen:
            # nothing that trains lies below the first block's projections
            total -= 2 * (3 * tokens * width * width + 2 * work.rank * tokens * width + tokens * tokens * width)
    return total
