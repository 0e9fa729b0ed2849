"""Every byte of an exported bundle is searched for an erased class, at each precision that is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from making.checkpoints import BLUE, image_checkpoint
from making.files import all_bytes
from pfm.model.classifier import class_row_names
from pfm_export.erasing import erase_everywhere
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.bundle import Bundle

# the bytes of a row as it may lie in a file
FORMS: dict[str, Callable[[torch.Tensor], bytes]] = {
    "fp32": lambda row: row.float().numpy().tobytes(),
    "fp16": lambda row: row.half().numpy().tobytes(),
    "bf16": lambda row: row.bfloat16().view(torch.int16).numpy().tobytes(),
    "int8": lambda row: (row / row.abs().amax() * 127).round().to(torch.int8).numpy().tobytes(),
}


def rows_in_every_form(rows: list[torch.Tensor]) -> dict[str, list[bytes]]:
    return {name: [form(row) for row in rows] for name, form in FORMS.items()}


# a bundle of the other readout holds prompts only, which the first has as well
@pytest.mark.parametrize("readout", ["cls", pytest.param("prompt", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", PRECISIONS.names())
def test_nothing_of_a_class_is_left_in_a_bundle(precision: str, readout: str, tmp_path: Path) -> None:
    state = image_checkpoint(readout)
    export_bundle(state, tmp_path / "bundle", form=GraphForm(precision=precision))
    of_class = [state.tensors[name][BLUE] for name in class_row_names() if name in state.tensors]
    wide = [tensor for tensor in of_class if tensor.ndim]  # not the bias
    rows = [row for tensor in wide for row in tensor.reshape(-1, tensor.shape[-1])]
    assert len(rows) == (1 if readout == "prompt" else 2)
    kept = Bundle.open(tmp_path / "bundle").rows([0]).prompts
    before = all_bytes(tmp_path / "bundle")
    assert all(piece in before for piece in rows_in_every_form(rows)["fp32"])  # the control: the bank is float32
    erase_everywhere([tmp_path / "bundle"], ["blue"])
    after = all_bytes(tmp_path / "bundle")
    for name, pieces in rows_in_every_form(rows).items():
        assert not [piece for piece in pieces if piece in after], name
    np.testing.assert_array_equal(Bundle.open(tmp_path / "bundle").rows([0]).prompts, kept)
