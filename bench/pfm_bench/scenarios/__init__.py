"""What is timed: training, evaluation, service, erasure, each beside its reference in one interleaved run."""
