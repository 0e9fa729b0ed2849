"""Who was trained on: thresholds, and attacks with shadow models, on what every model answers.

`answers` is {model: {group of samples: log probabilities (N, C + 1)}}, the last column `unknown`.
"""

import math
from typing import Any

import torch

from pfm.audit import figures, lira, rmia, thresholds
from pfm.audit.groups import Groups
from pfm.audit.rivals import Rival
from pfm.audit.subject import as_subject
from pfm.data.splits import ClassificationData
from pfm.forgetting.erase import erase
from pfm.seeds import make_generator

CURVE_POINTS = 200


def threshold_attacks(
    answers: dict[str, dict[str, torch.Tensor]], groups: Groups, generator: torch.Generator
) -> dict[str, Any]:
    """Threshold attacks within the class: its training samples against its test samples."""
    table: dict[str, Any] = {}
    for name in [name for name in answers if name not in ("closed_form", "masked", "untrained")]:
        by_group = answers[name]
        table[name] = {}
        for side in ("forget", "retain"):
            train, test = getattr(groups, f"{side}_train"), getattr(groups, f"{side}_test")
            inside = thresholds.all_scores(by_group[f"{side}_train"], train.labels)
            outside = thresholds.all_scores(by_group[f"{side}_test"], test.labels)
            table[name][side] = {}
            for score in [name for name in inside if name in outside]:
                found = thresholds.attack(inside[score], outside[score], generator)
                found["roc"] = thin(*figures.roc(inside[score], outside[score]))
                table[name][side][score] = found
    for score in ("confidence", "entropy"):  # beside a model that never saw them
        replicates = []
        for name in ("forgotten", "retrained"):
            inside = thresholds.all_scores(answers[name]["forget_train"], groups.forget_train.labels)[score]
            outside = thresholds.all_scores(answers[name]["forget_test"], groups.forget_test.labels)[score]
            # the same samples are drawn for both
            replicates.append(figures.auc_replicates(inside, outside, make_generator("membership", score)))
        low, high = figures.interval(replicates[0] - replicates[1])
        gap = table["forgotten"]["forget"][score]["auc"] - table["retrained"]["forget"][score]["auc"]
        table.setdefault("gap", {})[score] = {"gap": gap, "low": low, "high": high}
    return table


def thin(false: list[float], true: list[float]) -> list[list[float]]:
    """At most so many points of a curve, its ends kept."""
    step = max(1, math.ceil(len(false) / CURVE_POINTS))
    chosen = [*range(0, len(false), step), len(false) - 1]
    return [[round(false[i], 5) for i in chosen], [round(true[i], 5) for i in chosen]]


def shadow_attacks(
    answers: dict[str, dict[str, torch.Tensor]],
    shadows: list[tuple[Rival, torch.Tensor]],
    data: ClassificationData,
    groups: Groups,
    names: list[str],
    ids: tuple[int, ...],
    device: torch.device,
) -> dict[str, Any]:
    """LiRA and RMIA on samples of the class, before removal and after it, where the shadows forget as well."""
    if not shadows:
        return {}
    gone = torch.isin(torch.cat([data.train.labels, data.test.labels]), groups.forget_test.labels.unique())
    is_in = torch.stack([chosen[gone] for _, chosen in shadows])
    labels = torch.cat([groups.forget_train.labels, groups.forget_test.labels])
    found: dict[str, Any] = {"num_shadows": len(shadows)}
    for moment, target in (("before", "full"), ("after", "forgotten")):
        rows, population = [], []
        for rival, _ in shadows:
            state = rival.checkpoint if moment == "before" else erase(rival.checkpoint, names)
            subject = as_subject("shadow", state.build_model().to(device), state.preprocess, ids)
            asked = [subject.log_probabilities(s) for s in (groups.forget_train, groups.forget_test)]
            rows.append(torch.cat(asked))
            population.append(subject.log_probabilities(groups.retain_test))
        own = torch.cat([answers[target]["forget_train"], answers[target]["forget_test"]])
        known = labels if moment == "before" else None
        ratio = lira.scores(
            lira.stable_logit(own, known), torch.stack([lira.stable_logit(row, known) for row in rows]), is_in
        )
        relative = rmia.scores(
            _probability(own, known),
            torch.stack([_probability(row, known) for row in rows]),
            _probability(answers[target]["retain_test"], groups.retain_test.labels if known is not None else None),
            torch.stack(
                [_probability(p, groups.retain_test.labels if known is not None else None) for p in population]
            ),
        )
        count = len(groups.forget_train)
        found[moment] = {
            name: thresholds.attack(values[:count], values[count:], make_generator("shadows", name))
            | {"roc": thin(*figures.roc(values[:count], values[count:]))}
            for name, values in (("lira", ratio), ("rmia", relative))
        }
    return found


def _probability(log_p: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    chosen = log_p.argmax(dim=1) if labels is None else labels
    return log_p.gather(1, chosen[:, None]).squeeze(1).exp()
