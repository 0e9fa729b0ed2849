"""The attacks of an audit, one a file, in the order in which they are made, judged and shown.

Another one is added from anywhere by `ATTACKS.register(name, attack)`; see `attack` for what it has to be.
"""

from pfm.audit.attacks.alignment import Alignment
from pfm.audit.attacks.attack import ATTACKS, Attack, Measurement
from pfm.audit.attacks.closed_form import ClosedForm
from pfm.audit.attacks.cost import Cost
from pfm.audit.attacks.derivable import Derivable
from pfm.audit.attacks.destinations import Destinations
from pfm.audit.attacks.exact import Exact
from pfm.audit.attacks.exposure import Exposure
from pfm.audit.attacks.from_samples import FromSamples
from pfm.audit.attacks.long_prompts import LongPrompts
from pfm.audit.attacks.membership import Membership
from pfm.audit.attacks.neighbours import Neighbours
from pfm.audit.attacks.output_shape import OutputShape
from pfm.audit.attacks.probe import Probe
from pfm.audit.attacks.prototypes import Prototypes
from pfm.audit.attacks.relearning import Relearning
from pfm.audit.attacks.resurrection import Resurrection
from pfm.audit.attacks.scale import Scale
from pfm.audit.attacks.shadow import ShadowModels
from pfm.audit.attacks.stored import Stored
from pfm.audit.attacks.utility import Utility

__all__ = ["ATTACKS", "Attack", "Measurement"]

for _attack in (
    Utility(),
    Destinations(),
    Neighbours(),
    OutputShape(),
    Stored(),
    Derivable(),
    FromSamples(),
    Membership(),
    ShadowModels(),
    Resurrection(),
    LongPrompts(),
    Prototypes(),
    Relearning(),
    Probe(),
    Alignment(),
    Scale(),
    Cost(),
    Exposure(),
    ClosedForm(),
    Exact(),
):
    ATTACKS.register(_attack.name, _attack)
