"""What a new bundle's manifest says of its model, and the identity that its graphs state as well."""

import dataclasses
import math
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from pfm import __version__
from pfm.classes import check_unknown
from pfm.forgetting.ledger import canonical
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier, class_row_names
from pfm.model.starts import stated as start_stated
from pfm.storage import Json, sha256_bytes
from pfm_export.graph.form import GraphForm
from pfm_export.graph.hub_files import without_classes
from pfm_export.graph.tracing import OPSET

# what is said in the graph too; nothing of a class, which an erasure could not take out again
_FACTS = (
    "pfm", "readout", "wrong_target", "prompt_tokens", "prompt_layer", "final_norm", "hidden_size", "preprocess",
    "opset", "versions", "form", "bundle",
)  # fmt: skip


# what a manifest says of classes, and what follows from their samples
_OF_CLASSES = ("classes", "erased", "exact", "unknown_below")


def describe(checkpoint: Checkpoint, model: PromptedClassifier, form: GraphForm, *, with_sums: bool = False) -> Json:
    """The manifest of a bundle, but for what is measured on it.

    Args:
        model: the checkpoint's.
        with_sums: the bundle carries what an exact readout is solved from.

    Raises:
        ClassNameError: a class is called as the answer `unknown` is.
    """
    check_unknown(checkpoint.classes, has_answer=model.can_abstain)
    preprocess = checkpoint.preprocess.to_dict()
    kind = form.input_kind(checkpoint.preprocess.kind)(preprocess)
    signatures = form.signatures(type(kind), model.readout.graph_inputs, model.readout.graph_output)
    name = checkpoint.spec.model_name
    stated: Json = {
        "pfm": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "readout": model.config.readout,
        "wrong_target": model.config.wrong_target,
        "unknown_score": model.unknown_logit if math.isfinite(model.unknown_logit) else None,
        "prompt_tokens": model.config.prompt_tokens,
        "prompt_layer": model.config.prompt_layer,
        "final_norm": model.config.final_norm,
        "hidden_size": model.row_size,
        "classes": [
            {"id": i, "name": n} for i, n in zip(checkpoint.classes.ids, checkpoint.classes.names, strict=True)
        ],
        "erased": [{"id": i, "name": n} for i, n in checkpoint.erased],
        "form": form.to_dict(),
        "graphs": {
            file: {"inputs": signature.inputs, "outputs": signature.outputs}
            for file, signature in signatures.files.items()
        },
        "input": kind.describe(),
        "preprocess": preprocess,
        **kind.notes(),
        # a local folder is named without where it is
        "backbone": {
            "model_name": Path(name).name if Path(name).exists() else name,
            "config": without_classes(checkpoint.spec.config),
            **({"commit": checkpoint.spec.commit} if checkpoint.spec.commit else {}),
        },
        "training": {
            "seed": checkpoint.seed,
            "epoch": checkpoint.epoch,
            "model": dataclasses.asdict(checkpoint.model),
            **checkpoint.run.get("recipe", {}),
            **({"data_commit": checkpoint.data_commit} if checkpoint.data_commit else {}),
        },
        "start": start_stated(checkpoint.prompt_start),
        **_exact(checkpoint, with_sums=with_sums),
        **({"unknown_below": checkpoint.unknown_below} if checkpoint.unknown_below else {}),
        "opset": OPSET,
        "versions": {p: version(p) for p in ("torch", "transformers", "onnx", "onnxscript")},
    }
    return {**stated, "bundle": _identity(stated, model)}


def _exact(checkpoint: Checkpoint, *, with_sums: bool) -> Json:
    """What the rows of an exact readout are a function of; nothing for others."""
    record = checkpoint.exact
    if not record:
        return {}
    numbers = dict(zip(checkpoint.classes.names, checkpoint.classes.ids, strict=True))
    summed = zip(record["classes"], record["counts"], record["hashes"], strict=True)
    return {
        "exact": {
            "recipe": record["recipe"],
            "projection": record["projection"],
            "classes": [{"id": numbers[name], "name": name, "count": n, "sha256": sha} for name, n, sha in summed],
            "bank_digest": record["digest"] if record["is_solved"] else "",
            "has_sums": with_sums,
        }
    }


def graph_facts(manifest: Json) -> Json:
    """What the graphs say of themselves, so that they can be told also alone."""
    return {name: manifest[name] for name in _FACTS}


def _identity(manifest: Json, model: PromptedClassifier) -> str:
    """SHA-256 over what a bundle is made of, but for its classes.

    It is the same whenever the same model is exported in the same form, and stands in the graph, which no erasure
    changes: made of a class's rows too, it would confirm a guess at them once they are gone.
    """
    of_classes = class_row_names()
    tensors = {
        name: sha256_bytes(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        for name, tensor in model.state_dict().items()
        if name not in of_classes
    }
    facts = {name: value for name, value in manifest.items() if name not in ("created", *_OF_CLASSES)}
    return sha256_bytes(canonical({**facts, "weights": tensors}))
