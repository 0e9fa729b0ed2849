"""OpenVINO as a device: the labels of ONNX Runtime from the same bundle, and the same forgetting."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from making.served import PARAMS, opened
from pfm.errors import DeviceError
from pfm_export.serving.open_vino import OpenVinoGraph
from pfm_export.serving.session import ActiveSet, PromptSession
from pfm_export.serving.signature import MODEL

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is an extra")
SETS = (None, ["red"], ["blue", "red"], ["grey", "green", "red"])
# bfloat16 keeps 8 bits of a factor: 0.003 of a probability was the most that differed in any form
TOLERANCE = {"openvino": 1e-5, "openvino-bf16": 2e-2}


@pytest.mark.parametrize("form", PARAMS)
def test_its_answers_are_those_of_onnx_runtime(forms: Callable[[str], Path], form: str) -> None:
    reference = PromptSession(forms(form), device="cpu", threads=1)
    for device, tolerance in TOLERANCE.items():
        session, random = PromptSession(forms(form), device=device, threads=1), np.random.default_rng(0)
        assert session.provider.startswith("OpenVINO")
        assert "openvino_telemetry" not in sys.modules  # which forks this process to send a message
        for rows in (1, 3, 1):
            inputs = reference.input.random(rows, random)
            for active in SETS:
                found, expected = session.predict(inputs, active), reference.predict(inputs, active)
                np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=tolerance)
                assert device != "openvino" or found.labels == expected.labels
            sets = [ActiveSet(active=("red", "grey")), ActiveSet(), ActiveSet(without=("blue",))][:rows]
            pairs = zip(session.predict_each(inputs, sets), reference.predict_each(inputs, sets), strict=True)
            for one, other in pairs:
                np.testing.assert_allclose(one.probabilities, other.probabilities, atol=tolerance)


def test_it_suspends_erases_and_is_served(forms: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(forms("shared"), tmp_path / "shared"))
    inputs = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    entry = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": inputs.tolist()}
    with opened(folder, device="openvino") as local:

        def classes() -> list[str]:
            answer = local("POST", "/v2/models/shared/infer", json={"inputs": [entry]})
            found = {output["name"]: output["data"] for output in answer.json()["outputs"]}
            expected = PromptSession(folder, device="cpu").predict(inputs)
            assert found["labels"] == expected.labels
            np.testing.assert_allclose(found["probabilities"], expected.probabilities[0], atol=1e-5)
            return found["classes"]

        assert len(classes()) == 4
        for what, names in (("suspend", ["grey"]), ("erase", ["red"]), ("restore", ["grey"])):
            answer = local("POST", f"/v1/models/shared/{what}", json={"classes": names})
            assert answer.status_code == 200, answer.text
            assert ("grey" in classes()) == (what == "restore")
            assert ("red" in classes()) == (what == "suspend")


def test_what_it_cannot_be_given_is_refused(forms: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="CUDA graphs need --device cuda"):
        PromptSession(forms("shared"), device="openvino", cuda_graphs=True)
    with pytest.raises(DeviceError, match="the integers of an exact readout have to be exact"):
        OpenVinoGraph(SimpleNamespace(exact="a state"), MODEL, device="openvino", threads=1)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="choose auto, cpu, cuda, tensorrt, openvino or openvino-bf16"):
        PromptSession(forms("shared"), device="npu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"pip install 'pfm\[openvino\]'"):
        PromptSession(forms("shared"), device="openvino")
