"""WavLM (Chen et al., 2022, arXiv 2110.13900): speech, with relative positions that each token gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Card, HfConfig, Tensors
from pfm.backbones.speech import Speech, speech_preset

if TYPE_CHECKING:
    from pfm.backbones.encoder import Encoder


# what the authors were asked in microsoft/unilm, issue 1757, and had not answered
_LICENCE = "none stated; the card links CC-BY-SA-3.0, the authors' repository has MIT"


class WavLm(Speech):
    """WavLM; what its blocks share of relative positions belongs to the encoder."""

    name = "wavlm"
    title = "WavLM"
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "wavlm_base": speech_preset(768, 12, 12),
        "wavlm_base_plus": speech_preset(768, 12, 12),
        "wavlm_large": speech_preset(1024, 24, 16, norm="layer", is_stable=True),
    }
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *Speech.renames,
        (r"^layers\.0\.attention\.rel_attn_embed\.", "embeddings.relative.embedding."),
        (r"\.gru_rel_pos_const$", ".relative.constant"),
        (r"\.gru_rel_pos_linear\.", ".relative.linear."),
    )
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="microsoft/wavlm-base", preset="wavlm_base", licence=_LICENCE, good_at="English speech",
             source="https://huggingface.co/microsoft/wavlm-base/resolve/main/README.md"),
        Card(model_name="microsoft/wavlm-base-plus", preset="wavlm_base_plus", licence=_LICENCE,
             good_at="who speaks, and how; English, from many sources",
             source="https://huggingface.co/microsoft/wavlm-base-plus/discussions"),
        Card(model_name="microsoft/wavlm-large", preset="wavlm_large", licence=_LICENCE,
             good_at="as wavlm-base-plus, larger",
             source="https://huggingface.co/microsoft/wavlm-large/tree/main"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import WavLMConfig, WavLMModel

        return WavLMConfig, WavLMModel

    def names(self, weights: Tensors) -> Tensors:
        renamed = super().names(weights)
        for name in [name for name in renamed if ".relative.linear." in name]:
            # the library adds up four outputs of each gate, which is one output of the added rows
            renamed[name] = renamed[name].unflatten(0, (2, 4)).sum(dim=1)
        return renamed

    def encoder(self, config: HfConfig) -> Encoder:
        from pfm.backbones.relative import Distances, Gated

        encoder = super().encoder(config)
        heads = config["num_attention_heads"]
        distances = Distances(heads, config["num_buckets"], config["max_bucket_distance"])
        encoder.embeddings.relative = distances
        for block in encoder.layers:
            block.attention.relative = Gated(heads, config["hidden_size"] // heads, distances)  # type: ignore[union-attr]  # a Block's
        return encoder

    def token_multiply_adds(self, config: HfConfig) -> float:
        return 2 * config["hidden_size"]  # the gates


WAVLM = WavLm()
