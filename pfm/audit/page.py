"""An audit as one HTML page that needs nothing else: pictures are in it, and no network is asked.

It is for somebody who has to answer for the data: first each level in one sentence, then what that rests on, then
pictures, then tables.
"""

import html
from collections.abc import Iterator
from typing import Any

from pfm.audit.attacks import ATTACKS
from pfm.audit.differences import draw_differences
from pfm.audit.markup import counted, page, picture, table, verdict
from pfm.audit.protocol import AuditDocument
from pfm.classes import listed

NOT_ATTACKED = (
    "copies elsewhere: backups, caches, exports, logs, other hosts; the audit sees one file",
    "reconstruction of single training samples from the weights or from gradients",
    "attackers who can ask the model for more than its answers without having its weights, such as timing",
    "attackers with more samples of the class, or who train for longer, than said above",
    "what the deletion of the class's data itself was like",
    "whether recipe, backbone and data are those that the checkpoint names; what it is compared with was made by them",
)
_STYLE = """
.box{border-left:.5rem solid;padding:.4rem 1rem;margin:.6rem 0;background:#f6f6f6;break-inside:avoid}
.box>span{color:#222}.box b{text-transform:capitalize}
.pass{color:#1e7d34}.fail{color:#b02a2a}.inconclusive{color:#9a6a00}.v{font-weight:700}
@media(prefers-color-scheme:dark){.box{background:#22252b}.box>span{color:#ddd}
.pass{color:#5fcf7a}.fail{color:#ff8a80}.inconclusive{color:#f0b840}}
@media print{.box{background:#fff;border:1px solid #aaa;border-left:.5rem solid}.box>span{color:#000}
.pass{color:#1e7d34}.fail{color:#b02a2a}.inconclusive{color:#9a6a00}}
"""


def render(document: AuditDocument) -> str:
    """The page of what `pfm.audit.protocol.audit` returned."""
    names = html.escape(listed(entry["name"] for entry in document["classes"]))
    parts = [
        f"<h1>Audit: was {names} forgotten?</h1>",
        *_levels(document["verdict"]),
        "<h2>What this rests on</h2>",
        *_basis(document),
        "<h2>Every comparison</h2>",
        _differences(document["verdict"]["measures"]),
        *_sections(document),
        "<h2>Every measure</h2>",
        _measures(document["verdict"]["measures"]),
    ]
    return page(f"Audit: {names}", parts, style=_STYLE)


def _levels(found: Any) -> Iterator[str]:
    """A box a level, and the overall verdict."""
    for level, value in found["levels"].items():
        sentence = html.escape(found["sentences"][level])
        yield f'<p class="box {value}"><span><b>{level}</b>: {verdict(value)}. {sentence}</span></p>'
    yield (
        f"<p>Overall: {verdict(found['overall'])}, the worst of all. A level includes those above it, and is as good "
        "as the worst of its measures.</p>"
    )
    if found["precondition"]:
        yield f"<p>{html.escape(_sentence(found['precondition']['reason']))}</p>"


def _basis(document: AuditDocument) -> Iterator[str]:
    """Models, samples, tolerance, attacks that were made and those that were not."""
    counts, rule = document["samples"], document["rule"]
    yield (
        f"<p>The model after the removal is compared with {counted(rule['oracles'], 'model')} trained again without "
        "the class (retrained models), and what these differ by among themselves is what counts as no difference. A "
        f"measure passes where the difference from their mean is with {rule['confidence']:.0%} confidence within its "
        f"tolerance ({rule['epsilon']:g} for areas under attack); it fails where the difference is larger than that, "
        "and than what one more retrained model would show.</p>"
        f"<p>Readout {html.escape(document['readout'])}, {document['num_classes']} classes; "
        f"{counts['forget_train']} training and {counts['forget_test']} test samples of the forgotten, "
        f"{counts['retain_train']} and {counts['retain_test']} of the others. {document['seconds']:.0f} s.</p>"
    )
    made = [
        [html.escape(name.replace("_", " ")), html.escape(getattr(ATTACKS.get(name), "about", ""))]
        for name in ATTACKS.names()
        if name in document
    ]
    yield "<h3>What was done</h3>" + table(["", "what the attacker has"], made, is_text=True)
    yield f"<h3>What was not</h3><ul>{''.join(f'<li>{html.escape(what)}</li>' for what in NOT_ATTACKED)}</ul>"


def _differences(measures: Any) -> str:
    drawn = draw_differences(measures)
    return picture("differences from the retrained models", drawn) if drawn else "<p>There are none.</p>"


def _sections(document: AuditDocument) -> list[str]:
    """Every attack's own section, those with pictures first."""
    shown = [attack.show(document[attack.name]) for attack in ATTACKS if attack.name in document]
    return sorted(shown, key=lambda section: "<img" not in section)


def _measures(measures: Any) -> str:
    rows = [
        [entry["level"], html.escape(entry["measure"]), verdict(entry["verdict"]), html.escape(entry["reason"])]
        for entry in measures
    ]
    return table(["level", "measure", "verdict", "why"], rows, is_text=True)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
