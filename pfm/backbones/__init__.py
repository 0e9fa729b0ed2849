"""Transformers that others trained: one encoder, one file a family."""
