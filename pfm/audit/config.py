"""How much an audit attacks, and how long."""

from dataclasses import dataclass

from pfm.audit.rule import Tolerance


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """How much is attacked, and how long.

    Attributes:
        sizes: how many samples of the class an attacker has, each in turn.
        tokens: how many new prompt tokens an attacker learns, each in turn.
        attack_until: an attack stops where its samples are answered with the class with this probability.
        oracles: how many models are retrained without the class; see `pfm.audit.rule.prospects`.
        random_rounds: how often a prompt is drawn at random in place of each formula, to compare with what was derived.
        most_oracles: how many may be, where the first ones differ too much under attack for so few; see
            `pfm.audit.enough`. No more than `oracles` where it is smaller.
        seeds_tried: how many small seeds are tried, whether the surviving prompts follow from one of them.
        long_tokens, long_size: of prompts that an attacker learns with restarts, each in turn, and from how many
            samples.
        restarts: how many starts of such a prompt are tried; the one with the lowest loss is kept.
        relearn_steps: after how many steps of fine-tuning the class is asked for.
        relearn_size: samples of the class that are fine-tuned on.
        relearn_seeds: how often each fine-tuning is done, with other samples.
        processes: that train what is compared with; two at most are made use of.
        epsilon: how far from the retrained models' mean areas under attack may be; other tolerances are those of
            `pfm.audit.rule.Tolerance`.
    """

    sizes: tuple[int, ...] = (1, 10)
    tokens: tuple[int, ...] = (1,)
    attack_seeds: int = 30
    attack_steps: int = 150
    attack_lr: float = 0.01
    attack_until: float = 0.9
    shadows: int = 2
    oracles: int = 3
    random_rounds: int = 24
    most_oracles: int = 0
    seeds_tried: int = 100
    long_tokens: tuple[int, ...] = (5, 10)
    long_size: int = 1
    restarts: int = 3
    relearn_steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20)
    relearn_size: int = 10
    relearn_seeds: int = 3
    relearn_lr: float = 3e-3
    processes: int = 1
    epsilon: float = Tolerance.AREA
    seed: int = 0


QUICK = AuditConfig()
FULL = AuditConfig(
    sizes=(0, 1, 5, 10, 50, 10**9), attack_seeds=60, attack_steps=400, shadows=16, oracles=10, most_oracles=20,
    long_size=10,
    restarts=5,
    relearn_steps=(0, 1, 2, 5, 10, 20, 50, 100), relearn_seeds=6,
)  # fmt: skip
