"""The tests' own store of traces: one is given again for the very same model alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from making import sources
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


def test_what_was_traced_with_code_that_was_edited_since_is_not_kept(tmp_path: Path) -> None:
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "traced", [], []))
    edited = Traces(tmp_path, lambda *_: SimpleNamespace(model_proto=graph), is_current=lambda: False)
    assert edited(Scaled(), (torch.randn(2, 3),)).model_proto == graph
    assert list(tmp_path.iterdir()) == []


def test_the_code_of_a_trace_is_all_of_ours_that_it_could_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    seen = {sources.sources_sha256()}
    for changed in ("pfm/backbones/vit.py", "export/pfm_export/graph/tracing.py", "tests/making/models.py"):
        (tmp_path / changed).parent.mkdir(parents=True)
        for text in ("one", "two"):
            (tmp_path / changed).write_text(text)
            seen.add(sources.sources_sha256())
    assert len(seen) == 7
    monkeypatch.setattr(sources, "version", lambda name: "2.13" if name == "torch" else "1")
    assert sources.sources_sha256() not in seen
