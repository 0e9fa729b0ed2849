"""What a family of backbones has to say of itself, and the registry of families."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pfm.errors import BackboneError
from pfm.registry import Registry, load_plugins

if TYPE_CHECKING:  # families are listed by `--help`, which needs no torch
    import torch
    from torch import nn

    from pfm.backbones.dropout import RowKeys
    from pfm.backbones.encoder import Block, BlockShape, Encoder
    from pfm.backbones.pools import Pool
    from pfm.data.inputs import Preprocess, Storage

HfConfig: TypeAlias = Mapping[str, Any]  # a configuration as Hugging Face's `config.json` has it
Tensors: TypeAlias = "dict[str, torch.Tensor]"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a published model's card says, for people who choose.

    Attributes:
        model_name: its hub id.
        preset: the preset of its shape, without the weights.
        licence: as the card has it.
        is_gated: whether the hub asks to accept terms first.
        good_at: what it is taken for, in a few words.
        source: page that the licence was read on; "" where it was not checked.
    """

    model_name: str
    preset: str
    licence: str
    is_gated: bool = False
    good_at: str = ""
    source: str = ""


class Family(ABC):
    """One family: which configurations it takes, its presets, its parts, its input.

    A family of pre-norm blocks says what is abstract here; the rest has answers that fit most of them.

    Attributes:
        name: `model_type` of its configurations.
        title: what people call it.
        default_model: the hub id that is taken where the user names none; "" where the family is nobody's default.
        presets: shapes without pretrained weights, by name.
        adapter_targets: names of the projections that adapters sit on.
        special_tokens: names of the parameters of its special tokens, in order; CLS is the first.
        final_norm: whether what is read goes through the final LayerNorm, where the user does not say.
        interpolation: how positions are brought to another grid: torch's mode, and whether with antialiasing.
        renames: patterns of the library's names of weights, and what is put in their place, one after the other.
        cards: published models of the family, for `pfm backbones`.
        size_option: the option that changes the size of its input.
        noun: what its inputs are, in the plural.
        model_settings: what transformers' model class is to be given beside the configuration.
        is_ragged: whether inputs differ in length, and become tokens that some of them do not have.
        fits_data: whether the input is as long as the data's longest, where no size was asked for; else that is so only
            of models without pretrained weights.
        unneeded: the library's weights that a forward of ours does without, and a file need not have.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    default_model: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, HfConfig]] = {}
    adapter_targets: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")
    special_tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    size_option: ClassVar[str]
    noun: ClassVar[str]
    model_settings: ClassVar[Mapping[str, Any]] = {}
    final_norm: ClassVar[bool] = True
    interpolation: ClassVar[tuple[str, bool]] = ("bicubic", False)
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    cards: ClassVar[tuple[Card, ...]] = ()
    is_ragged: ClassVar[bool] = False
    fits_data: ClassVar[bool] = False
    unneeded: ClassVar[tuple[str, ...]] = ()

    # --- what a family has to say -----------------------------------------------------------------

    @abstractmethod
    def hf_classes(self) -> tuple[Any, Any]:
        """transformers' configuration and model class; imported when asked for."""

    @abstractmethod
    def resize(self, config: HfConfig, size: int, model_name: str) -> HfConfig:
        """The configuration at another input size.

        Raises:
            BackboneError: the family does not take that size.
        """

    @abstractmethod
    def preprocess(self, config: HfConfig, processor: HfConfig, model_name: str) -> Preprocess:
        """What a processor's file says of the input.

        Raises:
            BackboneError, ConfigError: it does not fit the configuration, or is not supported.
        """

    @abstractmethod
    def read_processor(self, where: str) -> HfConfig:
        """The processor's file of a folder or hub id.

        Raises:
            OSError: there is none.
        """

    @abstractmethod
    def storage(self, config: HfConfig, preprocess: Preprocess | None) -> Storage:
        """How inputs are stored before they are made into model input."""

    @abstractmethod
    def input_shape(self, config: HfConfig) -> tuple[int, ...]:
        """Of one model input, the batch left out."""

    @abstractmethod
    def grid(self, config: HfConfig) -> tuple[int, int]:
        """Patches down and across."""

    @abstractmethod
    def describe_size(self, config: HfConfig) -> str:
        """The size of the input, for people."""

    @abstractmethod
    def patch_embeddings(self, config: HfConfig) -> nn.Module:
        """A module that makes the patches' tokens of model input: (B, …) -> (B, N, D)."""

    @abstractmethod
    def patch_values(self, config: HfConfig) -> int:
        """Numbers of the input that one patch's token is made of."""

    @abstractmethod
    def config_of(self, weights: Tensors) -> HfConfig | None:
        """The configuration that weights imply where no file says it; None where they are not of this family."""

    @abstractmethod
    def assumption(self) -> str:
        """What is assumed of the input's normalisation where no file says it, for a note."""

    # --- what fits most families ------------------------------------------------------------------

    def block_shape(self, config: HfConfig) -> BlockShape:
        """What a block is made of."""
        from pfm.backbones.encoder import BlockShape

        return BlockShape(
            hidden_size=config["hidden_size"],
            num_heads=config["num_attention_heads"],
            intermediate_size=config["intermediate_size"],
            layer_norm_eps=config["layer_norm_eps"],
            qkv_bias=config.get("qkv_bias", True),
            activation=config.get("hidden_act", "gelu"),
            dropout=config.get("hidden_dropout_prob", 0.0),
            attention_dropout=config.get("attention_probs_dropout_prob", 0.0),
        )

    def special(self, config: HfConfig) -> Mapping[str, int]:
        """Names of the special tokens' parameters, in order, and how many tokens each is."""
        del config
        return dict.fromkeys(self.special_tokens, 1)

    def num_placed(self, config: HfConfig) -> int:
        """Special tokens, from the first, that have a position."""
        return self.num_special(config)

    def embedding_multiply_adds(self, config: HfConfig) -> float:
        """Of the matrix products that make the patches' tokens of one input."""
        down, across = self.grid(config)
        return down * across * self.patch_values(config) * config["hidden_size"]

    def can_leave_norm(self, config: HfConfig) -> bool:
        """Whether there is a LayerNorm behind the last block that can be left out (`--no_final_norm`)."""
        del config
        return True

    def token_multiply_adds(self, config: HfConfig) -> float:
        """Of a block's matrix products for each token that asks, beside those of attention and MLP."""
        del config
        return 0.0

    def pool(self, config: HfConfig) -> Pool | None:
        """What sums an input up; None where CLS does."""
        del config
        return None

    def embeddings(self, config: HfConfig, keys: RowKeys) -> nn.Module:
        """What makes the backbone's own tokens: (B, …) -> (B, T, D)."""
        from pfm.backbones.encoder import Embeddings

        down, across = self.grid(config)
        patches, placed = self.patch_embeddings(config), self.num_placed(config)
        shape = self.block_shape(config)
        return Embeddings(self.special(config), patches, down * across, shape, keys, num_placed=placed)

    def block(self, config: HfConfig, number: int, keys: RowKeys) -> Block:
        """Block `number`, counted from 0."""
        from pfm.backbones.encoder import Block

        return Block(self.block_shape(config), number, keys)

    def encoder(self, config: HfConfig) -> Encoder:
        """The whole encoder, its weights not filled in."""
        from pfm.backbones.dropout import RowKeys
        from pfm.backbones.encoder import Encoder

        keys = RowKeys()
        blocks = [self.block(config, number, keys) for number in range(config["num_hidden_layers"])]
        return Encoder(self.embeddings(config, keys), blocks, self.block_shape(config), keys, self.pool(config))

    def completed(self, config: HfConfig) -> HfConfig:
        """The library's configuration with what the house asks of each: the family's option of size among them.

        Raises:
            BackboneError: a configuration that the family has, and the house does not support.
        """
        return config

    def architecture(self, config: HfConfig) -> str:
        """What the field calls the model of a configuration."""
        del config
        return self.hf_classes()[1].__name__

    def owns(self, raw: Mapping[str, Any]) -> bool:
        """Whether a `config.json` is in a layout of the family's own, which the library does not read."""
        del raw
        return False

    def read_layout(self, name: str, raw: Mapping[str, Any], commit: str = "") -> tuple[HfConfig, HfConfig]:
        """Configuration and processor of a folder or hub id that `owns` says is the family's own.

        Args:
            raw: its `config.json`.
            commit: of the hub's repository; "" is what its main branch is now, and a folder.

        Raises:
            BackboneError: it is not supported, or something is missing.
        """
        raise NotImplementedError

    def read_weights(self, name: str, commit: str = "") -> tuple[HfConfig, Tensors] | None:
        """Configuration and weights of a folder or hub id in a layout of the family's own; None: the library's layout.

        Raises:
            BackboneError: weights that are missing or cannot be read.
        """
        del name, commit
        return None

    def initial_weights(self, config: HfConfig) -> Tensors:
        """Weights from torch's generator, as the library initialises them, under its names."""
        config_class, model_class = self.hf_classes()
        dropped = (
            "model_type",
            "transformers_version",
            "architectures",
            "torch_dtype",
            "dtype",
            "id2label",
            "label2id",
        )
        given = {key: value for key, value in config.items() if key not in dropped and not key.startswith("_")}
        return model_class(config_class(**given), **self.model_settings).state_dict()

    def names(self, weights: Tensors) -> Tensors:
        """The library's weights under our names; the same names in most families."""
        if not self.renames:
            return weights
        renamed: Tensors = {}
        for name, tensor in weights.items():
            renamed[rename(name, self.renames)] = tensor
        return renamed

    def at_size(self, weights: Tensors, old: HfConfig, new: HfConfig) -> Tensors:
        """Weights for another input size: position embeddings interpolated, by the family's own rule."""
        name = "embeddings.position_embeddings"
        if self.grid(old) == self.grid(new) or name not in weights:
            return weights
        import torch

        positions, specials = weights[name], self.num_placed(old)  # (1, specials + patches, D)
        own, patches = positions[:, :specials], positions[:, specials:]
        grid = patches.reshape(1, *self.grid(old), -1).permute(0, 3, 1, 2)  # (1, D, down, across)
        mode, antialias = self.interpolation
        grid = torch.nn.functional.interpolate(
            grid, size=self.grid(new), mode=mode, align_corners=False, antialias=antialias
        )
        patches = grid.permute(0, 2, 3, 1).reshape(1, -1, positions.shape[-1])
        # memory of its own: products of weights where a file was mapped differ in the last bit from those of a copy
        copies = {key: tensor.clone() for key, tensor in weights.items()}
        return {**copies, name: torch.cat([own, patches], dim=1).contiguous()}

    def fitted(self, config: HfConfig, stored_shape: tuple[int, ...]) -> HfConfig:
        """The configuration for inputs of a stored shape, where no size was asked for; most models have their own."""
        del stored_shape
        return config

    def fitted_preprocess(self, preprocess: Preprocess, config: HfConfig) -> Preprocess:
        """What a processor's file says of the input, for a configuration that `fitted` made."""
        del config
        return preprocess

    def constant_preprocess(self, config: HfConfig) -> Preprocess:
        """The input's normalisation where no pretrained one is known and none may be measured."""
        return self.storage(config, None).default_preprocess(self.input_shape(config))

    def feature_size(self, config: HfConfig, which: str) -> int:
        """Numbers of the feature vector that `features` makes."""
        return config["hidden_size"] * (2 if which == "both" else 1)

    def features(self, summary: torch.Tensor, patches: torch.Tensor, which: str) -> torch.Tensor:
        """(B, D) or (B, 2 D) of the last block: its summary (CLS where there is one), the mean of the patches, or both.

        Each is normalised per sample, with no parameters (Ba et al., 2016): nothing in it is measured on data.

        Args:
            summary: (B, 1, D).
            patches: (B, N, D).
            which: "cls", "mean" or "both".
        """
        import torch

        parts = {"cls": summary[:, 0], "mean": patches.mean(dim=1)}
        chosen = [parts[which]] if which in parts else [*parts.values()]
        width = summary.shape[-1:]
        return torch.cat([torch.nn.functional.layer_norm(part, width) for part in chosen], dim=1)

    def num_special(self, config: HfConfig) -> int:
        """Tokens in front of the patches."""
        return sum(self.special(config).values())


def rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """The name of a weight after each rule, a pattern and what is put in its place, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


FAMILIES: Registry[Family] = Registry("family of backbones")
# presets of all families by name, each with the `model_type` that it is of ("vit" where it says none)
PRESETS: dict[str, HfConfig] = {}


def register_family(family: Family) -> Family:
    """Make a family known, and its presets."""
    FAMILIES.register(family.name, family)
    PRESETS.update({name: {"model_type": family.name, **values} for name, values in family.presets.items()})
    return family


def family_of(config: HfConfig, model_name: str) -> Family:
    """The family of a configuration.

    Raises:
        BackboneError: there is none.
    """
    kind = config.get("model_type", "vit")
    if kind not in FAMILIES:
        load_plugins()
    if kind not in FAMILIES:
        *titles, last = (family.title for family in FAMILIES)
        raise BackboneError(f"{model_name} is a {kind!r} model; {', '.join(titles)} and {last} backbones are supported")
    return FAMILIES.get(kind)
