"""The form of an exported graph: whose prompts it takes, what is classified, in how many files, in which precision."""

from dataclasses import asdict, dataclass, fields

from pfm.errors import ConfigError
from pfm.options import option
from pfm.storage import Json
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.kinds import INPUT_KINDS, InputKind, ordinary_kind, short_kind
from pfm_export.serving.signature import HEAD, INPUT_LENS, INPUT_PROMPTS, MODEL, TOKENS, TRUNK, Signature, Signatures


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
        "the graph computes the log-mel features, or normalises them for models of samples.",
    )
    input: str = option(
        "",
        "What goes in, by the name of an input kind, such as one that a plugin brings; --uint8_input is short for "
        "images, --with_frontend for waveform or raw_samples.  [default: what the model takes]",
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
        choices=PRECISIONS.names,
    )
    portable: bool = option(
        False,
        "Operators of the ONNX standard only, as TensorRT and other runtimes want them; otherwise fp16 and int8 have "
        "some of ONNX Runtime's own, which are faster there.",
    )

    @classmethod
    def of(cls, bundle: Bundle) -> "GraphForm":
        """The form of a bundle; one that says nothing of it has the ordinary graph."""
        stated = bundle.manifest.get("form", {})
        return cls(**{field.name: stated[field.name] for field in fields(cls) if field.name in stated})

    def to_dict(self) -> Json:
        return asdict(self)

    def input_kind(self, modality: str) -> type[InputKind]:
        """What the graph takes for what is classified.

        Args:
            modality: the `kind` of the model's preprocessing, such as "image".

        Raises:
            ConfigError: two kinds were asked for, an unknown one, or one that this model does not have.
        """
        flags = {"--uint8_input": self.uint8_input, "--with_frontend": self.with_frontend}
        short = [short_kind(option, modality) for option, is_asked in flags.items() if is_asked]
        kinds = [kind for kind in short if kind is not None]
        if self.input:
            kinds.append(INPUT_KINDS.get(self.input))
        kinds, ordinary = list(dict.fromkeys(kinds)), ordinary_kind(modality)
        for kind in kinds:
            if kind.modality != modality:
                raise ConfigError(_misfit(kind, ordinary))
        if len(kinds) > 1:
            names = " or ".join(kind.name for kind in kinds)
            raise ConfigError(f"the graph can take {names}, not both; ask for one of them")
        return kinds[0] if kinds else ordinary

    def check_split(self, *, has_trunk: bool) -> None:
        """Refuse two graphs of a model that has one part only.

        Raises:
            ConfigError: they are asked for.
        """
        if self.split and not has_trunk:
            raise ConfigError(
                "--split needs a model trained with --prompt_layer above 0: in this one the prompts enter before the "
                "first block, and nothing of it could be shared"
            )

    def signatures(self, kind: type[InputKind], rows: tuple[str, ...], output: str) -> Signatures:
        """Names of inputs and outputs of each file.

        Args:
            kind: of what is classified.
            rows: what the readout takes beside the prompts.
            output: what the readout calls its scores.
        """
        lens = (INPUT_LENS,) if self.per_request_prompts else ()
        classes = (INPUT_PROMPTS, *lens, *rows)
        if self.split:
            trunk, head = Signature(kind.inputs, (TOKENS,)), Signature((TOKENS, *classes), (output,))
            return Signatures({TRUNK: trunk, HEAD: head})
        return Signatures({MODEL: Signature((*kind.inputs, *classes), (output,))})


def _misfit(kind: type[InputKind], ordinary: type[InputKind]) -> str:
    other = next((k for k in INPUT_KINDS if k.modality == ordinary.modality and k.option), None)
    instead = f"; for {ordinary.items}, {other.option} {other.gist}" if other else ""
    return f"{kind.option or f'--input {kind.name}'} is for {kind.items}{instead}"
