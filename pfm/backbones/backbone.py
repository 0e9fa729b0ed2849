"""A transformer encoder whose input tokens and last block are ours to handle.

Letters: B batch, T tokens as the backbone makes them (special tokens first), S tokens with the
prompts behind them, P tokens that are read out, D hidden size.

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
        """T, the tokens that an input becomes."""
        return self.spec.num_special + self.spec.num_patches

    @property
    def dtype(self) -> torch.dtype:
        """How the weights that make the tokens are stored."""
        return next((tensor.dtype for tensor in self.encoder.embeddings.parameters()), torch.float32)

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S), or (B, L, M) of sounds -> (B, T, D): special tokens and patches, with positions."""
        return self.encoder.embeddings(inputs.to(self.dtype))

    def freeze_first(self, num_blocks: int) -> None:
        """Run the embeddings and the first blocks as in evaluation, without dropout."""
        self.encoder.embeddings.eval()
        for layer in self._blocks[:num_blocks]:
            layer.eval()

    def run_blocks(self, tokens: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """(B, S, D) -> (B, S, D) through blocks start..stop-1."""
        for block in self._blocks[start:stop]:
            tokens = self._run(block, tokens, None, None)
        return tokens

    def readout(
        self, tokens: torch.Tensor, start: int, positions: slice, key_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Outputs at `positions` only, before the final LayerNorm.

        The last block is computed for those tokens alone, which is exact: nobody reads the others.

        Args:
            tokens: (B, S, D), the input of block `start`.
            positions: which P tokens to read.
            key_mask: (B, S) bool, False where a token is to be treated as not there.

        Returns:
            (B, P, D)
        """
        *blocks, last = self._blocks[start:]
        for block in blocks:
            tokens = self._run(block, tokens, key_mask, None)
        return self._run(last, tokens, key_mask, positions)

    def read(
        self,
        tokens: torch.Tensor,
        start: int,
        positions: slice,
        key_mask: torch.Tensor | None = None,
        *,
        is_normalised: bool,
    ) -> torch.Tensor:
        """What a readout reads: outputs at `positions`, through the final LayerNorm where that is asked for.

        `SUMMARY` is the place of CLS. A family without one makes its summary of all own tokens instead.

        Args:
            tokens: (B, S, D), the input of block `start`.
            positions: which P tokens to read.
            key_mask: see `readout`.

        Returns:
            (B, P, D)
        """
        if self.encoder.pool is None or positions != SUMMARY:
            outputs = self.readout(tokens, start, positions, key_mask)
            return self.normalise(outputs) if is_normalised else outputs
        outputs = self.readout(tokens, start, slice(0, self.num_own), key_mask)  # (B, T, D)
        return self.summary(outputs, is_normalised=is_normalised)

    def summary(self, outputs: torch.Tensor, *, is_normalised: bool) -> torch.Tensor:
        """The one output (B, 1, D) that stands for an input, of its own tokens' outputs (B, T, D) of the last block."""
        pool = self.encoder.pool
        if pool is None:
            return self.normalise(outputs[:, SUMMARY]) if is_normalised else outputs[:, SUMMARY]
        if is_normalised and not pool.is_before_norm:
            outputs = self.normalise(outputs)
        pooled = pool(outputs)
        return self.normalise(pooled) if is_normalised and pool.is_before_norm else pooled

    def normalise(self, outputs: torch.Tensor) -> torch.Tensor:
        """The backbone's final LayerNorm."""
        return self.encoder.layernorm(outputs)

    @property
    def _blocks(self) -> list[Block]:
        return list(self.encoder.layers)  # type: ignore[arg-type]  # a ModuleList holds what was put in

    def _run(
        self, block: Block, tokens: torch.Tensor, mask: torch.Tensor | None, positions: slice | None
    ) -> torch.Tensor:
        """One block; with `recompute`, again for the gradient."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return block(tokens, mask, positions)
        keys = self.row_keys.current

        def again(tokens: torch.Tensor) -> torch.Tensor:
            self.row_keys.current = keys  # by the time a block is computed again, another pass may have set its own
            return block(tokens, mask, positions)

        return checkpoint(again, tokens, use_reentrant=False)  # type: ignore[return-value]
