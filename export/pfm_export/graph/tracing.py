"""From a model to ONNX graphs that belong to no class, in each of the forms.

Letters: B batch, C classes, K active prompts (per request: the most that one row has), m tokens per
prompt, T tokens of the backbone, D hidden size.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import nn

from pfm import __version__
from pfm.backbones.backbone import Backbone
from pfm.data.images import ImagePreprocess
from pfm.data.inputs import Preprocess
from pfm.data.sounds import SoundPreprocess
from pfm.errors import ConfigError
from pfm.model.classifier import PromptedClassifier
from pfm.model.lora import merged
from pfm_export.graph.image_frontend import take_images
from pfm_export.graph.precision import in_precision
from pfm_export.graph.sound_frontend import take_samples
from pfm_export.serving.bundle import INPUT_BIAS, INPUT_LENS, INPUT_PROMPTS, INPUT_WEIGHT, MODEL
from pfm_export.serving.form import HEAD, INPUT_PIXELS, INPUT_VALUES, TOKENS, TRUNK, GraphForm

OPSET = 20


class _Trunk(nn.Module):
    """Model input, such as pixels (B, 3, S, S) -> tokens (B, T, D), before the prompts enter."""

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.backbone: Backbone = model.backbone
        self.prompt_layer = model.config.prompt_layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.backbone.run_blocks(self.backbone.embed(inputs), 0, self.prompt_layer)


class _Head(nn.Module):
    """Tokens and prompts -> logits (B, C), or scores (B, K).

    The prompts are (K·m, D), the same for the whole batch, or (B, K·m, D) with the number of
    prompts `prompt_lens` (B,) that each row has; what stands behind them is padding, and no token
    attends to it. A padded place scores -inf.
    """

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.model = model
        self.prompt_tokens = model.config.prompt_tokens

    def forward(
        self,
        tokens: torch.Tensor,
        prompts: torch.Tensor,
        prompt_lens: torch.Tensor | None = None,
        class_weight: torch.Tensor | None = None,
        class_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if prompt_lens is None:
            prompts, key_mask = prompts.unsqueeze(0).expand(tokens.shape[0], -1, -1), None
        else:
            own = torch.ones_like(tokens[:, :, 0], dtype=torch.bool)
            key_mask = torch.cat([own, _there(prompts, prompt_lens * self.prompt_tokens)], dim=1)  # (B, T + K·m)
        readout = self.model.readout
        outputs = self.model.read(tokens, prompts, key_mask)
        weight, bias = readout.weights(self.model)
        if class_weight is not None and class_bias is not None:
            weight, bias = class_weight, class_bias
        scores = readout.score(outputs, weight, bias, prompt_tokens=self.prompt_tokens)
        if prompt_lens is None or readout.scores_absent:
            return scores
        return scores.masked_fill(~_there(scores, prompt_lens), -torch.inf)


def _there(padded: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """(B, n, …), (B,) -> (B, n) bool, True for the first `lens` of each row."""
    return torch.arange(padded.shape[1], dtype=lens.dtype) < lens.unsqueeze(1)


class _Piece(nn.Module):
    """What becomes one file; its inputs come by place, in the order of the file's signature."""

    def __init__(self, trunk: _Trunk | None, head: _Head | None, names: list[str]) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        first, *rest = inputs
        tokens = first if self.trunk is None else self.trunk(first)
        return tokens if self.head is None else self.head(tokens, **dict(zip(self.names[1:], rest, strict=True)))


