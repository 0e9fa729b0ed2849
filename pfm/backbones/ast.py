"""AST (Gong et al., 2021, arXiv 2104.01778): log-mel features in patches that may overlap, CLS and distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Card, Family, HfConfig, Tensors
from pfm.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

    from pfm.data.inputs import Preprocess
    from pfm.data.sounds import SoundStorage

DEFAULT_MODEL = "MIT/ast-finetuned-audioset-10-10-0.4593"
# frames for which patches across are AST's own, where several lengths give as many
_LENGTHS = {101: 1024}
_BINS, _STRIDE = 128, 10  # of the model that its authors published


class Ast(Family):
    """AST on Kaldi's log-mel features."""

    name = "audio-spectrogram-transformer"
    title = "AST"
    default_model = DEFAULT_MODEL
    size_option = "max_length"
    noun = "sounds"
    final_norm = False  # as in the paper
    special_tokens = ("cls_token", "distillation_token")
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "ast_mini": {"max_length": 96, "num_mel_bins": 64, "patch_size": 16, "frequency_stride": 16, "time_stride": 16,
                     "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256},
        "ast_tiny": {"max_length": 1024, "num_mel_bins": 128, "patch_size": 16, "frequency_stride": 10,
                     "time_stride": 10, "hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3,
                     "intermediate_size": 768},
        "ast_base": {"max_length": 1024, "num_mel_bins": 128, "patch_size": 16, "frequency_stride": 10,
                     "time_stride": 10, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                     "intermediate_size": 3072},
    }  # fmt: skip

    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name=DEFAULT_MODEL, preset="ast_base", licence="BSD-3-Clause",
             good_at="sounds of every kind, of up to 10 s",
             source="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/commits/e6180fbf47364dc6f3f71f0a83b8cd4e66a626ac"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import ASTConfig, ASTModel

        return ASTConfig, ASTModel

    def resize(self, config: HfConfig, size: int, model_name: str) -> HfConfig:
        if size < config["patch_size"]:
            raise BackboneError(
                f"--max_length {size} is less than a patch of {model_name}, {config['patch_size']} frames"
            )
        return {**config, "max_length": size}

    def preprocess(self, config: HfConfig, processor: HfConfig, model_name: str) -> Preprocess:
        from pfm.data.sounds import AUDIOSET_MEAN, AUDIOSET_STD, SoundPreprocess

        bins = processor.get("num_mel_bins", _BINS)
        if bins != config["num_mel_bins"]:
            raise BackboneError(
                f"{model_name}: features of {bins} mel bins, but the model takes {config['num_mel_bins']}"
            )
        is_normalised = processor.get("do_normalize", True)
        return SoundPreprocess(
            max_length=config["max_length"],
            mean=processor.get("mean", AUDIOSET_MEAN) if is_normalised else 0.0,
            std=processor.get("std", AUDIOSET_STD) if is_normalised else 0.5,
            sampling_rate=processor.get("sampling_rate", 16_000),
            num_mel_bins=bins,
        )

    def read_processor(self, where: str) -> HfConfig:
        from transformers.feature_extraction_utils import FeatureExtractionMixin

        return FeatureExtractionMixin.get_feature_extractor_dict(where)[0]

    def storage(self, config: HfConfig, preprocess: Preprocess | None) -> SoundStorage:
        from pfm.data.sounds import SoundStorage

        rate = getattr(preprocess, "sampling_rate", 16_000)
        return SoundStorage(rate, config["num_mel_bins"])

    def input_shape(self, config: HfConfig) -> tuple[int, ...]:
        return (config["max_length"], config["num_mel_bins"])

    def grid(self, config: HfConfig) -> tuple[int, int]:
        patch = config["patch_size"]
        return (
            (config["num_mel_bins"] - patch) // config["frequency_stride"] + 1,
            (config["max_length"] - patch) // config["time_stride"] + 1,
        )

    def describe_size(self, config: HfConfig) -> str:
        return f"{config['max_length']} frames"

    def patch_embeddings(self, config: HfConfig) -> nn.Module:
        from pfm.backbones.patches import SoundPatches

        strides = (config["frequency_stride"], config["time_stride"])
        return SoundPatches(config["hidden_size"], config["patch_size"], strides)

    def patch_values(self, config: HfConfig) -> int:
        return config["patch_size"] ** 2

    def initial_weights(self, config: HfConfig) -> Tensors:
        if type(self) is not Ast:  # a family like this one, which the library may initialise in another way
            return super().initial_weights(config)
        from pfm.backbones.initial import drawn_weights

        return drawn_weights(self, config, draws_tokens=False)

    def config_of(self, weights: Tensors) -> HfConfig | None:
        if "embeddings.distillation_token" not in weights:
            return None
        patch = weights["embeddings.patch_embeddings.projection.weight"].shape[-1]
        patches = weights["embeddings.position_embeddings"].shape[1] - len(self.special_tokens)
        across = patches // ((_BINS - patch) // _STRIDE + 1)
        length = _LENGTHS.get(across, (across - 1) * _STRIDE + patch)
        return {
            "max_length": length, "num_mel_bins": _BINS, "frequency_stride": _STRIDE, "time_stride": _STRIDE,
        }  # fmt: skip

    def assumption(self) -> str:
        return f"features normalised as for {DEFAULT_MODEL}"


AST = Ast()
