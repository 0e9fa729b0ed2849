"""What a tenant sees of a model: the classes that its profile leaves, by name; no other is there for it.

Names are resolved here and nowhere behind: an error of the session may list every class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pfm.classes import close_to, listed
from pfm_export.service.refusals import unknown_class
from pfm_export.serving.answers import ActiveSet

MOST_SHOWN = 40  # classes, in an error


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a request asks for.

    Attributes:
        active: names of the classes to choose from; None for all that there are.
        without: names of classes to leave out.
        profile: whose suspended classes are left out; None for the tenant's, or the default one.
    """

    active: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    profile: str | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """What there is for a tenant.

    Attributes:
        classes: names, in the model's order.
        profile: that leaves them.
        is_whole: it leaves out nothing.
    """

    classes: tuple[str, ...]
    profile: str | None
    is_whole: bool

    def choose(self, selection: Selection) -> ActiveSet:
        """The active set of a request.

        Raises:
            RefusedError: a class that is not there, or no class is left.
        """
        named = (*(selection.active or ()), *selection.without)
        self.require(named)
        left = set(self.classes if selection.active is None else selection.active) - set(selection.without)
        if not left:
            raise unknown_class("no class is active; leave at least one")
        return ActiveSet(selection.active, selection.without, self.profile)

    def require(self, names: Sequence[str]) -> None:
        """
        Raises:
            RefusedError: one of them is not there.
        """
        for name in names:
            if name not in self.classes:
                shown = listed(self.classes[:MOST_SHOWN]) + (", …" if len(self.classes) > MOST_SHOWN else "")
                raise unknown_class(f"no class {name[:80]!r}{close_to(name[:80], self.classes)} (classes: {shown})")
