"""The audit from end to end: models, measures, verdict, as one dictionary.

Letters: N samples, C classes of the full model.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pfm import __version__
from pfm.audit import figures, lira, probe, resurrection, rmia, thresholds
from pfm.audit.rivals import Rival, Rivals, by_position, closed_form_subject, renumber, untrained
from pfm.audit.subject import Subject, as_subject
from pfm.audit.verdict import ANSWERED, FAIL, PASS, UNIFORM, Judgement, at_least, at_most, summarise, within
from pfm.checkpoint import Checkpoint
from pfm.classes import check_removal
from pfm.data import ClassificationData, Split
from pfm.draws import make_generator
from pfm.errors import ClassNameError
from pfm.forgetting import erase
from pfm.model import CLASS_ROWS, PromptedClassifier
from pfm.options import option

CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """How much is attacked, and how long."""

    sizes: tuple[int, ...] = (1, 10)
    tokens: tuple[int, ...] = (1,)
    attack_seeds: int = 5
    attack_steps: int = 150
    attack_lr: float = 0.05
    shadows: int = 4
    oracles: int = 1
    epsilon: float = option(0.05, "How far the resurrection gap and the other gaps may be from zero.", minimum=0.0)
    seed: int = 0


QUICK = AuditConfig()
FULL = AuditConfig(
    sizes=(0, 1, 5, 10, 50, 10**9), tokens=(1, 5, 10), attack_seeds=10, attack_steps=400, shadows=16, oracles=3
)


@dataclass
class Groups:
    """The samples an audit asks about: of the forgotten classes and of the others, trained on and not."""

    forget_train: Split
    forget_test: Split
    retain_train: Split
    retain_test: Split

    @classmethod
    def of(cls, data: ClassificationData, positions: Sequence[int]) -> "Groups":
        gone = torch.tensor(list(positions))

        def part(split: Split, is_gone: bool) -> Split:
            return split.subset((torch.isin(split.labels, gone) == is_gone).nonzero()[:, 0])

        return cls(part(data.train, True), part(data.test, True), part(data.train, False), part(data.test, False))


def audit(
    full: Checkpoint,
    data: ClassificationData,
    keys: Sequence[str | int],
    config: AuditConfig,
    folder: Path,
    device: torch.device,
    *,
    judged: Checkpoint | None = None,
    served: dict[str, Subject] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Attack a model that was made to forget, beside one that never saw the classes.

    Args:
        full: the model before.
        keys: the classes.
        folder: where comparison models are kept.
        judged: the model after; default what `erase` makes of `full`. One that still holds the classes is
            judged with their prompts left out.
        served: exported graphs to ask as well, by name.

    Raises:
        ClassNameError: `full` does not have the classes.
    """
    if not full.classes.names:
        raise ClassNameError("the checkpoint has no classes")
    positions = full.classes.positions(keys)
    check_removal(full.classes, positions)
    started = time.monotonic()
    data = by_position(data, full)
    groups = Groups.of(data, positions)
    gone = [full.classes.ids[p] for p in positions]
    names = [full.classes.names[p] for p in positions]
    smaller = erase(full, names)
    judged = smaller if judged is None else judged
    left_over = [number for number in gone if number in judged.classes.ids]
    attacked = (
        erase(judged, [str(judged.classes.names[judged.classes.ids.index(i)]) for i in left_over])
        if left_over
        else judged
    )

    rivals = Rivals(full, data, positions, folder, device, say)
    oracles = [rivals.retrained(None if n == 0 else rivals.config.train.seed + n) for n in range(config.oracles)]
    tuned = rivals.finetuned()
    shadows = [rivals.shadow(number) for number in range(config.shadows)]
    say("asking every model")
    models = {
        "full": full.build_model().to(device),
        "forgotten": attacked.build_model().to(device),
        "retrained": oracles[0].checkpoint.build_model().to(device),
        "finetuned": tuned.checkpoint.build_model().to(device),
    }
    stored = judged.build_model().to(device) if left_over else None
    ids = full.classes.ids
    subjects = {name: as_subject(name, model, _pre(name, full, oracles), ids) for name, model in models.items()}
    subjects["masked"] = as_subject("masked", models["full"], full.preprocess, ids, masked=gone)
    subjects["suspended"] = as_subject("suspended", models["full"], full.preprocess, ids, without=gone)
    subjects["untrained"] = as_subject("untrained", untrained(smaller).to(device), full.preprocess, ids)
    subjects["closed_form"], exactness = closed_form_subject(full, data, positions)
    subjects |= served or {}
    answers = {
        name: {group: subject.log_probabilities(split) for group, split in vars(groups).items()}
        for name, subject in subjects.items()
    }
    generator = make_generator(config.seed, "bootstrap")
    result: dict[str, Any] = {
        "pfm": __version__,
        "classes": [{"id": i, "name": n} for i, n in zip(gone, names, strict=True)],
        "num_classes": len(full.classes),
        "readout": full.model.readout,
        "wrong_target": full.model.wrong_target,
        "config": dataclasses.asdict(config),
        "samples": {name: len(split) for name, split in vars(groups).items()},
        "epsilon": config.epsilon,
    }
    result["utility"] = _utility(answers, groups)
    result["shape"] = _shape(answers, groups, generator, has_unknown=full.model.wrong_target == "none")
    say("membership inference")
    result["membership"] = _membership(answers, groups, generator)
    _add_average_gap(result)
    result["shadow_attacks"] = _shadow_attacks(answers, shadows, data, groups, names, ids, device)
    say("resurrection")
    result["resurrection"] = _resurrection(
        models["forgotten"],
        [models["retrained"], *(o.checkpoint.build_model().to(device) for o in oracles[1:])],
        attacked,
        [oracle.checkpoint for oracle in oracles],
        groups,
        config,
        positions,
        device,
    )
    say("probes")
    result["probe"] = _probes(models, full, oracles, data, groups, config)
    result["stored"] = _stored(judged, stored, groups, gone, ids)
    result["closed_form"] = {"largest_difference_to_retraining": exactness}
    result["cost"] = _cost(full, names, oracles, tuned, groups, device)
    result["exposure"] = _exposure(full, positions)
    result["verdict"] = summarise(_judge(result, config))
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def _pre(name: str, full: Checkpoint, oracles: list[Rival]) -> Any:
    return oracles[0].checkpoint.preprocess if name == "retrained" else full.preprocess


