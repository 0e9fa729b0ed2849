"""HuBERT (Hsu et al., 2021, arXiv 2106.07447): speech, by predicting clusters of masked frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pfm.backbones.family import Card, HfConfig
from pfm.backbones.speech import Speech, speech_preset


class Hubert(Speech):
    """HuBERT."""

    name = "hubert"
    title = "HuBERT"
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "hubert_base": speech_preset(768, 12, 12),
        "hubert_large": speech_preset(1024, 24, 16, norm="layer", is_stable=True, has_bias=True),
    }
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="facebook/hubert-base-ls960", preset="hubert_base", licence="Apache-2.0",
             good_at="English speech",
             source="https://huggingface.co/facebook/hubert-base-ls960/commits/main"),
        Card(model_name="facebook/hubert-large-ll60k", preset="hubert_large", licence="Apache-2.0",
             good_at="as hubert-base-ls960, larger",
             source="https://huggingface.co/facebook/hubert-large-ll60k/commits/main"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import HubertConfig, HubertModel

        return HubertConfig, HubertModel


HUBERT = Hubert()
