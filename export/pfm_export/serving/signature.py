"""Names of what goes into a bundle's graphs and comes out, file by file; what else there is to know is read off them.

    model.onnx               what is classified, prompts, … -> logits or scores
    trunk.onnx, head.onnx    the same in two: what is classified -> tokens; tokens, prompts, … -> logits or scores

`logits` has one score for each classifier row that is given (`class_weight`, `class_bias`), `scores` one for each
prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MODEL, TRUNK, HEAD = "model.onnx", "trunk.onnx", "head.onnx"
TOKENS = "tokens"
INPUT_PROMPTS, INPUT_LENS = "prompts", "prompt_lens"
INPUT_WEIGHT, INPUT_BIAS = "class_weight", "class_bias"
LOGITS, SCORES = "logits", "scores"


@dataclass(frozen=True)
class Signature:
    """Names of one graph's inputs and outputs, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Signatures:
    """The graphs of a bundle.

    Attributes:
        files: by file name; of two, the one that runs first comes first.
    """

    files: Mapping[str, Signature]

    @property
    def is_split(self) -> bool:
        """Whether the trunk is a graph of its own, one pass of which serves any number of active sets."""
        return TRUNK in self.files

    @property
    def head(self) -> Signature:
        """Of the graph that the prompts enter."""
        return self.files[HEAD if self.is_split else MODEL]

    @property
    def has_own_prompts(self) -> bool:
        """Whether each row of a batch has prompts of its own."""
        return INPUT_LENS in self.head.inputs

    @property
    def mixes_sets(self) -> bool:
        """Whether one pass, at least of the trunk, serves inputs with different active sets."""
        return self.is_split or self.has_own_prompts

    @property
    def takes_rows(self) -> bool:
        """Whether classifier rows are given beside the prompts."""
        return INPUT_WEIGHT in self.head.inputs

    @property
    def scores_prompts(self) -> bool:
        """Whether there is one score for each prompt; otherwise for each classifier row."""
        return SCORES in self.head.outputs
