"""An audit as one HTML page that needs nothing else: pictures are in it, and no network is asked."""

import html

from pfm.audit.attacks import ATTACKS
from pfm.audit.markup import page, table, verdict
from pfm.audit.protocol import AuditDocument

_STYLE = """
.box{border-left:.5rem solid;padding:.6rem 1rem;background:#f6f6f6;font-size:1.15em}.box>span{color:#222}
.pass{color:#1e7d34}.fail{color:#b02a2a}.inconclusive{color:#9a6a00}.v{font-weight:700}
"""


def render(document: AuditDocument) -> str:
    """The page of what `pfm.audit.protocol.audit` returned: the verdict, then every attack's section."""
    names = ", ".join(html.escape(entry["name"]) for entry in document["classes"])
    found = document["verdict"]
    counts = document["samples"]
    measures = [
        [entry["level"], entry["measure"], verdict(entry["verdict"]), html.escape(entry["reason"])]
        for entry in found["measures"]
    ]
    parts = [
        f"<h1>Audit: was {names} forgotten?</h1>",
        f'<p class="box {found["overall"]}"><span>Overall verdict, the worst of all: {verdict(found["overall"])}. '
        "By level: "
        + ", ".join(f"{level} {verdict(value)}" for level, value in found["levels"].items())
        + f".</span></p><p>Readout {html.escape(document['readout'])}, {document['num_classes']} classes; "
        f"{counts['forget_train']} training and {counts['forget_test']} test samples of the forgotten, "
        f"{counts['retain_train']} and {counts['retain_test']} of the others. {document['seconds']:.0f} s.</p>",
        "<h2>Verdict</h2>",
        table(["level", "measure", "verdict", "why"], measures, is_text=True),
        *(attack.show(document[attack.name]) for attack in ATTACKS if attack.name in document),
    ]
    return page(f"Audit: {names}", parts, style=_STYLE)
