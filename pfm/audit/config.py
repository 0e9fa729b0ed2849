"""How much an audit attacks, and how long."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """How much is attacked, and how long.

    Attributes:
        sizes: how many samples of the class an attacker has, each in turn.
        tokens: how many new prompt tokens an attacker learns, each in turn.
        random_prompts: how many prompts are drawn at random, to compare with what was derived.
        seeds_tried: how many small seeds are tried, whether the surviving prompts follow from one of them.
        epsilon: how far the resurrection gap and the other gaps may be from zero.
    """

    sizes: tuple[int, ...] = (1, 10)
    tokens: tuple[int, ...] = (1,)
    attack_seeds: int = 5
    attack_steps: int = 150
    attack_lr: float = 0.05
    shadows: int = 4
    oracles: int = 1
    random_prompts: int = 24
    seeds_tried: int = 100
    epsilon: float = 0.05
    seed: int = 0


QUICK = AuditConfig()
FULL = AuditConfig(
    sizes=(0, 1, 5, 10, 50, 10**9), tokens=(1, 5, 10), attack_seeds=10, attack_steps=400, shadows=16, oracles=3
)
