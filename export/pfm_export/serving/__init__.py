"""A bundle in service: ONNX Runtime, numpy and safetensors; no torch."""
