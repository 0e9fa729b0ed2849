"""The transformer that every family's weights are read into: embeddings, blocks, a final LayerNorm, a pool.

The names of its parameters are those of ViT in transformers 5 (`layers.0.attention.q_proj.weight`), which checkpoints
hold. What only some families have (a scale on each branch, a gated MLP, rotary positions, a LayerNorm in front of the
blocks or behind each branch, a pool in place of CLS) is there only where `BlockShape` or the family says so.

Letters: B batch, T tokens as the backbone makes them (special tokens first), S tokens with the prompts behind them,
P tokens whose outputs are wanted, D hidden size, H attention heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pfm.backbones.dropout import RowDropout, RowKeys
from pfm.backbones.pools import Pool
from pfm.errors import BackboneError

# what configurations call an activation -> the function
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What a block is made of.

    Attributes:
        hidden_size: D.
        num_heads: H; each is D / H wide.
        intermediate_size: width between the two layers of the MLP.
        layer_norm_eps: added to the variance in LayerNorm.
        qkv_bias: whether query, key and value projections have a bias.
        activation: between the two layers of the MLP, a name of `ACTIVATIONS`.
        dropout: share of the outputs of attention and MLP that training drops.
        attention_dropout: the same of the attention weights.
        key_bias: whether the key projection has a bias; None: as the other two.
        has_scales: whether outputs of attention and MLP are multiplied by a learned vector (LayerScale; Touvron et al.,
            2021, arXiv 2103.17239).
        is_gated: whether the MLP is activation(gate) · up (Shazeer, 2020, arXiv 2002.05202).
        norms_behind: whether a LayerNorm stands behind each branch's sum (post-norm), and not in front of the branch.
    """

    hidden_size: int
    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    qkv_bias: bool = True
    activation: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    key_bias: bool | None = None
    has_scales: bool = False
    is_gated: bool = False
    norms_behind: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise BackboneError(f"{self.num_heads} attention heads do not divide a hidden size of {self.hidden_size}")
        if self.activation not in ACTIVATIONS:
            raise BackboneError(f"activation {self.activation!r} is not supported; known: {', '.join(ACTIVATIONS)}")

    @property
    def mlp_weights(self) -> int:
        """Weights of the MLP's matrices."""
        return (3 if self.is_gated else 2) * self.hidden_size * self.intermediate_size


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017).

    Attributes:
        is_eager: plain matrix products and a softmax, for export, and not torch's fused function.
        dropout: of the weights, in training. It belongs to the example, which the fused function knows nothing of.
        rotary: turns queries and keys by their patch's place; None where places are added to the tokens.
        relative: makes what is added to the scores for the distance of two tokens; None where nothing is.
    """

    def __init__(
        self,
        shape: BlockShape,
        dropout: RowDropout,
        rotary: nn.Module | None = None,
        relative: nn.Module | None = None,
    ) -> None:
        super().__init__()
        width = shape.hidden_size
        self.head_dim = width // shape.num_heads
        self.dropout = dropout
        self.is_eager = False
        self.rotary = rotary
        self.relative = relative
        self.q_proj = nn.Linear(width, width, bias=shape.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=shape.qkv_bias if shape.key_bias is None else shape.key_bias)
        self.v_proj = nn.Linear(width, width, bias=shape.qkv_bias)
        self.o_proj = nn.Linear(width, width)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, positions: slice | None, num_own: int | None = None
    ) -> torch.Tensor:
        """(B, S, D) -> (B, P, D); see `Block.forward`."""
        asking = tokens if positions is None else tokens[:, positions]
        query, key, value = (
            self._heads(self.q_proj(asking)), self._heads(self.k_proj(tokens)), self._heads(self.v_proj(tokens)),
        )  # fmt: skip
        if self.rotary is not None:
            query, key = self.rotary(query, 0 if positions is None else positions.start or 0), self.rotary(key, 0)
        bias = None
        if self.relative is not None:  # (B, H, P, S)
            num_all = tokens.shape[1]
            bias = self.relative(asking, num_all if num_own is None else num_own, num_all, positions).to(query.dtype)
        attended = self._attend(query, key, value, mask, bias)  # (B, H, P, D / H)
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """(B, n, D) -> (B, H, n, D / H)"""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        scale = self.head_dim**-0.5
        if not self.is_eager and not (self.training and self.dropout.p):
            seen = None if mask is None else mask[:, None, None]  # (B, 1, 1, S)
            if bias is not None:
                seen = bias if seen is None else bias.masked_fill(~seen, torch.finfo(bias.dtype).min)
            return F.scaled_dot_product_attention(query, key, value, seen, scale=scale)
        scores = torch.matmul(query, key.transpose(2, 3)) * scale  # (B, H, P, S)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            lowest = torch.finfo(query.dtype).min
            scores = scores + torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)[:, None, None]
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(self.dropout(weights), value)


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[shape.activation]
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(tokens)))


class GatedMlp(nn.Module):
    """activation(gate) · up, and a linear layer behind it."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[shape.activation]
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.activation(self.gate_proj(tokens)) * self.up_proj(tokens))


