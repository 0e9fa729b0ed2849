"""The prompted classifier (Hendrix et al., 2025, arXiv 2509.15230): a backbone that sees class prompts, and a readout.

Letters: B batch, C classes in the bank, s prompts an example sees, m tokens per prompt,
T tokens of the backbone, D hidden size.

Which prompts an example sees is said by a tensor `present`, (B, s) int64: positions of the prompts, the same number
for every example, so that no attention mask is needed.

Logits are always (B, C); -inf where the readout has no score for a class.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn

from pfm.backbones.backbone import Backbone
from pfm.backbones.spec import BackboneSpec
from pfm.classes import ClassList
from pfm.errors import ConfigError
from pfm.model.bank import PromptBank
from pfm.model.config import LoraSettings, ModelConfig
from pfm.model.decoys import Decoys
from pfm.model.lora import add_adapters
from pfm.model.passing import Passing
from pfm.model.readouts import READOUTS
from pfm.model.targets import TARGETS


def check_depth(config: ModelConfig, spec: BackboneSpec) -> None:
    """Refuse prompts that would enter where a backbone has no block; it need not be loaded for that.

    Raises:
        ConfigError: they would.
    """
    if spec.num_layers == 0 and READOUTS.get(config.readout).sees_prompts:
        raise ConfigError(
            f"{spec.model_name} has no blocks for prompts to enter; it is for --readout ridge --features raw"
        )
    if config.prompt_layer >= max(1, spec.num_layers):
        raise ConfigError(
            f"--prompt_layer {config.prompt_layer} is too deep: the backbone has blocks 0 to {spec.num_layers - 1}"
        )


class PromptedClassifier(nn.Module):
    """A backbone that sees some of the class prompts, and a readout.

    Attributes:
        readout: how scores come of the backbone's outputs.
        target: what is aimed at where the own prompt is absent.
        unknown_below: largest probability under which the answer is `unknown`; 0 where there is no such threshold.
    """

    def __init__(self, backbone: Backbone, classes: ClassList, config: ModelConfig, lora: LoraSettings | None) -> None:
        """
        Args:
            lora: adapters to put in, the backbone frozen; None trains the whole backbone, or with
                `tune` "prompts" nothing of it.

        Raises:
            ConfigError: `prompt_layer` is not a block of this backbone.
        """
        super().__init__()
        readout = READOUTS.get(config.readout)
        check_depth(config, backbone.spec)
        config = config.resolved(has_final_norm=backbone.spec.family.final_norm)
        self.config = config
        self.classes = classes
        self.backbone = backbone
        self.readout = readout
        self.target = TARGETS.get(config.wrong_target)
        self.trunk_is_frozen = lora is not None or config.tune == "prompts"
        if config.tune == "prompts":
            backbone.requires_grad_(False)
        if lora is not None:
            add_adapters(backbone, lora, first_layer=config.prompt_layer)
        if not config.final_norm:  # never applied, so never trained
            backbone.encoder.layernorm.requires_grad_(False)
        self.bank = PromptBank(len(classes), config.prompt_tokens, self.row_size)
        for name, part in readout.parts_of(self).items():
            self.add_module(name, part)
        self.unknown_below = 0.0  # see `pfm.model.abstention`

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def row_size(self) -> int:
        """Numbers of a class's row, and of a token of a prompt."""
        return self.readout.row_size(self)

    @property
    def num_tokens(self) -> int:
        """T, the tokens that the trunk makes of an input."""
        return self.readout.num_tokens(self)

    @property
    def has_trunk(self) -> bool:
        """Whether a part of the work is the same whichever prompts are present."""
        return self.config.has_trunk

    @property
    def unknown_logit(self) -> float:
        """The logit of an `unknown` answer, which competes with the classes'; -inf where there is none."""
        return self.target.unknown_logit

    @property
    def can_abstain(self) -> bool:
        """Whether an answer can be `unknown`, by an output of its own or by a threshold."""
        return self.unknown_logit > -torch.inf or self.unknown_below > 0

    @property
    def class_row_names(self) -> tuple[str, ...]:
        """Names of the parameters that have one row for each class."""
        return (BANK, *self.readout.class_rows)

    def decoys(self, count: int) -> tuple[int, int, int] | None:
        """(d, m, D) of so many decoys; None of none."""
        return (count, self.config.prompt_tokens, self.row_size) if count else None

    def trunk(self, inputs: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, D) before the prompts enter: the same whichever prompts are present."""
        return self.readout.trunk(self, inputs)

    def head(
        self,
        tokens: torch.Tensor,
        present: torch.Tensor,
        passing: Passing | None = None,
        decoys: Decoys | None = None,
    ) -> torch.Tensor:
        """Logits (B, C) from the trunk's tokens (B, T, D) and the prompts that are `present` (B, s).

        Args:
            passing: how much of the gradient reaches other classes; None is all of it.
            decoys: prompts of no class that are shown too, where each prompt has a score; their scores stand behind
                the logits, (B, C + d), but where no prompt is present.
        """
        if present.shape[1] == 0 and not self.readout.scores_absent:  # nothing to read
            return tokens.new_full((len(tokens), self.num_classes), -torch.inf, dtype=torch.float32)
        prompts = self.bank.gather(present)
        if passing is not None:
            prompts = passing.prompts(prompts, present)
        if decoys is not None:
            prompts = self.bank.with_decoys(prompts, decoys)
        outputs = self.read(tokens, prompts)
        weight, bias = self.readout.weights(self)
        with torch.autocast(outputs.device.type, enabled=False):
            scores = self.readout.score(outputs.float(), weight, bias, prompt_tokens=self.config.prompt_tokens)
            if passing is not None and self.readout.class_rows:
                rows = passing.reduced(weight), passing.reduced(bias)
                reduced = self.readout.score(outputs.float(), *rows, prompt_tokens=self.config.prompt_tokens)
                scores = passing.scores(scores, reduced)
        if decoys is None:
            return self.readout.by_class(scores, present, self.num_classes)
        own, others = scores[:, : present.shape[1]], scores[:, present.shape[1] :]
        return torch.cat([self.readout.by_class(own, present, self.num_classes), others], dim=1)

    def read(self, tokens: torch.Tensor, prompts: torch.Tensor, key_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs (B, P, D) of the tokens that the readout reads.

        Args:
            tokens: (B, T, D), the trunk's.
            prompts: (B, s·m, D).
            key_mask: (B, T + s·m) bool, False where a token is to be treated as not there.
        """
        return self.readout.read(self, tokens, prompts, key_mask)

    def forward(
        self,
        inputs: torch.Tensor,
        presents: Sequence[torch.Tensor],
        *,
        row_keys: torch.Tensor | None = None,
        from_tokens: bool = False,
        passing: Passing | None = None,
        decoys: Decoys | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Logits (B, C) for each of several choices of present prompts.

        The trunk runs once. Choices with equally many prompts go through the blocks above it as one
        batch.

        Args:
            inputs: (B, …) model input, or what `trunk` made of it.
            presents: one or more choices (B, s).
            row_keys: (number of choices, B) int32, of the dropout masks; None draws them from torch's generator.
            from_tokens: `inputs` are the trunk's tokens (B, T, D).
            passing: how much of the gradient reaches other classes; None is all of it.
            decoys: see `head`.
        """
        keys = self.backbone.row_keys
        keys.current = None if row_keys is None else row_keys[0]
        tokens = inputs if from_tokens else self.trunk(inputs)
        # compared and not hashed: torch.compile would make a graph for every number of prompts
        if len(presents) > 1 and all(present.shape[1] == presents[0].shape[1] for present in presents):
            keys.current = None if row_keys is None else row_keys.flatten()
            repeated = tokens.repeat(len(presents), 1, 1)  # (choices · B, T, D)
            together = None if passing is None else passing.repeated(len(presents))
            return self.head(repeated, torch.cat(list(presents)), together, decoys).chunk(len(presents))
        logits = []
        for number, present in enumerate(presents):
            keys.current = None if row_keys is None else row_keys[number]
            logits.append(self.head(tokens, present, passing, decoys))
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

    def predict(self, logits: torch.Tensor) -> torch.Tensor:
        """Position of the winning class (B,); -1 for `unknown`, and where no prompt is active to win."""
        best, winner = logits.max(dim=1)
        is_sure = best > self.unknown_logit
        if self.unknown_below:  # nan where nothing is active
            is_sure &= logits.softmax(dim=1).amax(dim=1) >= self.unknown_below
        return torch.where(is_sure, winner, -1)

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Every trained parameter, by name."""
        return {name: tensor for name, tensor in self.named_parameters() if tensor.requires_grad}

    def stored_tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds: every trained parameter, and what else the readout needs, by name."""
        return {**self.trained_tensors(), **{name: self.get_buffer(name) for name in self.readout.stored}}


BANK = "bank.prompts"


def class_row_names() -> tuple[str, ...]:
    """Names of the parameters that have one row for each class, whichever readout."""
    return (BANK, *dict.fromkeys(name for readout in READOUTS for name in readout.class_rows))
