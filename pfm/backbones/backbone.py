"""ViT or AST behind a few calls: the one module that knows transformers.

Letters: B batch, T tokens as the backbone makes them (special tokens first), S tokens with the
prompts behind them, P tokens that are read out, D hidden size.

Prompts go *behind* the backbone's own tokens. They carry no position, so this gives the same
numbers as putting them in front, and keeps the readout token at index 0.
"""

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pfm.backbones.dropout import RowDropout, RowKeys, by_row
from pfm.data.images import ImageStorage, preprocess_from_hf
from pfm.data.inputs import Preprocess, Storage
from pfm.data.sounds import AUDIOSET_MEAN, AUDIOSET_STD, SoundPreprocess, SoundStorage
from pfm.errors import BackboneError
from pfm.hub import quiet_hub
from pfm.options import option

SCRATCH = "scratch:"

# shapes with no pretrained weights; the `_patch16_224` ones are those of the timm models of that name
PRESETS: dict[str, dict[str, int | float]] = {
    "vit_digits": {"image_size": 8, "patch_size": 4, "hidden_size": 64, "num_hidden_layers": 2,
                   "num_attention_heads": 4, "intermediate_size": 256, "hidden_dropout_prob": 0.2},
    "vit_mini": {"image_size": 32, "patch_size": 8, "hidden_size": 96, "num_hidden_layers": 4,
                 "num_attention_heads": 4, "intermediate_size": 384},
    "vit_tiny_patch16_224": {"image_size": 224, "patch_size": 16, "hidden_size": 192, "num_hidden_layers": 12,
                             "num_attention_heads": 3, "intermediate_size": 768},
    "vit_small_patch16_224": {"image_size": 224, "patch_size": 16, "hidden_size": 384, "num_hidden_layers": 12,
                              "num_attention_heads": 6, "intermediate_size": 1536},
    "vit_base_patch16_224": {"image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12,
                             "num_attention_heads": 12, "intermediate_size": 3072},
    "ast_mini": {"max_length": 96, "num_mel_bins": 64, "patch_size": 16, "frequency_stride": 16, "time_stride": 16,
                 "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256},
    "ast_tiny": {"max_length": 1024, "num_mel_bins": 128, "patch_size": 16, "frequency_stride": 10, "time_stride": 10,
                 "hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    "ast_base": {"max_length": 1024, "num_mel_bins": 128, "patch_size": 16, "frequency_stride": 10, "time_stride": 10,
                 "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}  # fmt: skip
IMAGE_DEFAULT, AUDIO_DEFAULT = "google/vit-base-patch16-224", "MIT/ast-finetuned-audioset-10-10-0.4593"
AST = "audio-spectrogram-transformer"


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone, at which input size."""

    model_name: str = option(
        IMAGE_DEFAULT,
        f"A hub id ({AUDIO_DEFAULT} by default for sounds), a local folder in Hugging Face layout, or scratch:NAME for "
        "a shape without pretrained weights (" + ", ".join(PRESETS) + ").",
    )
    image_size: int | None = option(
        None, "Side in pixels of the model's input; positions are interpolated.  [default: the backbone's]", minimum=1
    )
    max_length: int | None = option(
        None,
        "Frames (of 10 ms) of the model's input, for sounds; positions are interpolated.  [default: the backbone's]",
        minimum=16,
    )


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone by its configuration, no weights loaded.

    Attributes:
        model_name: as the user gave it.
        config: the Hugging Face configuration, at the input size asked for.
        preprocess: what the pretrained backbone expects; None where training measures it on its data.
    """

    model_name: str
    config: dict[str, Any]
    preprocess: Preprocess | None = field(default=None)

    @property
    def is_pretrained(self) -> bool:
        return not self.model_name.startswith(SCRATCH)

    @property
    def is_audio(self) -> bool:
        return self.config.get("model_type") == AST

    @property
    def image_size(self) -> int:
        """Side in pixels, of a backbone of images."""
        return self.config["image_size"]

    @property
    def storage(self) -> Storage:
        """How its inputs are stored."""
        if not self.is_audio:
            return ImageStorage(self.image_size)
        rate = self.preprocess.sampling_rate if isinstance(self.preprocess, SoundPreprocess) else 16_000
        return SoundStorage(rate, self.config["num_mel_bins"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one model input: (3, S, S), or (L, M) for sounds."""
        return input_shape(self.config)

    @property
    def num_patches(self) -> int:
        """Tokens that the backbone makes of an input, besides the special ones."""
        return math.prod(patch_grid(self.config))

    @property
    def num_special(self) -> int:
        """CLS, and AST's distillation token."""
        return num_special(self.config)

    @property
    def num_layers(self) -> int:
        return self.config["num_hidden_layers"]

    @property
    def hidden_size(self) -> int:
        return self.config["hidden_size"]


def describe_backbone(config: BackboneConfig) -> BackboneSpec:
    """Read a backbone's configuration, and nothing heavier.

    Raises:
        BackboneError: no such backbone, or neither ViT nor AST.
    """
    name = config.model_name
    if name.startswith(SCRATCH):
        preset = PRESETS.get(name.removeprefix(SCRATCH))
        if preset is None:
            raise BackboneError(f"no preset {name!r}; choose one of " + ", ".join(SCRATCH + key for key in PRESETS))
        kind = AST if "num_mel_bins" in preset else "vit"
        values = _hf_config({"model_type": kind, **preset, "layer_norm_eps": 1e-6}).to_dict()
        processor = None
    else:
        values, processor = _read_pretrained_config(name)
    if values["model_type"] == AST:
        return _describe_ast(config, values, processor)
    if config.max_length is not None:
        raise BackboneError(f"--max_length is for sounds; {name} takes images (--image_size)")
    size = config.image_size or values["image_size"]
    if size % values["patch_size"]:
        raise BackboneError(f"--image_size {size} is no multiple of the patch size {values['patch_size']} of {name}")
    preprocess = None if processor is None else preprocess_from_hf(processor, size)
    return BackboneSpec(model_name=name, config={**values, "image_size": size}, preprocess=preprocess)


def _describe_ast(config: BackboneConfig, values: dict[str, Any], processor: dict[str, Any] | None) -> BackboneSpec:
    name = config.model_name
    if config.image_size is not None:
        raise BackboneError(f"--image_size is for images; {name} takes sounds (--max_length)")
    length = config.max_length or values["max_length"]
    if length < values["patch_size"]:
        raise BackboneError(f"--max_length {length} is less than a patch of {name}, {values['patch_size']} frames")
    preprocess = None
    if processor is not None:
        bins = processor.get("num_mel_bins", 128)
        if bins != values["num_mel_bins"]:
            raise BackboneError(f"{name}: features of {bins} mel bins, but the model takes {values['num_mel_bins']}")
        is_normalised = processor.get("do_normalize", True)
        preprocess = SoundPreprocess(
            max_length=length,
            mean=processor.get("mean", AUDIOSET_MEAN) if is_normalised else 0.0,
            std=processor.get("std", AUDIOSET_STD) if is_normalised else 0.5,
            sampling_rate=processor.get("sampling_rate", 16_000),
            num_mel_bins=bins,
        )
    return BackboneSpec(model_name=name, config={**values, "max_length": length}, preprocess=preprocess)


def input_shape(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Of one model input: (3, S, S), or (L, M) for sounds."""
    if config.get("model_type") == AST:
        return (config["max_length"], config["num_mel_bins"])
    return (3, config["image_size"], config["image_size"])


def num_special(config: Mapping[str, Any]) -> int:
    """Tokens in front of the patches: CLS, and AST's distillation token."""
    return 2 if config.get("model_type") == AST else 1


def patch_grid(config: Mapping[str, Any]) -> tuple[int, int]:
    """Patches down and across: of a square image, or of mel bins and frames."""
    size = config["patch_size"]
    if config.get("model_type") != AST:
        return (config["image_size"] // size,) * 2
    return (
        (config["num_mel_bins"] - size) // config["frequency_stride"] + 1,
        (config["max_length"] - size) // config["time_stride"] + 1,
    )


def _hf_config(values: Mapping[str, Any]) -> Any:
    from transformers import ASTConfig, ViTConfig

    settings: dict[str, Any] = {**values, "attn_implementation": "sdpa"}
    return ASTConfig(**settings) if settings.pop("model_type", "vit") == AST else ViTConfig(**settings)


def _new_encoder(config: Any) -> nn.Module:
    """A transformer with weights as the configuration says."""
    from transformers import ASTModel, ViTModel

    return ASTModel(config) if config.model_type == AST else ViTModel(config, add_pooling_layer=False)


def _read_pretrained_config(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from transformers import AutoConfig
    from transformers.feature_extraction_utils import FeatureExtractionMixin
    from transformers.image_processing_base import ImageProcessingMixin

    path = Path(name).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        raise BackboneError(f"{name} has no config.json; a folder in Hugging Face layout is expected")
    where = str(path) if path.exists() else name
    try:
        with quiet_hub():
            config = AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"cannot load backbone {name!r}: {_first_sentence(error)}; "
            "give a hub id, a local folder in Hugging Face layout, or scratch:NAME (see --help)"
        ) from error
    if config.model_type not in ("vit", AST):
        raise BackboneError(f"{name} is a {config.model_type!r} model; ViT and AST backbones are supported")
    reader = ImageProcessingMixin.get_image_processor_dict
    if config.model_type == AST:
        reader = FeatureExtractionMixin.get_feature_extractor_dict
    try:
        with quiet_hub():
            processor, _ = reader(where)
    except OSError:
        processor = {}  # the libraries' own defaults: mean and std 0.5, or those of AudioSet
    return config.to_dict(), processor


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")


class Backbone(nn.Module):
    """A transformer encoder whose input tokens and last block are ours to handle.

    Attributes:
        row_keys: what the dropout layers draw from, once `key_dropout` was called.
        recompute: in training, keep no activations inside a block but compute them again for the gradient.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.row_keys = RowKeys()
        self.recompute = False
        self._last_at: Callable[..., torch.Tensor] | None = None

    def key_dropout(self) -> None:
        """Let dropout depend on `row_keys`, not on torch's generator."""
        by_row(self.encoder, self.row_keys, called_twice=lambda name: bool(re.fullmatch(r"layers\.\d+\.dropout", name)))

    def wrap_last_block(self, wrap: Callable[[nn.Module, str], None]) -> None:
        """Let `wrap(module, method name)` put its own around what computes the last block for some tokens.

        FSDP's hooks stand around a module's `forward`, which that is not.
        """
        last = self._layers[-1]
        last.at = functools.partial(self._block_at, last)
        wrap(last, "at")
        self._last_at = last.at

    @property
    def config(self) -> Any:
        return self.encoder.config

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one model input: (3, S, S), or (L, M) for sounds."""
        return input_shape(self.config.to_dict())

    @property
    def num_own(self) -> int:
        """T, the tokens that an input becomes."""
        values = self.config.to_dict()
        return num_special(values) + math.prod(patch_grid(values))

    def set_attention(self, implementation: str) -> None:
        """Choose "sdpa" (training) or "eager" (export: plain matrix products)."""
        self.config._attn_implementation = implementation

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S), or (B, L, M) of sounds -> (B, T, D): special tokens and patches, with positions."""
        return self.encoder.embeddings(inputs.to(self.dtype))  # type: ignore[operator]

    @property
    def dtype(self) -> torch.dtype:
        """How the weights that make the tokens are stored."""
        return self.encoder.embeddings.cls_token.dtype  # type: ignore[union-attr, return-value]

    def freeze_first(self, num_blocks: int) -> None:
        """Run the embeddings and the first blocks as in evaluation, without dropout."""
        self.encoder.embeddings.eval()  # type: ignore[union-attr]
        for layer in self._layers[:num_blocks]:
            layer.eval()

    def run_blocks(self, tokens: torch.Tensor, start: int, stop: int, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, S, D) -> (B, S, D) through blocks start..stop-1; `mask` as `attention_mask` makes it."""
        for layer in self._layers[start:stop]:
            tokens = self._run(layer, tokens, mask)
        return tokens

    def _run(
        self, layer: Any, tokens: torch.Tensor, mask: torch.Tensor | None, positions: slice | None = None
    ) -> torch.Tensor:
        """One block, or with `positions` its output for those tokens only."""
        keys = self.row_keys.current

        def block(tokens: torch.Tensor) -> torch.Tensor:
            self.row_keys.current = keys  # by the time a block is computed again, another pass may have set its own
            if isinstance(layer.dropout, RowDropout):
                layer.dropout.use = 0
            if positions is None:
                return layer(tokens, mask)
            if self._last_at is not None:
                return self._last_at(tokens, positions, mask)
            return self._block_at(layer, tokens, positions, mask)

        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(block, tokens, use_reentrant=False)  # type: ignore[return-value]
        return block(tokens)

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
        mask = self.attention_mask(tokens, key_mask)
        tokens = self.run_blocks(tokens, start, self.num_layers - 1, mask)
        return self._run(self._layers[-1], tokens, mask, positions)

    def normalise(self, outputs: torch.Tensor) -> torch.Tensor:
        """The backbone's final LayerNorm."""
        return self.encoder.layernorm(outputs)  # type: ignore[operator]

    def attention_mask(self, tokens: torch.Tensor, key_mask: torch.Tensor | None) -> torch.Tensor | None:
        """(B, S) bool -> the 4-D mask that this attention implementation takes; None stays None."""
        if key_mask is None:
            return None
        if self.config._attn_implementation == "eager":  # it is added; the same for every query, so one row is enough
            absent = torch.zeros_like(key_mask, dtype=tokens.dtype).masked_fill(
                ~key_mask, torch.finfo(tokens.dtype).min
            )
            return absent[:, None, None]  # (B, 1, 1, S)
        from transformers.masking_utils import create_bidirectional_mask

        return create_bidirectional_mask(config=self.config, inputs_embeds=tokens, attention_mask=key_mask)  # type: ignore[return-value]

    @property
    def _layers(self) -> Any:
        return self.encoder.layers

    def _block_at(self, layer: Any, tokens: torch.Tensor, positions: slice, mask: torch.Tensor | None) -> torch.Tensor:
        """One transformer block, its output computed for the tokens at `positions` only."""
        attention = layer.attention
        normed = layer.layernorm_before(tokens)  # (B, S, D)

        def heads(projected: torch.Tensor) -> torch.Tensor:  # (B, n, D) -> (B, heads, n, D / heads)
            return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

        query = heads(attention.q_proj(normed[:, positions]))
        key = heads(attention.k_proj(normed))
        value = heads(attention.v_proj(normed))
        if mask is not None and mask.shape[2] != 1:
            mask = mask[:, :, positions]
        dropout = attention.attention_dropout if self.training else 0.0
        attended = self._attend(query, key, value, mask, attention.scaling, dropout)  # (B, heads, P, D / heads)
        hidden = attention.o_proj(attended.transpose(1, 2).flatten(2))
        hidden = tokens[:, positions] + layer.dropout(hidden)
        return hidden + layer.dropout(layer.mlp(layer.layernorm_after(hidden)))  # (B, P, D)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
        dropout: float,
    ) -> torch.Tensor:
        if self.config._attn_implementation != "eager":
            return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scale)
        scores = query @ key.transpose(2, 3) * scale
        if mask is not None:
            scores = scores + mask
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        return F.dropout(weights, p=dropout, training=dropout > 0) @ value


def build_backbone(spec: BackboneSpec, *, seed: int, load_weights: bool = True) -> Backbone:
    """Make the backbone a spec describes.

    Args:
        seed: of the initial weights where there are no pretrained ones; the global generator is not touched.
        load_weights: False leaves pretrained weights out, for a caller that loads its own.

    Raises:
        BackboneError: weights that are missing, unreadable or of another shape.
    """
    if spec.is_pretrained and load_weights:
        return Backbone(_load_pretrained(spec))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(_new_encoder(_hf_config(_loadable(spec.config))))


def _loadable(config: Mapping[str, Any]) -> dict[str, Any]:
    dropped = ("transformers_version", "architectures", "torch_dtype", "dtype", "id2label", "label2id")
    return {key: value for key, value in config.items() if key not in dropped and not key.startswith("_")}


def _load_pretrained(spec: BackboneSpec) -> nn.Module:
    from transformers import ASTModel, ViTModel
    from transformers.utils import logging

    kind: Any = ASTModel if spec.is_audio else ViTModel
    settings = {} if spec.is_audio else {"add_pooling_layer": False}  # which ASTModel does not take
    path = Path(spec.model_name).expanduser()
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with quiet_hub():
            loaded: Any = kind.from_pretrained(  # with its loading report, which the stubs do not know of
                str(path) if path.exists() else spec.model_name,
                **settings,
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
            )
        model, report = loaded
    except Exception as error:  # transformers, safetensors and the hub client each raise their own
        raise BackboneError(f"cannot load the weights of {spec.model_name!r}: {_first_sentence(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(report["missing_keys"])
    if missing:
        raise BackboneError(
            f"{spec.model_name} lacks {len(missing)} of the backbone's weights ({missing[0]}, …); "
            f"it is no {kind.__name__} checkpoint"
        )
    return _at_size(model, spec)


def _at_size(model: Any, spec: BackboneSpec) -> nn.Module:
    """The same weights for another input size: position embeddings interpolated (bicubic)."""
    old, new = patch_grid(model.config.to_dict()), patch_grid(spec.config)
    if old == new:
        if spec.is_audio:  # another length may make as many patches
            model.config.max_length = spec.config["max_length"]
        return model
    resized = _new_encoder(_hf_config(_loadable(spec.config)))
    positions = model.embeddings.position_embeddings.detach()  # (1, specials + patches, D)
    own, patches = positions[:, : spec.num_special], positions[:, spec.num_special :]
    grid = patches.reshape(1, *old, spec.hidden_size).permute(0, 3, 1, 2)  # (1, D, down, across)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    patches = grid.permute(0, 2, 3, 1).reshape(1, -1, spec.hidden_size)
    resized.load_state_dict(
        {**model.state_dict(), "embeddings.position_embeddings": torch.cat([own, patches], dim=1).contiguous()}
    )
    return resized


def fingerprint(backbone: Backbone) -> str:
    """SHA-256 over the frozen weights, adapters left out: a checkpoint that does not hold them names them by it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.encoder.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
    return digest.hexdigest()
