"""Small random models of samples, saved as the library saves them, and what it computes of one clip alone.

Letters: T tokens, D hidden size, n samples.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
RELATIVE: dict[str, Any] = {"num_buckets": 16, "max_bucket_distance": 20}
RECEPTIVE = 30  # samples of one frame


@dataclass(frozen=True)
class SpeechCase:
    """A small model of a family.

    Attributes:
        config: name of the library's configuration class.
        model: name of its model class.
        values: of the configuration, beside those of all.
        do_normalize: of its processor.
    """

    config: str
    model: str
    values: dict[str, Any] = field(default_factory=dict)
    do_normalize: bool = True

    def make(self, folder: Path) -> Any:
        """The library's model, saved in a folder with a feature extractor."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**{**SMALL, **self.values})
        model = getattr(transformers, self.model)(config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in model.parameters():  # so that biases and gates count
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
        model.save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=self.do_normalize).save_pretrained(folder)
        return model


SPEECH: dict[str, SpeechCase] = {
    "wavlm": SpeechCase("WavLMConfig", "WavLMModel", RELATIVE),
    "wav2vec2": SpeechCase("Wav2Vec2Config", "Wav2Vec2Model", LARGE),
    "hubert": SpeechCase("HubertConfig", "HubertModel", do_normalize=False),
}
# variants of the same families, for the slow matrix
MORE_SPEECH: dict[str, SpeechCase] = {
    "wavlm-large": SpeechCase("WavLMConfig", "WavLMModel", {**RELATIVE, **LARGE}),
    "wavlm-stable": SpeechCase("WavLMConfig", "WavLMModel", {**RELATIVE, "do_stable_layer_norm": True}),
    "wav2vec2-base": SpeechCase("Wav2Vec2Config", "Wav2Vec2Model", {"num_conv_pos_embeddings": 7}),
    "hubert-large": SpeechCase("HubertConfig", "HubertModel", {**LARGE, "feat_proj_layer_norm": False}),
}


@torch.no_grad()
def alone(model: Any, clip: torch.Tensor) -> torch.Tensor:
    """The library's tokens (T, D) of one clip (n,), with nothing else in the batch and nothing filled up."""
    return model(clip[None]).last_hidden_state[0]
