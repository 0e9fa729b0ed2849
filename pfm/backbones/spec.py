"""A backbone by its configuration: which family, which size of input, what preprocessing; no weights loaded."""

import math
from dataclasses import dataclass, field, replace

import torch

from pfm.backbones.config import SCRATCH, BackboneConfig
from pfm.backbones.family import FAMILIES, PRESETS, Family, HfConfig, family_of
from pfm.backbones.hub import read_config
from pfm.backbones.limits import check_sizes
from pfm.data.inputs import Preprocess, Storage
from pfm.data.kinds import KINDS
from pfm.errors import BackboneError
from pfm.registry import load_plugins


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone by its configuration.

    Attributes:
        model_name: as the user gave it.
        config: the Hugging Face configuration, at the input size asked for.
        preprocess: what the pretrained backbone expects; None where training measures it on its data.
        was_sized: whether the user asked for the size of its input.
        commit: of the hub's repository that it is from; "" where it is from elsewhere, or that is not known.
    """

    model_name: str
    config: HfConfig
    preprocess: Preprocess | None = field(default=None)
    was_sized: bool = False
    commit: str = ""

    def __post_init__(self) -> None:
        check_sizes(self.config, self.model_name)

    @property
    def is_pretrained(self) -> bool:
        return not self.model_name.startswith(SCRATCH)

    @property
    def family(self) -> Family:
        return family_of(self.config, self.model_name)

    @property
    def storage(self) -> Storage:
        """How its inputs are stored."""
        return self.family.storage(self.config, self.preprocess)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one model input: (3, S, S), or (L, M) or (n,) for sounds."""
        return self.family.input_shape(self.config)

    def describe_size(self) -> str:
        """The size of its input, for people."""
        return self.family.describe_size(self.config)

    def fitted(self, stored_shape: tuple[int, ...]) -> "BackboneSpec":
        """For inputs of a stored shape, where no size was asked for."""
        config = self.family.fitted(self.config, stored_shape)
        preprocess = None if self.preprocess is None else self.family.fitted_preprocess(self.preprocess, config)
        return replace(self, config=config, preprocess=preprocess)

    @property
    def is_fitted(self) -> bool:
        """Whether the size of its input follows from the data: neither the user nor pretraining says one."""
        return not self.was_sized and (self.preprocess is None or self.family.fits_data)

    @property
    def num_patches(self) -> int:
        """Tokens that the backbone makes of an input, besides the special ones."""
        return math.prod(self.family.grid(self.config))

    @property
    def num_special(self) -> int:
        """CLS, and AST's distillation token."""
        return self.family.num_special(self.config)

    @property
    def embedding_multiply_adds(self) -> float:
        """Of the matrix products that make the patches' tokens."""
        return self.family.embedding_multiply_adds(self.config)

    @property
    def token_multiply_adds(self) -> float:
        """Of a block for each token that asks, beside attention and MLP."""
        return self.family.token_multiply_adds(self.config)

    @property
    def mlp_weights(self) -> int:
        """Weights of the matrices of a block's MLP."""
        return self.family.block_shape(self.config).mlp_weights

    @property
    def pool_multiply_adds(self) -> float | None:
        """Of the pool that sums an input up; None where CLS does."""
        with torch.device("meta"):
            pool = self.family.pool(self.config)
        return None if pool is None else pool.multiply_adds(self.num_patches + self.num_special)

    @property
    def num_layers(self) -> int:
        return self.config["num_hidden_layers"]

    @property
    def hidden_size(self) -> int:
        return self.config["hidden_size"]


def describe_backbone(config: BackboneConfig) -> BackboneSpec:
    """Read a backbone's configuration, and nothing heavier.

    Raises:
        BackboneError: no such backbone, or one of a family that is not supported.
    """
    name, commit = config.model_name, ""
    if name.startswith(SCRATCH):
        if name.removeprefix(SCRATCH) not in PRESETS:
            load_plugins()
        preset = PRESETS.get(name.removeprefix(SCRATCH))
        if preset is None:
            raise BackboneError(f"no preset {name!r}; choose one of " + ", ".join(SCRATCH + key for key in PRESETS))
        family = family_of(preset, name)
        values = full_config(family, {"layer_norm_eps": 1e-6, **preset})
        processor = None
    else:
        family, values, processor, commit = read_config(name, config.revision)
    try:
        values = _at_asked_size(family, values, config)
        preprocess = None if processor is None else family.preprocess(values, processor, name)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BackboneError(
            f"{name} is described in a way that cannot be meant ({type(error).__name__}: {error})"
        ) from error
    was_sized = config.image_size is not None or config.max_length is not None
    return BackboneSpec(model_name=name, config=values, preprocess=preprocess, was_sized=was_sized, commit=commit)


def default_model(kind: str) -> str:
    """The hub id that is taken for inputs of a kind where the user names none.

    Raises:
        BackboneError: no family has one for that kind.
    """
    noun = KINDS.get(kind).storage.noun
    found = next((family.default_model for family in FAMILIES if family.noun == noun and family.default_model), None)
    if found is None:
        raise BackboneError(f"there is no default backbone for {noun}; give one with --model_name")
    return found


def full_config(family: Family, values: HfConfig) -> HfConfig:
    """Values with the library's defaults for all that they leave out."""
    from transformers import CONFIG_MAPPING

    # the library's model, which takes seconds more to import, is not needed for that
    config_class = CONFIG_MAPPING[family.name] if family.name in CONFIG_MAPPING else family.hf_classes()[0]
    given = {key: value for key, value in values.items() if key != "model_type"}
    return family.completed(config_class(**given).to_dict())


def _at_asked_size(family: Family, values: HfConfig, config: BackboneConfig) -> HfConfig:
    """The configuration at the size that was asked for, by the family's own option."""
    asked = {"image_size": config.image_size, "max_length": config.max_length}
    size = asked.pop(family.size_option)
    for other, given in asked.items():
        if given is not None:
            owner = next(known for known in FAMILIES if known.size_option == other)
            raise BackboneError(
                f"--{other} is for {owner.noun}; {config.model_name} takes {family.noun} (--{family.size_option})"
            )
    return family.resize(values, size or values[family.size_option], config.model_name)
