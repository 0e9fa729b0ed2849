"""wav2vec 2.0 (Baevski et al., 2020, arXiv 2006.11477): speech, by telling masked frames from others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pfm.backbones.family import Card, HfConfig
from pfm.backbones.speech import Speech, speech_preset


class Wav2Vec2(Speech):
    """wav2vec 2.0, and XLS-R of the same shape."""

    name = "wav2vec2"
    title = "wav2vec 2.0"
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "wav2vec2_base": speech_preset(768, 12, 12),
        "wav2vec2_large": speech_preset(1024, 24, 16, norm="layer", is_stable=True, has_bias=True),
    }
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="facebook/wav2vec2-base", preset="wav2vec2_base", licence="Apache-2.0",
             good_at="English speech",
             source="https://huggingface.co/facebook/wav2vec2-base/commits/main/README.md"),
        Card(model_name="facebook/wav2vec2-large-lv60", preset="wav2vec2_large", licence="Apache-2.0",
             good_at="as wav2vec2-base, larger",
             source="https://huggingface.co/facebook/wav2vec2-large-lv60/commits/main/README.md"),
        Card(model_name="facebook/wav2vec2-xls-r-300m", preset="wav2vec2_large", licence="Apache-2.0",
             good_at="speech in 128 languages",
             source="https://huggingface.co/facebook/wav2vec2-xls-r-300m/commits/main/config.json"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        return Wav2Vec2Config, Wav2Vec2Model


WAV2VEC2 = Wav2Vec2()
