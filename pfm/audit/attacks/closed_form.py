"""Whether forgetting in closed form is exact: taking a class's sums out against fitting without it."""

from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import table
from pfm.audit.models import Models


class ClosedFormFigures(TypedDict):
    """The largest difference of a weight."""

    largest_difference_to_retraining: float


class ClosedForm:
    """The baseline of a sceptic, least squares on frozen features; its answers are in the tables of all models."""

    name = "closed_form"
    about = "no attack: the simplest rival"

    def measure(self, models: Models) -> Measurement[ClosedFormFigures]:
        return Measurement({"largest_difference_to_retraining": models.difference_of_closed_form})

    def show(self, figures: ClosedFormFigures) -> str:
        rows = [
            ["subtraction against retraining, largest difference of a weight",
             f"{figures['largest_difference_to_retraining']:.1e}"],
        ]  # fmt: skip
        return "<h2>Closed form</h2>" + table(["", ""], rows)
