"""A checkpoint as an ONNX graph whose input is the set of active classes, and its service without torch."""
