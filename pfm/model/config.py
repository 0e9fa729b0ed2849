"""What stands around the backbone: readout, target, prompts and adapters, as options."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pfm.errors import ConfigError
from pfm.exact.config import ExactConfig
from pfm.model.readouts import READOUTS
from pfm.model.starts import STARTS
from pfm.model.targets import TARGETS
from pfm.options import Section, expand_paths, option


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ExactConfig):
    """What stands around the backbone."""

    section: ClassVar = Section.MODEL
    readout: str = option(
        "cls",
        "Where classes are read: cls, at CLS (the paper); prompt, each at its own prompt; ridge, on frozen features, "
        "solved in one pass and forgotten exactly.",
        choices=READOUTS.names,
    )
    wrong_target: str = option(
        "uniform",
        "Target when the own prompt is absent: uniform; others, what the model says of the other classes "
        "(with --readout prompt four classes at least); or none, an `unknown` answer (--readout prompt only).",
        choices=TARGETS.names,
    )
    tune: str = option(
        "auto",
        "What trains beside prompts and readout: LoRA adapters, the whole backbone, or nothing (prompts). "
        "auto: lora where weights are pretrained, else full.",
        choices=("auto", "lora", "full", "prompts"),
    )
    prompt_tokens: int = option(1, "Tokens per prompt.", minimum=1)
    prompt_layer: int = option(0, "Block before which the prompts enter; LoRA sits on this block and above.", minimum=0)
    final_norm: bool | None = option(
        None,
        "Apply the backbone's final LayerNorm before the readout.  [default: the family's own; no for ViT and AST, as "
        "in the paper]",
    )
    abstain: float = option(
        0.0,
        "Answer `unknown` below a largest probability that this share of held-out samples stays under, or with "
        "--readout ridge of stored samples, each asked of the fit without it; 0: never.",
        minimum=0.0,
    )

    def __post_init__(self) -> None:
        target, readout = TARGETS.get(self.wrong_target), READOUTS.get(self.readout)
        misfit = readout.misfit(self)
        if misfit:
            raise ConfigError(misfit)
        misfit = target.misfit(readout)
        if misfit:
            raise ConfigError(f"--wrong_target {self.wrong_target} does not go with --readout {self.readout}: {misfit}")
        if self.abstain >= 1:
            raise ConfigError(f"--abstain {self.abstain:g} gives up every answer; give a share below 1, such as 0.05")
        if self.abstain and target.unknown_logit > -math.inf:
            raise ConfigError(
                f"--abstain is for models without an `unknown` output; --wrong_target {self.wrong_target} has one"
            )

    def resolved(self, *, has_final_norm: bool) -> "ModelConfig":
        """With what the user left to the backbone's family."""
        if self.final_norm is not None:
            return self
        return dataclasses.replace(self, final_norm=has_final_norm)

    @property
    def held_out_for(self) -> float:
        """The share of answers to give up, where that asks for held-out samples; else 0."""
        return self.abstain if READOUTS.get(self.readout).holds_out else 0.0

    @property
    def has_trunk(self) -> bool:
        """Whether a part of the work is the same whichever prompts are present."""
        return self.prompt_layer > 0 or not READOUTS.get(self.readout).sees_prompts

    def resolve_tune(self, *, is_pretrained: bool) -> str:
        if self.tune == "auto":
            return "lora" if is_pretrained else "full"
        return self.tune


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where the prompt and the classifier row of a class start."""

    section: ClassVar = Section.MODEL
    prompt_start: str = option(
        "data",
        "Where prompts and classifier rows start: data, random numbers from --seed and each class's first 64 training "
        "samples, which whoever has those (everybody, of public data) can draw again; secret, from a key a class, "
        "which is not kept; common, one small vector for all; seed, from --seed alone (the paper's): anybody can.",
        choices=STARTS.names,
    )
    init_key: str = option(
        "", "With --prompt_start secret: file that keeps the keys, a line a class; made where there is none.",
        is_path=True,
    )  # fmt: skip

    prompt_lr: float = option(
        0.0,
        "Learning rate of the prompts, as a multiple of --lr; 0: what the start needs, 10 for common and 1 for others.",
        minimum=0.0,
    )

    def __post_init__(self) -> None:
        expand_paths(self)
        if self.init_key:  # so that whoever erases a class finds it
            object.__setattr__(self, "init_key", str(Path(self.init_key).absolute()))

    def check(self) -> None:
        """Refuse a file of keys for a start that keeps none; of a run, whose start a recipe may have chosen.

        Raises:
            ConfigError: so it is.
        """
        if self.init_key and not STARTS.get(self.prompt_start).keeps_keys:
            raise ConfigError(
                f"--init_key is for starts from keys that are kept, and --prompt_start {self.prompt_start} takes none; "
                "give --prompt_start secret, or leave --init_key out"
            )

    def resolve_prompt_lr(self) -> float:
        return self.prompt_lr or STARTS.get(self.prompt_start).prompt_lr


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Rank, scale and dropout of the adapters."""

    section: ClassVar = Section.LORA
    lora_r: int = option(4, "Rank of the LoRA adapters on the query and value projections.", minimum=1)
    lora_alpha: int = option(4, "Scale of the adapters; their output is multiplied by alpha / r.", minimum=1)
    lora_dropout: float = option(0.1, "Dropout in front of the adapters.", minimum=0.0)

    def __post_init__(self) -> None:
        if self.lora_dropout >= 1:
            raise ConfigError(f"--lora_dropout {self.lora_dropout} drops everything; give a value below 1")
