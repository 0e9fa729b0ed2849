"""The transformer that every family's weights are read into: embeddings, pre-norm blocks, a final LayerNorm.

The names of its parameters are those of transformers 5 (`layers.0.attention.q_proj.weight`), which checkpoints hold.

Letters: B batch, T tokens as the backbone makes them (special tokens first), S tokens with the prompts behind them,
P tokens whose outputs are wanted, D hidden size, H attention heads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pfm.backbones.dropout import RowDropout, RowKeys
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
    """

    hidden_size: int
    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    qkv_bias: bool = True
    activation: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise BackboneError(f"{self.num_heads} attention heads do not divide a hidden size of {self.hidden_size}")
        if self.activation not in ACTIVATIONS:
            raise BackboneError(f"activation {self.activation!r} is not supported; known: {', '.join(ACTIVATIONS)}")


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017).

    Attributes:
        is_eager: plain matrix products and a softmax, for export, and not torch's fused function.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.head_dim = width // shape.num_heads
        self.dropout = shape.attention_dropout
        self.is_eager = False
        self.q_proj = nn.Linear(width, width, bias=shape.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=shape.qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=shape.qkv_bias)
        self.o_proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None, positions: slice | None) -> torch.Tensor:
        """(B, S, D) -> (B, P, D); see `Block.forward`."""
        asking = tokens if positions is None else tokens[:, positions]
        query, key, value = (
            self._heads(self.q_proj(asking)), self._heads(self.k_proj(tokens)), self._heads(self.v_proj(tokens)),
        )  # fmt: skip
        dropout = self.dropout if self.training else 0.0
        attended = self._attend(query, key, value, mask, dropout)  # (B, H, P, D / H)
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """(B, n, D) -> (B, H, n, D / H)"""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, dropout: float
    ) -> torch.Tensor:
        scale = self.head_dim**-0.5
        if not self.is_eager:
            seen = None if mask is None else mask[:, None, None]  # (B, 1, 1, S)
            return F.scaled_dot_product_attention(query, key, value, seen, dropout_p=dropout, scale=scale)
        scores = torch.matmul(query, key.transpose(2, 3)) * scale  # (B, H, P, S)
        if mask is not None:
            lowest = torch.finfo(query.dtype).min
            scores = scores + torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)[:, None, None]
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(F.dropout(weights, p=dropout, training=dropout > 0), value)


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[shape.activation]
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(tokens)))


class Block(nn.Module):
    """One pre-norm transformer block; its dropout belongs to the example (see `pfm.backbones.dropout`)."""

    def __init__(self, shape: BlockShape, number: int, keys: RowKeys) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.layernorm_before = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.mlp = Mlp(shape)
        self.dropout_attention = RowDropout(shape.dropout, f"layers.{number}.dropout/0", keys)
        self.dropout_mlp = RowDropout(shape.dropout, f"layers.{number}.dropout/1", keys)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, positions: slice | None = None
    ) -> torch.Tensor:
        """Every token attends to every other; outputs for all tokens, or for some.

        Args:
            tokens: (B, S, D).
            mask: (B, S) bool, False where a token is to be treated as not there; None where all are.
            positions: the P tokens whose outputs are wanted, which is exact and cheaper where nobody reads the others;
                None is all.

        Returns:
            (B, P, D)
        """
        attended = self.attention(self.layernorm_before(tokens), mask, positions)
        own = tokens if positions is None else tokens[:, positions]
        hidden = own + self.dropout_attention(attended)
        return hidden + self.dropout_mlp(self.mlp(self.layernorm_after(hidden)))


class Embeddings(nn.Module):
    """Special tokens, then patches, with learned positions.

    Args:
        special: names of the special tokens' parameters, in order.
        patches: a module that makes the patches' tokens (B, N, D) of model input.
    """

    def __init__(
        self, special: tuple[str, ...], patches: nn.Module, num_patches: int, shape: BlockShape, keys: RowKeys
    ) -> None:
        super().__init__()
        self.special = special
        for name in special:
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, shape.hidden_size)))
        self.position_embeddings = nn.Parameter(torch.zeros(1, len(special) + num_patches, shape.hidden_size))
        self.patch_embeddings = patches
        self.dropout = RowDropout(shape.dropout, "embeddings.dropout/0", keys)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Model input (B, …) -> (B, T, D)."""
        patches = self.patch_embeddings(inputs)
        special = [self.get_parameter(name).expand(len(inputs), -1, -1) for name in self.special]
        return self.dropout(torch.cat([*special, patches], dim=1) + self.position_embeddings)


class Encoder(nn.Module):
    """Embeddings, blocks and the final LayerNorm; `Backbone` says how they are run.

    Attributes:
        row_keys: what the dropout layers draw from.
    """

    def __init__(self, embeddings: nn.Module, blocks: list[Block], shape: BlockShape, keys: RowKeys) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleList(blocks)
        self.layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.row_keys = keys

    def set_eager(self, is_eager: bool) -> None:
        """Compute attention with plain products (export) or with torch's fused function."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.is_eager = is_eager