def export_graphs(
    model: PromptedClassifier, form: GraphForm, preprocess: Preprocess, facts: dict[str, Any] | None = None
) -> dict[str, bytes]:
    """The ONNX files of a model: adapters merged, opset 20, plain ai.onnx operators, nothing beside each file.

    Batch, number of prompts and number of classes are dynamic; nothing in them belongs to a class.

    Args:
        facts: for the files' `metadata_props`; what is no string is written as JSON.

    Raises:
        ConfigError: a form that this model does not have.
    """
    if form.split and model.config.prompt_layer == 0:
        raise ConfigError(
            "--split needs a model trained with --prompt_layer above 0: in this one the prompts enter before the "
            "first block, and nothing of it could be shared"
        )
    plain = merged(model).eval()
    assert isinstance(plain, PromptedClassifier)
    plain.backbone.encoder.set_eager(True)
    trunk, head = _Trunk(plain), _Head(plain)
    parts: dict[str, tuple[_Trunk | None, _Head | None]] = {
        MODEL: (trunk, head), TRUNK: (trunk, None), HEAD: (None, head),
    }  # fmt: skip
    files = {}
    kind = preprocess.kind
    form.check_kind(kind)
    first = form.first_inputs(kind)
    model_input = INPUT_PIXELS if kind == "image" else INPUT_VALUES
    for name, (inputs, outputs) in form.signatures(plain.config.readout, kind).items():
        # the exporter sees model input; what makes it out of images is put in front afterwards
        takes_inputs = first[0] in inputs
        names = [*([model_input] if takes_inputs else []), *(entry for entry in inputs if entry not in first)]
        proto = _trace(_Piece(*parts[name], names), names, outputs, plain, form)
        proto = in_precision(proto, form.precision, portable=form.portable)
        if takes_inputs and form.uint8_input and isinstance(preprocess, ImagePreprocess):
            take_images(proto, preprocess)
        if takes_inputs and form.with_frontend and isinstance(preprocess, SoundPreprocess):
            take_samples(proto, preprocess)
        files[name] = _finish(proto, {**(facts or {}), "inputs": inputs, "outputs": outputs})
    return files


def _trace(
    piece: nn.Module, names: list[str], outputs: list[str], model: PromptedClassifier, form: GraphForm
) -> onnx.ModelProto:
    width, tokens = model.backbone.hidden_size, model.config.prompt_tokens
    if tokens == 1 or model.config.readout == "cls":
        num_prompts: Any = "num_prompts"
    else:
        num_prompts = tokens * torch.export.Dim("num_classes", min=0)
    # three images, two prompts, five classes: no two sizes alike, none of them 0 or 1
    prompts = {0: num_prompts}, torch.randn(2 * tokens, width)
    if form.per_request_prompts:
        prompts = {0: "batch", 1: num_prompts}, torch.randn(3, 2 * tokens, width)
    known: dict[str, tuple[dict[int, Any], torch.Tensor]] = {
        INPUT_PIXELS: ({0: "batch"}, torch.randn(3, *model.backbone.input_shape)),
        INPUT_VALUES: ({0: "batch"}, torch.randn(3, *model.backbone.input_shape)),
        TOKENS: ({0: "batch"}, torch.randn(3, model.backbone.num_own, width)),
        INPUT_PROMPTS: prompts,
        INPUT_LENS: ({0: "batch"}, torch.tensor([2, 0, 1], dtype=torch.int32)),
        INPUT_WEIGHT: ({0: "num_classes"}, torch.randn(5, width)),
        INPUT_BIAS: ({0: "num_classes"}, torch.randn(5)),
    }
    with _quiet():
        program = torch.onnx.export(
            piece.eval(),
            tuple(known[name][1] for name in names),
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=(tuple(known[name][0] for name in names),),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _finish(proto: onnx.ModelProto, facts: dict[str, Any]) -> bytes:
    """State the facts, and drop what the exporter notes of this machine: stack traces, paths, Python modules."""
    proto.doc_string = ""
    proto.graph.doc_string = ""
    proto.producer_name, proto.producer_version = "pfm", __version__
    for item in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    for initializer in proto.graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    del proto.graph.metadata_props[:]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    onnx.helper.set_model_props(proto, texts)
    content = proto.SerializeToString()  # once, which takes a while for a graph of some size
    onnx.checker.check_model(content)
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks are for its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
