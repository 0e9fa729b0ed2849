"""The options of `pfm bench train` and `pfm bench eval`."""

from dataclasses import dataclass

from pfm.options import LARGEST_SEED, option


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured, for how long and where."""

    model_name: str = option(
        "scratch:vit_tiny_patch16_224", "Shape of the backbone: scratch:NAME, a hub id or a local folder."
    )
    num_classes: int = option(8, "Classes in the bank.", minimum=2)
    batch_size: int = option(32, "Images per batch.", minimum=1)
    rounds: int = option(20, "Rounds; in each, every variant runs once.", minimum=5)
    seconds: float = option(60.0, "Stop early after this time (not before 5 rounds).", minimum=1.0)
    threads: int = option(0, "CPU threads.  [0: all cores]", minimum=0)
    device: str = option("auto", "Where everything runs.", choices=("auto", "cpu", "cuda"))
    seed: int = option(0, "Seed of weights, images and draws.", minimum=0, maximum=LARGEST_SEED)
    memory: bool = option(
        False, "On a CPU: measure the peak memory too, in a process of its own for each variant (a GPU's always is)."
    )


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig(BenchConfig):
    """`pfm bench train`."""

    compile: bool = option(
        False, "Measure each of our variants compiled by torch.compile as well; minutes pass before the first round."
    )


@dataclass(frozen=True, kw_only=True)
class EvalBenchConfig(BenchConfig):
    """`pfm bench eval`."""

    num_images: int = option(32, "Images to evaluate.", minimum=1)
    max_subsets: int = option(4, "Evaluate at most this many subsets for each k; 0: all.", minimum=0)
