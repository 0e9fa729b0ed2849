"""What an attack is: it measures the models, judges what it found, and shows it."""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pfm.audit.models import Models
from pfm.audit.verdict import Judgement
from pfm.registry import Registry

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Measurement(Generic[Figures]):
    """What an attack found.

    Attributes:
        figures: plain JSON, for audit.json.
        judgements: none where the figures are only reported.
    """

    figures: Figures
    judgements: tuple[Judgement, ...] = ()


class Attack(Protocol[Figures]):
    """An attack, or anything else that is measured.

    Attributes:
        name: its key in audit.json.

    It may say `about` as well: what the attacker has, in a few words, for the page.
    """

    @property
    def name(self) -> str: ...

    def measure(self, models: Models) -> Measurement[Figures]:
        """Ask the models."""
        ...

    def show(self, figures: Figures) -> str:
        """Its section of the page, in HTML; nothing where there is nothing to show."""
        ...


ATTACKS: Registry[Attack[Any]] = Registry("attack")
