"""Forgetting put to the test: attacks, the models they are compared with, and a verdict that can fail.

One attack a file; each takes scores or tensors of whole batches and returns numbers. `protocol` runs them
all, `verdict` judges, `page` shows.
"""