class Block(nn.Module):
    """One transformer block; its dropout belongs to the example (see `pfm.backbones.dropout`).

    The LayerNorms stand in front of attention and MLP, or with `norms_behind` behind their sums, in the same order.
    """

    def __init__(
        self,
        shape: BlockShape,
        number: int,
        keys: RowKeys,
        rotary: nn.Module | None = None,
        relative: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norms_behind = shape.norms_behind
        dropout = RowDropout(shape.attention_dropout, f"layers.{number}.attention.dropout/0", keys)
        self.attention = Attention(shape, dropout, rotary, relative)
        self.layernorm_before = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.mlp = GatedMlp(shape) if shape.is_gated else Mlp(shape)
        self.scale_attention = nn.Parameter(torch.ones(shape.hidden_size)) if shape.has_scales else None
        self.scale_mlp = nn.Parameter(torch.ones(shape.hidden_size)) if shape.has_scales else None
        self.dropout_attention = RowDropout(shape.dropout, f"layers.{number}.dropout/0", keys)
        self.dropout_mlp = RowDropout(shape.dropout, f"layers.{number}.dropout/1", keys)

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: slice | None = None,
        num_own: int | None = None,
    ) -> torch.Tensor:
        """Every token attends to every other; outputs for all tokens, or for some.

        Args:
            tokens: (B, S, D).
            mask: (B, S) bool, False where a token is to be treated as not there; None where all are.
            positions: the P tokens whose outputs are wanted, which is exact and cheaper where nobody reads the others;
                None is all.
            num_own: T, behind which prompts stand; None is all.

        Returns:
            (B, P, D)
        """
        own = tokens if positions is None else tokens[:, positions]
        if self.norms_behind:
            attended = self.dropout_attention(self.attention(tokens, mask, positions, num_own))
            hidden = self.layernorm_before(own + attended)
            return self.layernorm_after(hidden + self.dropout_mlp(self.mlp(hidden)))
        attended = self.attention(self.layernorm_before(tokens), mask, positions, num_own)
        hidden = own + self.dropout_attention(_scaled(attended, self.scale_attention))
        return hidden + self.dropout_mlp(_scaled(self.mlp(self.layernorm_after(hidden)), self.scale_mlp))


def _scaled(outputs: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return outputs if scale is None else outputs * scale


class Embeddings(nn.Module):
    """Special tokens, then patches, with learned positions.

    Args:
        special: names of the special tokens' parameters in order, and how many tokens each is where that is not one.
        patches: a module that makes the patches' tokens (B, N, D) of model input.
        num_placed: how many of the special tokens, from the first, have a position; None is all.
        has_positions: False where places are told in attention.
        has_norm: whether a LayerNorm stands in front of the blocks, before prompts enter.
    """

    def __init__(
        self,
        special: tuple[str, ...] | Mapping[str, int],
        patches: nn.Module,
        num_patches: int,
        shape: BlockShape,
        keys: RowKeys,
        *,
        num_placed: int | None = None,
        has_positions: bool = True,
        has_norm: bool = False,
    ) -> None:
        super().__init__()
        counts = dict(special) if isinstance(special, Mapping) else dict.fromkeys(special, 1)
        self.special = tuple(counts)
        for name, count in counts.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(1, count, shape.hidden_size)))
        self.num_placed = sum(counts.values()) if num_placed is None else num_placed
        self.places_all = self.num_placed == sum(counts.values())
        places = torch.zeros(1, self.num_placed + num_patches, shape.hidden_size)
        self.position_embeddings = nn.Parameter(places) if has_positions else None
        self.patch_embeddings = patches
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps) if has_norm else None
        self.dropout = RowDropout(shape.dropout, "embeddings.dropout/0", keys)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Model input (B, …) -> (B, T, D)."""
        patches = self.patch_embeddings(inputs)
        count = inputs.shape[0]  # `len` is a number: an export would trace for this size alone in vain, and then again
        special = [self.get_parameter(name).expand(count, -1, -1) for name in self.special]
        tokens = self.dropout(self._placed(special, patches))
        return tokens if self.norm is None else self.norm(tokens)

    def _placed(self, special: list[torch.Tensor], patches: torch.Tensor) -> torch.Tensor:
        positions = self.position_embeddings
        if positions is None or self.places_all:
            tokens = torch.cat([*special, patches], dim=1)
            return tokens if positions is None else tokens + positions
        first, placed = torch.cat(special, dim=1), self.num_placed
        with_place = first[:, :placed] + positions[:, :placed]
        return torch.cat([with_place, first[:, placed:], patches + positions[:, placed:]], dim=1)


class Encoder(nn.Module):
    """Embeddings, blocks, the final LayerNorm and a pool; `Backbone` says how they are run.

    Attributes:
        row_keys: what the dropout layers draw from.
        pool: makes the summary of an input where that is not CLS; see `pfm.backbones.pools`.
    """

    def __init__(
        self, embeddings: nn.Module, blocks: list[Block], shape: BlockShape, keys: RowKeys, pool: Pool | None = None
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleList(blocks)
        self.layernorm: nn.Module = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.pool = pool
        self.row_keys = keys

    def set_eager(self, is_eager: bool) -> None:
        """Compute attention with plain products (export) or with torch's fused function."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.is_eager = is_eager
