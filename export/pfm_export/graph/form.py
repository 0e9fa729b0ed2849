"""The form of an exported graph: whose prompts it takes, which images, in how many files, in which precision."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pfm.errors import ConfigError
from pfm.options import option
from pfm_export.serving.bundle import INPUT_BIAS, INPUT_LENS, INPUT_PROMPTS, INPUT_WEIGHT, MODEL, OUTPUT

if TYPE_CHECKING:
    from pfm_export.serving.bundle import Bundle

TRUNK, HEAD = "trunk.onnx", "head.onnx"
INPUT_PIXELS, INPUT_IMAGES, TOKENS = "pixel_values", "images", "tokens"
INPUT_VALUES, INPUT_SAMPLES, INPUT_COUNT = "input_values", "waveform", "num_samples"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """What is asked of an export beyond the ordinary graph."""

    per_request_prompts: bool = option(
        False,
        "Each row of a batch has its own prompts: prompts [batch, num_prompts, D], padded on the right, and "
        "prompt_lens [batch].",
    )
    uint8_input: bool = option(
        False, "Images go in as they are, [batch, height, width, 3] uint8: the graph resizes and normalises."
    )
    with_frontend: bool = option(
        False,
        "Sounds go in as samples, waveform [batch, samples] float32 at the model's rate and num_samples [batch] int32: "
        "the graph computes the log-mel features.",
    )
    split: bool = option(
        False,
        "Two graphs, trunk.onnx and head.onnx: one pass of the trunk serves any number of active sets. For models "
        "trained with --prompt_layer above 0.",
    )
    precision: str = option(
        "fp32",
        "fp16: weights and arithmetic in half precision, for GPUs; bf16: weights stored in bfloat16, arithmetic in "
        "float32; int8: dynamic quantisation, for CPUs. Inputs and outputs stay float32.",
        choices=PRECISIONS,
    )
    portable: bool = option(
        False,
        "Operators of the ONNX standard only, as TensorRT and other runtimes want them; otherwise fp16 and int8 have "
        "some of ONNX Runtime's own, which are faster there.",
    )

    @classmethod
    def of(cls, bundle: "Bundle") -> "GraphForm":
        """The form of a bundle; one that says nothing of it has the ordinary graph."""
        return cls(**bundle.manifest.get("form", {}))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def first_inputs(self, kind: str) -> list[str]:
        """Names of what is classified, in order; `kind` is "image" or "audio"."""
        if kind == "audio":
            return [INPUT_SAMPLES, INPUT_COUNT] if self.with_frontend else [INPUT_VALUES]
        return [INPUT_IMAGES if self.uint8_input else INPUT_PIXELS]

    def check_kind(self, kind: str) -> None:
        """Refuse what is for the other kind of input.

        Raises:
            ConfigError: which option.
        """
        if self.uint8_input and kind == "audio":
            raise ConfigError("--uint8_input is for images; for sounds, --with_frontend takes samples")
        if self.with_frontend and kind == "image":
            raise ConfigError("--with_frontend is for sounds; for images, --uint8_input takes them as they are")

    def signatures(self, readout: str, kind: str) -> dict[str, tuple[list[str], list[str]]]:
        """Names of inputs and outputs, in order, of each file; `kind` is "image" or "audio"."""
        first = self.first_inputs(kind)
        prompts = [INPUT_PROMPTS, *([INPUT_LENS] if self.per_request_prompts else [])]
        rows = [*prompts, *([INPUT_WEIGHT, INPUT_BIAS] if readout == "cls" else [])]
        output = [OUTPUT[readout]]
        if self.split:
            return {TRUNK: (first, [TOKENS]), HEAD: ([TOKENS, *rows], output)}
        return {MODEL: ([*first, *rows], output)}
