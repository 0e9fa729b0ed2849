"""An audit as one HTML page that needs nothing else: pictures are in it, and no network is asked."""

import base64
import html
from typing import Any

from pfm.evaluation.pictures import Curve, draw_bars, draw_curves

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-size:14px}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd}
td,th{text-align:right}td:first-child,th:first-child,.text{text-align:left}img{max-width:100%;height:auto}
.box{border-left:.5rem solid;padding:.6rem 1rem;background:#f6f6f6;font-size:1.15em}.box>span{color:#222}
.pass{color:#1e7d34}.fail{color:#b02a2a}.inconclusive{color:#9a6a00}.v{font-weight:700}
"""


def render(result: dict[str, Any]) -> str:
    """The page of what `pfm.audit.protocol.audit` returned."""
    names = ", ".join(html.escape(entry["name"]) for entry in result["classes"])
    verdict = result["verdict"]
    counts = result["samples"]
    parts = [
        f"<h1>Audit: was {names} forgotten?</h1>",
        f'<p class="box {verdict["overall"]}"><span>Overall verdict, the worst of all: {_verdict(verdict["overall"])}. '
        "By level: "
        + ", ".join(f"{level} {_verdict(value)}" for level, value in verdict["levels"].items())
        + f".</span></p><p>Readout {html.escape(result['readout'])}, {result['num_classes']} classes; "
        f"{counts['forget_train']} training and {counts['forget_test']} test samples of the forgotten, "
        f"{counts['retain_train']} and {counts['retain_test']} of the others. {result['seconds']:.0f} s.</p>",
        "<h2>Verdict</h2>",
        _table(
            ["level", "measure", "verdict", "why"],
            [[e["level"], e["measure"], _verdict(e["verdict"]), html.escape(e["reason"])] for e in verdict["measures"]],
            text=True,
        ),
        "<h2>Utility</h2>",
        _utility(result),
        "<h2>Shape of the output on samples of the forgotten</h2>",
        _picture("output shape", _shape(result)),
        "<p>1 is uniform. Each model is asked for test samples of the forgotten classes.</p>",
        "<h2>Membership inference</h2>",
        "<p>Training samples of the forgotten classes against their test samples. Below ½ the attacker flips the "
        "sign, so what counts is the distance from ½.</p>",
        _membership(result),
        _picture("ROC curves", _roc(result)),
        "<h2>Resurrection</h2>",
        "<p>An attacker with the weights learns a new prompt from n samples. S@n is the mean of the accuracy on the "
        "forgotten classes and on the retained ones; bands span the attack seeds. The control learns from samples of "
        "other classes under the forgotten label.</p>",
        _picture("resurrection", _resurrection(result)),
        "<h2>Linear probe by layer</h2>",
        _picture("probe", _probe(result)),
        "<h2>Cost and what stays</h2>",
        _cost(result),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Audit: {names}</title>'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>\n'
    )


def _verdict(value: str) -> str:
    return f'<span class="v {value}">{value}</span>'


def _table(head: list[str], rows: list[list[str]], *, text: bool = False) -> str:
    kind = ' class="text"' if text else ""
    body = "".join("<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th{kind}>{name}</th>' for name in head)}</tr>{body}</table>"


def _picture(alt: str, png: bytes) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _utility(result: dict[str, Any]) -> str:
    rows = []
    for name, row in result["utility"].items():
        gap = f"{100 * row['average_gap']:.1f}" if "average_gap" in row else "–"
        shares = [row[f"{key}_accuracy"] for key in ("forget", "retain_train", "retain_test")]
        shape = result["shape"][name]
        rows.append(
            [html.escape(name), *(f"{100 * share:.1f}" for share in shares), f"{100 * row['worst_drop']:.1f}",
             f"{100 * row['calibration_error']:.1f}", gap, f"{shape['entropy']:.3f}",
             f"{shape['js_to_retrained']:.3f}"]
        )  # fmt: skip
    head = ["model", "forget %", "retain train %", "retain test %", "worst drop", "ECE", "AvgGap", "H/ln C", "JS"]
    return _table(head, rows)


def _shape(result: dict[str, Any]) -> bytes:
    chosen = [name for name in ("full", "suspended", "forgotten", "retrained", "masked") if name in result["shape"]]
    middles = [(i + 0.5) / 20 for i in range(20)]
    curves = {name: Curve(middles, result["shape"][name]["histogram"]) for name in chosen}
    return draw_curves({"normalised entropy": curves}, xlabel="H(p) / ln C", ylabel="samples")


def _membership(result: dict[str, Any]) -> str:
    rows = []
    for name, sides in result["membership"].items():
        for score, found in sides.get("forget", {}).items():
            rows.append(_attack_row(html.escape(name), score, found))
    for moment in ("before", "after"):
        for score, found in result["shadow_attacks"].get(moment, {}).items():
            rows.append(_attack_row(f"{moment} removal", score, found))
    return _table(["model and score", "AUC", "95 %", "TPR at 1 % FPR", "TPR at 0.1 %"], rows)


def _attack_row(name: str, score: str, found: dict[str, Any]) -> list[str]:
    label = f"{name}: {score.replace('_', ' ')}"
    return [label, f"{found['auc']:.3f}", f"{found['auc_low']:.3f} – {found['auc_high']:.3f}",
            f"{100 * found['tpr_at_1pct']:.1f} %", f"{100 * found['tpr_at_01pct']:.1f} %"]  # fmt: skip


def _roc(result: dict[str, Any]) -> bytes:
    line = [10 ** (-3 + 3 * i / 20) for i in range(21)]
    panels = {}
    for name, title in (("full", "before"), ("forgotten", "after"), ("retrained", "never saw it")):
        curves = {score: Curve(*found["roc"]) for score, found in result["membership"][name]["forget"].items()}
        for score, found in result["shadow_attacks"].get(title, {}).items():
            curves[score] = Curve(*found["roc"])
        panels[title] = {**curves, "chance": Curve(line, line, is_dashed=True)}
    return draw_curves(panels, xlabel="false positive rate", ylabel="true positive rate", is_log=True)


def _resurrection(result: dict[str, Any]) -> bytes:
    panels: dict[str, dict[str, Curve]] = {}
    for tokens in sorted({entry["tokens"] for entry in result["resurrection"]}):
        entries = [entry for entry in result["resurrection"] if entry["tokens"] == tokens]
        sizes = [entry["n"] for entry in entries]
        curves = {}
        for name, pick in (
            ("forgotten", lambda entry: entry["forgotten"]),
            ("retrained", lambda entry: entry["retrained"][0]),
            ("control", lambda entry: entry["control"]),
        ):
            found = [pick(entry) for entry in entries]
            curves[name] = Curve(
                sizes,
                [one["selective"] for one in found],
                [one["selective_range"][0] for one in found],
                [one["selective_range"][1] for one in found],
                is_dashed=name == "control",
            )
        curves["gap"] = Curve(
            sizes, [e["gap"] for e in entries], [e["gap_low"] for e in entries], [e["gap_high"] for e in entries]
        )
        panels[f"{tokens} new token{'s' * (tokens > 1)}"] = curves
    return draw_curves(panels, xlabel="samples the attacker has (n)", ylabel="S@n", ticks=True)


def _probe(result: dict[str, Any]) -> bytes:
    layers = {name: {f"layer {i}": v for i, v in enumerate(a)} for name, a in result["probe"]["accuracy"].items()}
    return draw_bars(layers, ylabel="balanced accuracy, class against rest")


def _cost(result: dict[str, Any]) -> str:
    cost, exposure = result["cost"], result["exposure"]
    rows = [
        ["erase until the first answer without the class, p50", f"{1000 * cost['erase_p50_s']:.1f} ms"],
        ["the same, slowest of 20", f"{1000 * cost['erase_p99_s']:.1f} ms"],
        ["fine-tuning on the retained samples", f"{cost['finetune_s']:.1f} s"],
        ["retraining without the class", f"{cost['retrain_s']:.1f} s"],
        ["parameters erased, of all that learned from the class",
         f"{exposure['erased']:,} of {exposure['trained']:,}"],
        ["residual exposure", f"{exposure['residual']:.4f}"],
        ["closed form: subtraction against retraining, largest difference of a weight",
         f"{result['closed_form']['largest_difference_to_retraining']:.1e}"],
    ]  # fmt: skip
    return _table(["", ""], rows)
