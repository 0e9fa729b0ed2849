"""How well a class is hidden before it is erased: answers to its own samples, with every prompt there but its own.

A model with classifier rows keeps the row when a prompt is left out. Where it answers with the class all the same, the
shared weights tell the class apart without its prompt, and that stays when prompt and row are gone.
"""

import torch

from pfm.forgetting.answers import Asked
from pfm.model.checkpoint import Checkpoint
from pfm.model.draws import shared_set
from pfm.model.readouts import READOUTS
from pfm.model.views import Views


@torch.inference_mode()
def answered_without_its_prompt(full: Checkpoint, name: str, asked: Asked) -> str | None:
    """One line for people; None where a class without its prompt has no score, or no test sample.

    Args:
        full: the class is still there.
        asked: test samples.

    Raises:
        BackboneError: the model cannot be built.
    """
    if not READOUTS.get(full.model.readout).scores_absent or asked.split is None or asked.data is None:
        return None
    own = (asked.split.labels == asked.data.position(name)).nonzero().flatten()
    if not len(own):
        return None
    model, position = full.build_model().to(asked.device), full.classes.position(name)
    others = [other for other in range(len(full.classes)) if other != position]
    answers = []
    for index in own.split(asked.batch_size):
        views = Views.of(model, full.preprocess, asked.split.inputs[index].to(asked.device))
        present = shared_set(others, len(index), torch.device(asked.device))
        answers.append(model.predict(views.logits(present)).cpu())
    share = float((torch.cat(answers) == position).double().mean())
    return (
        f"with its prompt away, and its row still there, {name} was answered for {100 * share:.1f} % of its "
        f"{len(own)} test samples (chance {100 / len(full.classes):.1f} %); without its row it is never answered, but "
        "what the shared weights say of it stays"
    )
