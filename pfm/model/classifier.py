"""The prompted classifier (Hendrix et al., 2025, arXiv 2509.15230) and its two readouts.

Letters: B batch, C classes in the bank, s prompts an example sees, m tokens per prompt,
T tokens of the backbone, D hidden size.

Which prompts an example sees is said by a tensor `present`, in one of two forms:

- gathered, (B, s) int64: positions of the prompts, the same number for every example. No
  attention mask is needed; this is the fast form.
- masked, (B, C) bool: True where a prompt is there. Masking a prompt as an attention key equals
  removing it.

Logits are always (B, C). With the `prompt` readout an absent class has the logit -inf.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from pfm.backbones.backbone import Backbone
from pfm.classes import ClassList
from pfm.errors import ConfigError
from pfm.model.bank import PromptBank
from pfm.model.lora import LoraSettings, add_adapters
from pfm.options import option

READOUTS = ("cls", "prompt")
WRONG_TARGETS = ("uniform", "others", "none")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What stands around the backbone."""

    readout: str = option(
        "cls", "Where classes are read: at CLS (the paper), or each at its own prompt.", choices=READOUTS
    )
    wrong_target: str = option(
        "uniform",
        "Target when the own prompt is absent: uniform; others, what the model says of the other classes "
        "(--readout cls only); or none, an `unknown` answer (--readout prompt only).",
        choices=WRONG_TARGETS,
    )
    tune: str = option(
        "auto",
        "What trains beside prompts and readout: LoRA adapters, the whole backbone, or nothing (prompts). "
        "auto: lora where weights are pretrained, else full.",
        choices=("auto", "lora", "full", "prompts"),
    )
    prompt_tokens: int = option(1, "Tokens per prompt.", minimum=1)
    prompt_layer: int = option(0, "Block before which the prompts enter; LoRA sits on this block and above.", minimum=0)
    final_norm: bool = option(False, "Apply the backbone's final LayerNorm before the readout.")
    abstain: float = option(
        0.0,
        "Answer `unknown` below a largest probability that this share of held-out samples stays under; 0: never.",
        minimum=0.0,
    )

    def __post_init__(self) -> None:
        if self.wrong_target == "none" and self.readout != "prompt":
            raise ConfigError("--wrong_target none needs --readout prompt; the cls readout has no score per prompt")
        if self.wrong_target == "others" and self.readout != "cls":
            raise ConfigError("--wrong_target others needs --readout cls; the prompt readout scores only what is there")
        if self.abstain >= 1:
            raise ConfigError(f"--abstain {self.abstain:g} gives up every answer; give a share below 1, such as 0.05")
        if self.abstain and self.wrong_target == "none":
            raise ConfigError("--abstain is for models without an `unknown` output; --wrong_target none has one")

    def resolve_tune(self, *, is_pretrained: bool) -> str:
        if self.tune == "auto":
            return "lora" if is_pretrained else "full"
        return self.tune


