"""What the answers of each model say: utility, calibration, the shape of the output.

`answers` is {model: {group of samples: log probabilities (N, C + 1)}}, the last column `unknown`.
"""

import statistics
from typing import Any

import torch

from pfm.audit import figures
from pfm.audit.groups import Groups

Answers = dict[str, dict[str, torch.Tensor]]


def utility(answers: dict[str, dict[str, torch.Tensor]], groups: Groups) -> dict[str, dict[str, Any]]:
    """FA, RA, TA, calibration and the worst single class, for every model."""
    labels = {name: split.labels for name, split in vars(groups).items()}
    table = {}
    for name, by_group in answers.items():
        right = {group: log_p.argmax(dim=1) == labels[group] for group, log_p in by_group.items()}
        hits, count = int(right["forget_test"].sum()), len(right["forget_test"])
        by_class = {
            int(c): float(right["retain_test"][labels["retain_test"] == c].double().mean())
            for c in labels["retain_test"].unique()
        }
        table[name] = {
            "forget_accuracy": hits / max(1, count),
            "forget_accuracy_interval": figures.share_interval(hits, count),
            "retain_train_accuracy": float(right["retain_train"].double().mean()),
            "retain_test_accuracy": float(right["retain_test"].double().mean()),
            "by_class": by_class,
            "calibration_error": figures.calibration_error(by_group["retain_test"], labels["retain_test"]),
        }
    for row in table.values():
        row["worst_drop"] = max(table["full"]["by_class"][c] - value for c, value in row["by_class"].items())
    return table


def add_average_gap(result: dict[str, Any]) -> None:
    """AvgGap to the retrained model: of UA, RA, TA and membership (two-sided, by entropy), a quarter each."""
    rows, attacks = result["utility"], result["membership"]
    for name, row in rows.items():
        differences = [
            abs(row[key] - rows["retrained"][key])
            for key in ("forget_accuracy", "retain_train_accuracy", "retain_test_accuracy")
        ]
        if name in attacks:
            mine, theirs = (attacks[n]["forget"]["entropy"]["auc"] for n in (name, "retrained"))
            row["average_gap"] = statistics.fmean([*differences, abs(mine - theirs)])


def output_shape(
    answers: dict[str, dict[str, torch.Tensor]], groups: Groups, generator: torch.Generator, *, has_unknown: bool
) -> dict[str, dict[str, Any]]:
    """How certain each model is about test samples of the forgotten classes, and how far from the oracle."""
    table = {}
    for name, by_group in answers.items():
        log_p = by_group["forget_test"]
        entropy = figures.normalised_entropy(log_p)
        table[name] = {
            "entropy": float(entropy.mean()),
            "entropy_interval": figures.mean_interval(entropy, generator),
            "histogram": torch.histc(entropy.clamp(0, 1), bins=20, min=0, max=1).tolist(),
            "js_to_retrained": float(figures.js_divergence(log_p, answers["retrained"]["forget_test"]).mean()),
        }
        if has_unknown:
            share = (log_p.argmax(dim=1) == log_p.shape[1] - 1).double()
            table[name]["unknown"] = float(share.mean())
            table[name]["unknown_interval"] = figures.share_interval(int(share.sum()), len(share))
    return table
