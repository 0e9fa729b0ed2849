"""Random streams by name: a generator is derived from what it is for, never from what ran before."""

import hashlib

import torch


def make_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on every part of `key`, and on nothing else."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
