"""An audit that takes seconds."""

import dataclasses

from pfm.audit.config import QUICK

SMALL = dataclasses.replace(
    QUICK, sizes=(1,), attack_seeds=2, attack_steps=20, shadows=2, long_tokens=(2,), restarts=2, relearn_steps=(0, 3),
    relearn_seeds=1,
)  # fmt: skip
