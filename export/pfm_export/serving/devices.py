"""Where a bundle can be computed, by the names that `--device` takes; imports nothing."""

from collections.abc import Mapping

# of OpenVINO, what float32 graphs are computed in
HINTS: Mapping[str, str] = {"openvino": "f32", "openvino-bf16": "bf16"}
DEVICES = ("auto", "cpu", "cuda", "tensorrt", *HINTS)
