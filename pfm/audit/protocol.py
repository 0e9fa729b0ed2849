"""The audit from end to end: models, measures, verdict, as one dictionary.

Letters: N samples, C classes of the full model.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pfm import __version__
from pfm.audit.answers import add_average_gap, output_shape, utility
from pfm.audit.groups import AuditConfig, Groups
from pfm.audit.inside import probes, resurrection_gaps
from pfm.audit.judging import judge
from pfm.audit.membership import shadow_attacks, threshold_attacks
from pfm.audit.removal import exposure, removal_cost, still_stored
from pfm.audit.rivals import Rivals, by_position, closed_form_subject, untrained
from pfm.audit.subject import Subject, as_subject
from pfm.audit.verdict import summarise
from pfm.classes import check_removal
from pfm.data.splits import ClassificationData
from pfm.errors import ClassNameError
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint
from pfm.seeds import make_generator


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
    preprocess = dict.fromkeys(models, full.preprocess) | {"retrained": oracles[0].checkpoint.preprocess}
    subjects = {name: as_subject(name, model, preprocess[name], ids) for name, model in models.items()}
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
    result["utility"] = utility(answers, groups)
    result["shape"] = output_shape(answers, groups, generator, has_unknown=full.model.wrong_target == "none")
    say("membership inference")
    result["membership"] = threshold_attacks(answers, groups, generator)
    add_average_gap(result)
    result["shadow_attacks"] = shadow_attacks(answers, shadows, data, groups, names, ids, device)
    say("resurrection")
    result["resurrection"] = resurrection_gaps(
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
    result["probe"] = probes(models, preprocess, data, groups, config)
    result["stored"] = still_stored(judged, stored, groups, gone, ids)
    result["closed_form"] = {"largest_difference_to_retraining": exactness}
    result["cost"] = removal_cost(full, names, oracles, tuned, groups, device)
    result["exposure"] = exposure(full, positions)
    result["verdict"] = summarise(judge(result, config))
    result["seconds"] = round(time.monotonic() - started, 1)
    return result
