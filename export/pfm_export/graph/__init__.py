"""From a checkpoint to ONNX graphs that belong to no class, and the proof that they give the model's numbers."""
