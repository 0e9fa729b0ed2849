"""The tests' own store of traces: one is given again for the very same model alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from making.traces import Traces, fingerprint


class Scaled(nn.Module):
    """A layer, and a setting that is no tensor."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.scale = scale

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs) * self.scale


def marked(*, rows: int = 2, scale: float = 1.0, bias: float | None = None, **settings: Any) -> str:
    model = Scaled(scale)
    if bias is not None:
        model.layer.bias.data[0] = bias
    return fingerprint(model, (torch.randn(rows, 3),), {"input_names": ["x"], **settings})


@pytest.mark.parametrize("changes", [{"rows": 3}, {"scale": 2.0}, {"bias": 0.5}, {"input_names": ["y"]}])
def test_a_trace_is_that_of_an_equal_model_alone(changes: dict[str, Any]) -> None:
    assert marked() == marked()
    assert marked(**changes) != marked()


def test_what_was_traced_is_not_traced_again(tmp_path: Path) -> None:
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "traced", [], []))
    calls = []

    def export(*given: Any) -> SimpleNamespace:
        calls.append(given)
        return SimpleNamespace(model_proto=graph)

    kept = Traces(tmp_path, export)
    assert [kept(Scaled(), (torch.randn(2, 3),)).model_proto for _ in range(2)] == [graph, graph]
    assert len(calls) == 1