class PromptedClassifier(nn.Module):
    """A backbone that sees some of the class prompts, and a readout."""

    def __init__(self, backbone: Backbone, classes: ClassList, config: ModelConfig, lora: LoraSettings | None) -> None:
        """
        Args:
            lora: adapters to put in, the backbone frozen; None trains the whole backbone, or with
                `tune` "prompts" nothing of it.

        Raises:
            ConfigError: `prompt_layer` is not a block of this backbone.
        """
        super().__init__()
        if config.prompt_layer >= backbone.num_layers:
            raise ConfigError(
                f"--prompt_layer {config.prompt_layer} is too deep: "
                f"the backbone has blocks 0 to {backbone.num_layers - 1}"
            )
        self.config = config
        self.classes = classes
        self.backbone = backbone
        self.trunk_is_frozen = lora is not None or config.tune == "prompts"
        if config.tune == "prompts":
            backbone.requires_grad_(False)
        if lora is not None:
            add_adapters(backbone.encoder, lora, first_layer=config.prompt_layer, num_layers=backbone.num_layers)
        backbone.key_dropout()
        if not config.final_norm:  # never applied, so never trained
            backbone.encoder.layernorm.requires_grad_(False)  # type: ignore[union-attr]
        self.bank = PromptBank(len(classes), config.prompt_tokens, backbone.hidden_size)
        if config.readout == "cls":
            self.classifier = nn.Linear(backbone.hidden_size, len(classes))
        else:
            self.scorer = nn.Linear(backbone.hidden_size, 1)
        self.unknown_below = 0.0  # see `pfm.model.abstention`

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def has_unknown(self) -> bool:
        """Whether the model has an output that says that an input is none of the active classes."""
        return self.config.wrong_target == "none"

    @property
    def copies_others(self) -> bool:
        """Whether the target without the own prompt is the model's own answer over the other classes."""
        return self.config.wrong_target == "others"

    @property
    def can_abstain(self) -> bool:
        """Whether an answer can be `unknown`, by such an output or by a threshold."""
        return self.has_unknown or self.unknown_below > 0

    def trunk(self, inputs: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, D) before the prompts enter: the same whichever prompts are present."""
        return self.backbone.run_blocks(self.backbone.embed(inputs), 0, self.config.prompt_layer)

    def head(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) from the trunk's tokens (B, T, D) and the prompts that are `present`."""
        is_masked = present.dtype == torch.bool
        if self.config.readout == "prompt" and present.shape[1] == 0:  # nothing to read
            return tokens.new_full((len(tokens), self.num_classes), -torch.inf, dtype=torch.float32)
        prompts = self.bank.everyone(len(tokens)) if is_masked else self.bank.gather(present)
        num_own = tokens.shape[1]
        tokens = torch.cat([tokens, prompts.to(tokens.dtype)], dim=1)  # (B, T + s·m, D)
        key_mask = None
        if is_masked:
            own = present.new_ones(len(present), num_own)
            key_mask = torch.cat([own, present.repeat_interleave(self.config.prompt_tokens, dim=1)], dim=1)
        positions = slice(0, 1) if self.config.readout == "cls" else slice(num_own, None)
        outputs = self.backbone.readout(tokens, self.config.prompt_layer, positions, key_mask)
        if self.config.final_norm:
            outputs = self.backbone.normalise(outputs)
        return self._score(outputs.float(), present)

    def forward(
        self,
        inputs: torch.Tensor,
        presents: Sequence[torch.Tensor],
        *,
        row_keys: torch.Tensor | None = None,
        from_tokens: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """Logits (B, C) for each of several choices of present prompts.

        The trunk runs once. Choices with equally many prompts go through the blocks above it as one
        batch.

        Args:
            inputs: (B, …) model input, or what `trunk` made of it.
            presents: one or more choices, gathered or masked.
            row_keys: (number of choices, B) int32, of the dropout masks; None draws them from torch's generator.
            from_tokens: `inputs` are the trunk's tokens (B, T, D).
        """
        keys = self.backbone.row_keys
        keys.current = None if row_keys is None else row_keys[0]
        tokens = inputs if from_tokens else self.trunk(inputs)
        first = presents[0]
        # compared and not hashed: torch.compile would make a graph for every number of prompts
        if len(presents) > 1 and all(p.dtype == first.dtype and p.shape[1] == first.shape[1] for p in presents):
            keys.current = None if row_keys is None else row_keys.flatten()
            repeated = tokens.repeat(len(presents), 1, 1)  # (choices · B, T, D)
            return self.head(repeated, torch.cat(list(presents))).chunk(len(presents))
        logits = []
        for number, present in enumerate(presents):
            keys.current = None if row_keys is None else row_keys[number]
            logits.append(self.head(tokens, present))
        return tuple(logits)

    def train(self, mode: bool = True) -> Self:
        """Training mode; a frozen trunk stays as in evaluation, so that its tokens never change."""
        super().train(mode)
        if mode and self.trunk_is_frozen:
            self.backbone.freeze_first(self.config.prompt_layer)
        return self

    def store_frozen(self, dtype: torch.dtype) -> None:
        """Keep the frozen weights in `dtype`; what trains, and the loss, stay float32."""
        trained = {id(tensor) for tensor in self.trained_tensors().values()}
        for tensor in self.backbone.parameters():
            if id(tensor) not in trained:
                tensor.data = tensor.data.to(dtype)

    def logits(self, inputs: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        return self(inputs, (present,))[0]

    def _score(self, outputs: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        with torch.autocast(outputs.device.type, enabled=False):
            if self.config.readout == "cls":
                return self.classifier(outputs[:, 0])
            return self._scatter(self.score_prompts(outputs), present)

    def score_prompts(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs at the prompt tokens (B, s·m, D) -> one score a prompt (B, s), its tokens averaged."""
        return self.scorer(outputs.unflatten(1, (-1, self.config.prompt_tokens)).mean(dim=2)).squeeze(-1)

    def _scatter(self, scores: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        if present.dtype == torch.bool:
            return scores.masked_fill(~present, -torch.inf)
        absent = scores.new_full((len(scores), self.num_classes), -torch.inf)
        return absent.scatter(1, present, scores)

    def predict(self, logits: torch.Tensor) -> torch.Tensor:
        """Position of the winning class (B,); -1 for `unknown`, and where no prompt is active to win."""
        best, winner = logits.max(dim=1)
        if self.has_unknown:
            return torch.where(best > 0, winner, -1)
        is_sure = best > -torch.inf
        if self.unknown_below:  # nan where nothing is active
            is_sure &= logits.softmax(dim=1).amax(dim=1) >= self.unknown_below
        return torch.where(is_sure, winner, -1)

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds: every trained parameter, by name."""
        return {name: tensor for name, tensor in self.named_parameters() if tensor.requires_grad}


# names of the parameters that have one row for each class, whichever readout
CLASS_ROWS = ("bank.prompts", "classifier.weight", "classifier.bias")
