"""Whether a model that claims to forget exactly is the one that never saw the class: equality of digests."""

import html
from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.comparisons.fresh import fit_afresh, hash_of_rows
from pfm.audit.models import Models
from pfm.audit.verdict import FAIL, PASS, by_number
from pfm.forgetting.solution import misfits_of_solution


class ExactFigures(TypedDict):
    """Both digests; empty for a model that claims nothing.

    Keys:
        judged: of the model after.
        fresh: of a fit in another process, from the source files without the classes.
    """

    judged: str
    fresh: str


class Exact:
    """A fresh fit beside the audited artifact."""

    name = "exact"
    about = "the source data; fits the model again in another process"

    def measure(self, models: Models) -> Measurement[ExactFigures]:
        if not models.loaded["full"].model.readout.erasure_is_exact:
            return Measurement({"judged": "", "fresh": ""})
        models.say("exact: fitting without the classes in another process, from the source files")
        fresh = fit_afresh(models.full, models.source, models.names)
        record = models.judged.exact
        judged = str(record.get("digest", "")) if record.get("is_solved") else ""
        is_threshold = models.judged.unknown_below == fresh.unknown_below
        has_rows = judged != "" and hash_of_rows(models.judged) == fresh.rows
        wrong = misfits_of_solution(models.judged)  # the digest is of what the file says that it keeps
        is_equal = judged == fresh.digest and has_rows and is_threshold and not wrong
        said = "is that of" if judged == fresh.digest else "is not that of"
        threshold = "" if is_threshold else "; its threshold for `unknown` is another"
        rows = "" if has_rows or judged != fresh.digest else "; its rows are not those that are solved from them"
        judgement = by_number(
            "exact",
            "digest",
            float(is_equal),
            limit=1.0,
            verdict=PASS if is_equal else FAIL,
            reason=f"the digest over projection, sums and counts {said} a fit that never saw the classes"
            f"{rows}{threshold}{f'; {wrong[0]}' if wrong else ''}",
            settles=is_equal,
        )
        return Measurement({"judged": judged, "fresh": fresh.digest}, (judgement,))

    def show(self, figures: ExactFigures) -> str:
        if not figures["fresh"]:
            return ""
        return (
            "<h2>Exact</h2><p>Digest of what is judged, and of a fit in another process without the classes:</p>"
            f"<pre>{html.escape(figures['judged'])}\n{html.escape(figures['fresh'])}</pre>"
        )
