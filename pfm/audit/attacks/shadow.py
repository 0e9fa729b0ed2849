"""Membership with shadow models, LiRA and RMIA: before the removal, and after it, where the shadows forget as well."""

from typing import TypedDict

import torch

from pfm.audit import lira, rmia
from pfm.audit.attacks.attack import Measurement
from pfm.audit.models import Models
from pfm.audit.roc import CurveFigures, draw, rows_of, table_of, with_curve
from pfm.forgetting.erase import erase
from pfm.seeds import make_generator


class ShadowFigures(TypedDict, total=False):
    """By attack, lira and rmia; nothing where no shadow models are asked for."""

    num_shadows: int
    before: dict[str, CurveFigures]
    after: dict[str, CurveFigures]


class ShadowModels:
    """Attacks on samples of the class, by models that had each of them in training or not."""

    name = "shadow_attacks"
    about = "the same, and models of their own trained on random halves of all samples"

    def measure(self, models: Models) -> Measurement[ShadowFigures]:
        if not models.shadows:
            return Measurement({})
        return Measurement(
            {
                "num_shadows": len(models.shadows),
                "before": self._attack(models, "full"),
                "after": self._attack(models, "forgotten"),
            }
        )

    def _attack(self, models: Models, target: str) -> dict[str, CurveFigures]:
        """Attack the full model by the shadows as they are, or the forgotten one by shadows that forgot."""
        groups, data, has_labels = models.groups, models.data, target == "full"
        rows, populations = [], []
        for shadow in models.shadows:
            state = shadow.trained.checkpoint if has_labels else erase(shadow.trained.checkpoint, models.names)
            subject = models.subject("shadow", state)
            rows.append(torch.cat([subject.log_probabilities(s) for s in (groups.forget_train, groups.forget_test)]))
            populations.append(subject.log_probabilities(groups.retain_test))
        answers = models.answers[target]
        own = torch.cat([answers["forget_train"], answers["forget_test"]])
        # where the class is gone, no model answers with its label, and the answer that each gives stands for it
        labels = torch.cat([groups.forget_train.labels, groups.forget_test.labels]) if has_labels else None
        population_labels = groups.retain_test.labels if has_labels else None
        gone = torch.isin(torch.cat([data.train.labels, data.test.labels]), groups.forget_test.labels.unique())
        ratio = lira.scores(
            lira.stable_logit(own, labels),
            torch.stack([lira.stable_logit(row, labels) for row in rows]),
            torch.stack([shadow.is_in[gone] for shadow in models.shadows]),
        )
        relative = rmia.scores(
            _probability(own, labels),
            torch.stack([_probability(row, labels) for row in rows]),
            _probability(answers["retain_test"], population_labels),
            torch.stack([_probability(row, population_labels) for row in populations]),
        )
        count = len(groups.forget_train)
        return {
            name: with_curve(values[:count], values[count:], make_generator("shadows", name))
            for name, values in (("lira", ratio), ("rmia", relative))
        }

    def show(self, figures: ShadowFigures) -> str:
        if "num_shadows" not in figures or "before" not in figures or "after" not in figures:
            return ""
        found = {"before": figures["before"], "after": figures["after"]}
        rows = [row for moment, attacks in found.items() for row in rows_of(f"{moment} removal", attacks)]
        return (
            "<h2>Membership inference with shadow models</h2>"
            f"<p>{figures['num_shadows']} models of random halves of the samples.</p>"
            + draw("ROC curves with shadow models", found)
            + table_of(rows)
        )


def _probability(log_p: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """(N,) of each label, or of the answer where there is no label."""
    chosen = log_p.argmax(dim=1) if labels is None else labels
    return log_p.gather(1, chosen[:, None]).squeeze(1).exp()
