"""What needs a GPU: `pytest tests/gpu -m gpu -n0`.

PFM_GPU_TESTS_ON=cpu runs the same on the CPU, as far as it makes sense there: to try the tests themselves.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from making.served import export_form

ON = os.environ.get("PFM_GPU_TESTS_ON", "cuda")


@pytest.fixture(scope="session")
def device() -> str:
    """`cuda`; the test is skipped where torch finds no GPU."""
    import torch

    if ON == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return ON


@pytest.fixture(scope="session")
def ort_device(device: str) -> str:
    """The same for ONNX Runtime, which may come without CUDA."""
    from pfm_export.serving.runtime import CUDA, choose_providers

    if device == "cuda" and choose_providers("auto")[0] != CUDA:
        pytest.skip("this ONNX Runtime has no CUDA")
    return device


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A bundle by the name of its form; not to be changed."""
    folder = tmp_path_factory.mktemp("forms")

    def exported(name: str) -> Path:
        return folder / name if (folder / name).exists() else export_form(name, folder / name)

    return exported
