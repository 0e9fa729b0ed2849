"""From a model to ONNX graphs that belong to no class, in each of the forms.

Letters: B batch, C classes, K active prompts (per request: the most that one row has), m tokens per
prompt, T tokens of the backbone, D hidden size.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch and onnx leave the types of some of their own functions open

import contextlib
import functools
import io
import json
import logging
import warnings
from collections.abc import Generator
from typing import Any

import onnx
import torch
from torch import nn

from pfm import __version__
from pfm.data.inputs import Preprocess
from pfm.model.classifier import PromptedClassifier
from pfm.model.lora import merged
from pfm.storage import Json
from pfm_export.graph.exact_part import convert_around, exact_nodes
from pfm_export.graph.form import GraphForm
from pfm_export.graph.front_ends import FRONT_ENDS
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.kinds import InputKind, ordinary_kind
from pfm_export.serving.signature import (
    INPUT_BIAS,
    INPUT_LENS,
    INPUT_PROMPTS,
    INPUT_WEIGHT,
    TOKENS,
    Signature,
)

OPSET = 20


class _Head(nn.Module):
    """Tokens and prompts -> logits (B, C), or scores (B, K).

    The prompts are (K·m, D), the same for the whole batch, or (B, K·m, D) with the number of
    prompts `prompt_lens` (B,) that each row has; what stands behind them is padding, and no token
    attends to it. A padded place scores -inf.
    """

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: torch.Tensor,
        prompts: torch.Tensor,
        prompt_lens: torch.Tensor | None = None,
        class_weight: torch.Tensor | None = None,
        class_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        readout, num_tokens = self.model.readout, self.model.config.prompt_tokens
        if prompt_lens is None:
            prompts, key_mask = prompts.unsqueeze(0).expand(tokens.shape[0], -1, -1), None
        else:
            own = torch.ones_like(tokens[:, :, 0], dtype=torch.bool)
            key_mask = torch.cat([own, _there(prompts, prompt_lens * num_tokens)], dim=1)  # (B, T + K·m)
        weight, bias = class_weight, class_bias
        if weight is None or bias is None:  # nothing of the readout belongs to a class
            weight, bias = readout.weights(self.model)
        scores = readout.score(self.model.read(tokens, prompts, key_mask), weight, bias, prompt_tokens=num_tokens)
        if prompt_lens is None or readout.class_rows:  # the caller knows whose rows it gave
            return scores
        return scores.masked_fill(~_there(scores, prompt_lens), -torch.inf)


def _there(padded: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """(B, n, …), (B,) -> (B, n) bool, True for the first `lens` of each row."""
    return torch.arange(padded.shape[1], dtype=lens.dtype) < lens.unsqueeze(1)


class _Piece(nn.Module):
    """What becomes one file; its inputs come by place, in the order of the file's signature."""

    def __init__(self, model: PromptedClassifier, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self.head = _Head(model)
        self.first, *self.rest = signature.inputs
        self.stops_at_tokens = TOKENS in signature.outputs

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        first, *rest = inputs
        tokens = first if self.first == TOKENS else self.model.trunk(first)
        return tokens if self.stops_at_tokens else self.head(tokens, **dict(zip(self.rest, rest, strict=True)))


def export_graphs(
    model: PromptedClassifier, form: GraphForm, preprocess: Preprocess, facts: Json | None = None
) -> dict[str, bytes]:
    """The ONNX files of a model: adapters merged, opset 20, plain ai.onnx operators, nothing beside each file.

    Batch, number of prompts and number of classes are dynamic; nothing in them belongs to a class.

    Args:
        facts: for the files' `metadata_props`; what is not a string is written as JSON.

    Raises:
        ConfigError: a form that this model does not have.
    """
    form.check_split(has_trunk=model.has_trunk)
    settings = preprocess.to_dict()
    kind = form.input_kind(preprocess.kind)(settings)
    front_end = FRONT_ENDS.get(kind.name)(kind, preprocess)
    plain = merged(model).eval()
    assert isinstance(plain, PromptedClassifier)
    plain.backbone.encoder.set_eager(True)
    # the exporter sees model input; what makes it out of images or samples is put in front afterwards
    ordinary, readout = ordinary_kind(preprocess.kind), plain.readout
    traced = form.signatures(ordinary, readout.graph_inputs, readout.graph_output)
    wanted = form.signatures(type(kind), readout.graph_inputs, readout.graph_output)
    files: dict[str, bytes] = {}
    for name, signature in traced.files.items():
        proto = _trace(plain, signature, form, ordinary(settings))
        is_head = ordinary.inputs[0] not in signature.inputs and not readout.sees_prompts  # which takes integers
        exact = set(range(len(proto.graph.node))) if is_head else exact_nodes(proto)
        precision = PRECISIONS.get(form.precision)
        proto = convert_around(proto, exact, functools.partial(precision.convert, portable=form.portable))
        if ordinary.inputs[0] in signature.inputs:
            front_end.put_in_front(proto, ordinary.inputs[0])
        stated = wanted.files[name]
        files[name] = _finish(proto, {**(facts or {}), "inputs": stated.inputs, "outputs": stated.outputs})
    return files


def _trace(model: PromptedClassifier, signature: Signature, form: GraphForm, ordinary: InputKind) -> onnx.ModelProto:
    width, tokens = model.row_size, model.config.prompt_tokens
    num_prompts: Any = "num_prompts"
    if tokens > 1 and not model.readout.scores_absent:  # a score comes of m tokens
        num_prompts = tokens * torch.export.Dim("num_classes", min=0)
    # three images, two prompts, five classes: no two sizes alike, none of them 0 or 1
    tokens = max(1, tokens)  # where there are no prompts, the place of them is empty, which cannot be traced
    prompts = {0: num_prompts}, torch.randn(2 * tokens, width)
    if form.per_request_prompts:
        prompts = {0: "batch", 1: num_prompts}, torch.randn(3, 2 * tokens, width)
    # axes that are left open have their name, and the number of tokens follows one
    opened = {place: size for place, size in enumerate(ordinary.axes, start=1) if isinstance(size, str)}
    num_tokens = {1: "num_tokens"} if opened and model.num_tokens > 1 else {}
    known: dict[str, tuple[dict[int, Any], torch.Tensor]] = {
        TOKENS: ({0: "batch", **num_tokens}, torch.randn(3, model.num_tokens, width)),
        INPUT_PROMPTS: prompts,
        INPUT_LENS: ({0: "batch"}, torch.tensor([2, 0, 1], dtype=torch.int32)),
        INPUT_WEIGHT: ({0: "num_classes"}, torch.randn(5, width)),
        INPUT_BIAS: ({0: "num_classes"}, torch.randn(5)),
    }
    model_input = {0: "batch", **opened}, torch.randn(3, *model.backbone.input_shape)
    given = [known.get(name, model_input) for name in signature.inputs]
    with _quiet():
        program = torch.onnx.export(
            _Piece(model, signature).eval(),
            tuple(example for _, example in given),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_shapes=(tuple(shape for shape, _ in given),),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _finish(proto: onnx.ModelProto, facts: Json) -> bytes:
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
def _quiet() -> Generator[None]:
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