# --- measures -------------------------------------------------------------------------------------


def _utility(answers: dict[str, dict[str, torch.Tensor]], groups: Groups) -> dict[str, dict[str, Any]]:
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


def _add_average_gap(result: dict[str, Any]) -> None:
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


def _shape(
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


def _membership(
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
                found["roc"] = _thin(*figures.roc(inside[score], outside[score]))
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


def _thin(false: list[float], true: list[float]) -> list[list[float]]:
    """At most so many points of a curve, its ends kept."""
    step = max(1, math.ceil(len(false) / CURVE_POINTS))
    chosen = [*range(0, len(false), step), len(false) - 1]
    return [[round(false[i], 5) for i in chosen], [round(true[i], 5) for i in chosen]]


def _shadow_attacks(
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
            | {"roc": _thin(*figures.roc(values[:count], values[count:]))}
            for name, values in (("lira", ratio), ("rmia", relative))
        }
    return found


def _probability(log_p: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    chosen = log_p.argmax(dim=1) if labels is None else labels
    return log_p.gather(1, chosen[:, None]).squeeze(1).exp()


def _resurrection(
    forgotten: PromptedClassifier,
    oracles: list[PromptedClassifier],
    attacked: Checkpoint,
    oracle_states: list[Checkpoint],
    groups: Groups,
    config: AuditConfig,
    positions: Sequence[int],
    device: torch.device,
) -> list[dict[str, Any]]:
    """S@n of the forgotten model, of the oracles and of the control, and the gap, for each n and m."""
    pools = {
        "class": torch.arange(len(groups.forget_train)),
        # the control knows nothing of the class: its samples carry the label of the class by chance
        "shuffled": torch.arange(len(groups.retain_train)),
    }
    kept = renumber(len(positions) + len(oracle_states[0].classes), positions)
    retain_labels = kept[groups.retain_test.labels].to(device)
    found = []
    for tokens in config.tokens:
        for size in config.sizes:

            def attack(
                model: PromptedClassifier, state: Checkpoint, pool: str, tokens: int = tokens, size: int = size
            ) -> resurrection.Recovery:
                split = groups.forget_train if pool == "class" else groups.retain_train
                limit = min(size, len(groups.forget_train))
                chosen = resurrection.choose_samples(pools[pool], limit, config.attack_seeds, config.seed, pool)
                images = split.images[chosen.flatten()].to(device)
                return resurrection.resurrect(
                    model,
                    state.preprocess(images).unflatten(0, chosen.shape),
                    state.preprocess(groups.forget_test.images.to(device)),
                    state.preprocess(groups.retain_test.images.to(device)),
                    retain_labels,
                    num_tokens=tokens,
                    steps=config.attack_steps,
                    lr=config.attack_lr,
                    seed=config.seed,
                )

            mine = attack(forgotten, attacked, "class")
            theirs = [attack(m, state, "class") for m, state in zip(oracles, oracle_states, strict=True)]
            control = attack(forgotten, attacked, "shuffled")
            gaps = [
                resurrection.gap_interval(mine, other, make_generator(config.seed, "gap", size)) for other in theirs
            ]
            found.append(
                {
                    "n": min(size, len(groups.forget_train)),
                    "tokens": tokens,
                    "forgotten": _recovered(mine),
                    "retrained": [_recovered(other) for other in theirs],
                    "control": _recovered(control),
                    "gap": statistics.fmean(gap for gap, _ in gaps),
                    # over several oracles, whatever any of them allows
                    "gap_low": min(low for _, (low, _) in gaps),
                    "gap_high": max(high for _, (_, high) in gaps),
                }
            )
    return found


def _recovered(recovery: resurrection.Recovery) -> dict[str, Any]:
    low, high = float(recovery.selective.min()), float(recovery.selective.max())
    return {
        "selective": float(recovery.selective.mean()),
        "selective_range": [low, high],
        "forget": float(recovery.forget.double().mean()),
        "retain": float(recovery.retain.double().mean()),
        "auroc": float(recovery.auroc.mean()),
        "num_attacks": len(recovery.selective),
    }


def _probes(
    models: dict[str, PromptedClassifier],
    full: Checkpoint,
    oracles: list[Rival],
    data: ClassificationData,
    groups: Groups,
    config: AuditConfig,
) -> dict[str, Any]:
    """A linear probe for the class on each layer, and CKA between the forgotten model and the oracle."""
    is_gone = torch.isin(data.train.labels, groups.forget_test.labels.unique())
    is_gone_test = torch.isin(data.test.labels, groups.forget_test.labels.unique())
    hits: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    features: dict[str, list[torch.Tensor]] = {}
    for name in ("full", "forgotten", "retrained", "finetuned"):
        preprocess = _pre(name, full, oracles)
        train = probe.layer_features(models[name], preprocess(data.train.images))
        features[name] = probe.layer_features(models[name], preprocess(data.test.images))
        hits[name] = [probe.probe(a, is_gone, b, is_gone_test) for a, b in zip(train, features[name], strict=True)]

    def balanced(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
        return 0.5 * float(pair[0].double().mean() + pair[1].double().mean())

    generator = make_generator(config.seed, "probe")
    mine, theirs = hits["forgotten"][-1], hits["retrained"][-1]
    replicates = torch.zeros(figures.REPLICATES, dtype=torch.float64)
    for side in (0, 1):
        drawn = figures.draw_counts(len(mine[side]), figures.REPLICATES, generator)
        replicates += 0.5 * drawn @ (mine[side].double() - theirs[side].double()) / len(mine[side])
    low, high = figures.interval(replicates)
    return {
        "accuracy": {name: [balanced(pair) for pair in pairs] for name, pairs in hits.items()},
        "gap": balanced(mine) - balanced(theirs),
        "gap_low": low,
        "gap_high": high,
        "cka": [figures.linear_cka(a, b) for a, b in zip(features["forgotten"], features["retrained"], strict=True)],
    }


def _stored(
    judged: Checkpoint, model: PromptedClassifier | None, groups: Groups, gone: list[int], ids: tuple[int, ...]
) -> dict[str, Any]:
    """What the judged file still holds of the classes, and what putting the stored prompts back gives."""
    held = sorted(number for number in gone if number in judged.classes.ids)
    found: dict[str, Any] = {"classes": held, "forget_accuracy": None}
    if model is not None:
        log_p = as_subject("stored", model, judged.preprocess, ids).log_probabilities(groups.forget_test)
        found["forget_accuracy"] = float((log_p.argmax(dim=1) == groups.forget_test.labels).double().mean())
    return found


def _cost(
    full: Checkpoint, names: list[str], oracles: list[Rival], tuned: Rival, groups: Groups, device: torch.device
) -> dict[str, Any]:
    """Seconds of an erasure until the first answer without the class, and of what it replaces."""
    seconds = []
    inputs = full.preprocess(groups.forget_test.images[:1].to(device))
    for _ in range(20):
        started = time.perf_counter()
        model = erase(full, names).build_model().to(device)
        with torch.no_grad():
            model.logits(inputs, torch.arange(model.num_classes, device=device)[None])
        seconds.append(time.perf_counter() - started)
    seconds.sort()
    return {
        "erase_p50_s": seconds[len(seconds) // 2],
        "erase_p99_s": seconds[-1],
        "retrain_s": oracles[0].seconds,
        "finetune_s": tuned.seconds,
    }


def _exposure(full: Checkpoint, positions: Sequence[int]) -> dict[str, Any]:
    """Which part of what learned from samples of the class stays."""
    trained = sum(tensor.numel() for tensor in full.tensors.values())
    erased = sum(full.tensors[name][list(positions)].numel() for name in CLASS_ROWS if name in full.tensors)
    return {"trained": trained, "erased": erased, "residual": 1 - erased / trained}


# --- judging --------------------------------------------------------------------------------------


def _judge(result: dict[str, Any], config: AuditConfig) -> list[Judgement]:
    judgements = []
    guess = 1 / result["num_classes"]
    hidden = result["utility"]["suspended"]
    low, high = hidden["forget_accuracy_interval"]
    limit = guess + ANSWERED
    judgements.append(
        Judgement(
            "suspend",
            "not answered",
            at_most(low, high, limit),
            f"without its prompt the class is answered for {hidden['forget_accuracy']:.1%} of its samples "
            f"({low:.1%} to {high:.1%}); a guess and {ANSWERED:.0%} is {limit:.1%}",
        )
    )
    shape = result["shape"]["suspended"]
    key = "unknown" if "unknown" in shape else "entropy"
    low, high = shape[f"{key}_interval"]
    what = "are answered `unknown`" if key == "unknown" else "is the mean entropy over ln C"
    judgements.append(
        Judgement(
            "suspend",
            "output shape",
            at_least(low, high, UNIFORM),
            f"{shape[key]:.3f} {what} on its samples without its prompt ({low:.3f} to {high:.3f}); at least {UNIFORM}",
        )
    )
    held = result["stored"]["classes"]
    again = result["stored"]["forget_accuracy"]
    judgements.append(
        Judgement(
            "erase",
            "nothing stored",
            FAIL if held else PASS,
            f"the file holds the prompt of {len(held)} of the classes (suspended, not erased); put back, they are "
            f"answered for {again:.1%} of their samples"
            if held
            else "the file holds no prompt, classifier row or moment of the classes",
        )
    )
    for name, gap in result["membership"]["gap"].items():
        judgements.append(
            Judgement(
                "scrub",
                f"membership by {name}",
                within(gap["low"], gap["high"], max(config.epsilon, 0.05)),
                f"AUC differs from that of the retrained model by {gap['gap']:+.3f} ({gap['low']:+.3f} to "
                f"{gap['high']:+.3f})",
            )
        )
    for entry in result["resurrection"]:
        judgements.append(
            Judgement(
                "scrub",
                f"resurrection from {entry['n']} samples, {entry['tokens']} tokens",
                at_most(entry["gap_low"], entry["gap_high"], config.epsilon),
                f"S@n is {entry['forgotten']['selective']:.3f}, of the retrained model "
                f"{entry['retrained'][0]['selective']:.3f}: a gap of {entry['gap']:+.3f} ({entry['gap_low']:+.3f} to "
                f"{entry['gap_high']:+.3f}), at most {config.epsilon}",
            )
        )
    gap = result["probe"]
    judgements.append(
        Judgement(
            "scrub",
            "linear probe, last layer",
            at_most(gap["gap_low"], gap["gap_high"], config.epsilon),
            f"balanced accuracy differs from the retrained model's by {gap['gap']:+.3f} ({gap['gap_low']:+.3f} to "
            f"{gap['gap_high']:+.3f})",
        )
    )
    return judgements
