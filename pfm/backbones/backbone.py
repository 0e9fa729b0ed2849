"""A transformer encoder whose input tokens and last block are ours to handle.

Letters: B batch, T tokens as the backbone makes them (special tokens first), S tokens with the
prompts behind them, P tokens that are read out, D hidden size.

Where inputs differ in length, a token that an input does not have is all zeros, and no token that it has is. Such
tokens are not attended to, and are zeros again behind the blocks.

Prompts go *behind* the backbone's own tokens. They carry no position, so this gives the same
numbers as putting them in front, and keeps the readout token at index 0.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pfm.backbones.dropout import RowKeys
from pfm.backbones.encoder import Block, Encoder
from pfm.backbones.spec import BackboneSpec

SUMMARY = slice(0, 1)
"""Where the summary of an input is read: CLS is the first token."""


class Backbone(nn.Module):
    """An encoder, run block by block.

    Attributes:
        spec: what it was built from.
        recompute: in training, keep no activations inside a block but compute them again for the gradient.
    """

    def __init__(self, encoder: Encoder, spec: BackboneSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.spec = spec
        self.is_ragged = spec.family.is_ragged
        self.recompute = False

    @property
    def row_keys(self) -> RowKeys:
        """What the dropout layers draw from."""
        return self.encoder.row_keys

    @property
    def num_layers(self) -> int:
        return len(self.encoder.layers)

    @property
    def hidden_size(self) -> int:
        return self.spec.hidden_size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one model input: (3, S, S), or (L, M) for sounds."""
        return self.spec.input_shape

    @property
    def num_own(self) -> int:
        """T, the tokens that an input becomes; of inputs that differ in length, the most."""
        return self.spec.num_special + self.spec.num_patches

    @property
    def dtype(self) -> torch.dtype:
        """How the weights that make the tokens are stored."""
        return next((tensor.dtype for tensor in self.encoder.embeddings.parameters()), torch.float32)

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S), or (B, L, M) or (B, n) of sounds -> (B, T, D): special tokens and patches, with positions."""
        return self.encoder.embeddings(inputs.to(self.dtype))

    def freeze_first(self, num_blocks: int) -> None:
        """Run the embeddings and the first blocks as in evaluation, without dropout."""
        self.encoder.embeddings.eval()
        for layer in self._blocks[:num_blocks]:
            layer.eval()

    def run_blocks(self, tokens: torch.Tensor, start: int, stop: int, num_own: int | None = None) -> torch.Tensor:
        """(B, S, D) -> (B, S, D) through blocks start..stop-1.

        Args:
            num_own: T, behind which prompts stand; None is all.
        """
        mask = self._mask(tokens, None, num_own)
        for block in self._blocks[start:stop]:
            tokens = self._run(block, tokens, mask, None, num_own)
        return tokens if mask is None else torch.where(mask[:, :, None], tokens, 0.0)

    def there(self, own: torch.Tensor) -> torch.Tensor | None:
        """Own tokens (B, T, D) -> (B, T) bool, which of them an input has; None where every input has all."""
        return (own != 0).any(dim=2) if self.is_ragged else None

    def mean_of(self, own: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Own tokens (B, T, D), from place `first` on -> (B, D): the mean of those that an input has."""
        there = self.there(own)
        if there is None:
            return own[:, first:].mean(dim=1)
        weights = there[:, first:, None].to(own.dtype)
        return (own[:, first:] * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)

    def readout(
        self,
        tokens: torch.Tensor,
        start: int,
        positions: slice,
        key_mask: torch.Tensor | None = None,
        num_own: int | None = None,
    ) -> torch.Tensor:
        """Outputs at `positions` only, before the final LayerNorm.

        The last block is computed for those tokens alone, which is exact: nobody reads the others.

        Args:
            tokens: (B, S, D), the input of block `start`.
            positions: which P tokens to read.
            key_mask: (B, S) bool, False where a token is to be treated as not there.
            num_own: T, behind which prompts stand; None is all.

        Returns:
            (B, P, D)
        """
        mask = self._mask(tokens, key_mask, num_own)
        *blocks, last = self._blocks[start:]
        for block in blocks:
            tokens = self._run(block, tokens, mask, None, num_own)
        return self._run(last, tokens, mask, positions, num_own)

    def read(
        self,
        tokens: torch.Tensor,
        start: int,
        positions: slice,
        key_mask: torch.Tensor | None = None,
        *,
        is_normalised: bool,
        num_own: int | None = None,
    ) -> torch.Tensor:
        """What a readout reads: outputs at `positions`, through the final LayerNorm where that is asked for.

        `SUMMARY` is the place of CLS. A family without one makes its summary of all own tokens instead.

        Args:
            tokens: (B, S, D), the input of block `start`.
            positions: which P tokens to read.
            key_mask: see `readout`.
            num_own: T of these inputs, behind which prompts stand; None is what every input becomes.

        Returns:
            (B, P, D)
        """
        num_own = self.num_own if num_own is None else num_own
        if self.encoder.pool is None or positions != SUMMARY:
            outputs = self.readout(tokens, start, positions, key_mask, num_own)
            return self.normalise(outputs) if is_normalised else outputs
        outputs = self.readout(tokens, start, slice(0, num_own), key_mask, num_own)  # (B, T, D)
        there = self.there(tokens[:, :num_own])
        outputs = outputs if there is None else torch.where(there[:, :, None], outputs, 0.0)
        return self.summary(outputs, is_normalised=is_normalised)

    def summary(self, outputs: torch.Tensor, *, is_normalised: bool) -> torch.Tensor:
        """The one output (B, 1, D) that stands for an input, of its own tokens' outputs (B, T, D) of the last block.

        Zeros are not a token.
        """
        pool = self.encoder.pool
        if pool is None:
            return self.normalise(outputs[:, SUMMARY]) if is_normalised else outputs[:, SUMMARY]
        there = self.there(outputs)
        if is_normalised and not pool.is_before_norm:
            outputs = self.normalise(outputs)
        pooled = pool(outputs) if there is None else pool(outputs, there)
        return self.normalise(pooled) if is_normalised and pool.is_before_norm else pooled

    def normalise(self, outputs: torch.Tensor) -> torch.Tensor:
        """The backbone's final LayerNorm."""
        return self.encoder.layernorm(outputs)

    @property
    def _blocks(self) -> list[Block]:
        return list(self.encoder.layers)  # type: ignore[arg-type]  # a ModuleList holds what was put in

    def _mask(self, tokens: torch.Tensor, key_mask: torch.Tensor | None, num_own: int | None) -> torch.Tensor | None:
        """(B, S) bool, False where a token is not there: an input does not have it, or it is to be treated so."""
        there = self.there(tokens)
        if there is None:
            return key_mask
        if num_own is not None:  # a prompt may be anything
            there = there | (torch.arange(tokens.shape[1], device=tokens.device) >= num_own)
        return there if key_mask is None else there & key_mask

    def _run(
        self,
        block: Block,
        tokens: torch.Tensor,
        mask: torch.Tensor | None,
        positions: slice | None,
        num_own: int | None,
    ) -> torch.Tensor:
        """One block; with `recompute`, again for the gradient."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return block(tokens, mask, positions, num_own)
        keys = self.row_keys.current

        def again(tokens: torch.Tensor) -> torch.Tensor:
            self.row_keys.current = keys  # by the time a block is computed again, another pass may have set its own
            return block(tokens, mask, positions, num_own)

        return checkpoint(again, tokens, use_reentrant=False)  # type: ignore[return-value]
