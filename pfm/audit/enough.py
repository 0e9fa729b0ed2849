"""How many retrained models an audit needs: as many as what the first ones differ by asks for.

Their spread is measured where it is widest, under resurrection from one and from ten samples.
"""

import statistics
from collections.abc import Callable, Sequence

from pfm.audit.config import AuditConfig
from pfm.audit.resurrection import Attacker
from pfm.audit.rule import MEASURES, recommended_oracles
from pfm.audit.subject import Loaded

SIZES = (1, 10)  # samples that the attacks have


def oracles_wanted(attacker: Attacker, oracles: Sequence[Loaded], say: Callable[[str], None]) -> int:
    """How many there are to be, at least those that are there.

    Args:
        oracles: the first ones.
    """
    config: AuditConfig = attacker.config
    if config.most_oracles <= len(oracles):
        return len(oracles)
    spread = max(
        statistics.stdev([float(attacker.attack(oracle, size=size, tokens=1).auroc.mean()) for oracle in oracles])
        for size in SIZES
    )
    found = recommended_oracles(spread, config.epsilon, config.most_oracles, MEASURES)
    said = f"{len(oracles)} retrained models differ by {100 * spread:.1f} points under attack"
    if found is None:
        say(f"{said}: even {config.most_oracles} will seldom pass everything, and these stay all there are")
        return len(oracles)
    say(f"{said}: {max(found, len(oracles))} are enough")
    return max(found, len(oracles))
