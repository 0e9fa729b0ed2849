"""The reference of an exact artifact: a fit in a process of its own, from the source files, with the classes left out.

Nothing of the audited model goes in but its configuration: features are extracted again, the projection drawn again.

    echo '{"run": …, "data": …, "classes": ["3"]}' | python -m pfm.audit.comparisons.fresh

prints digest, hash of the rows and threshold as JSON.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from pfm.audit.comparisons.trained import recipe_of
from pfm.data.config import DataConfig
from pfm.errors import AuditError
from pfm.model.checkpoint import Checkpoint
from pfm.model.readouts import READOUTS
from pfm.training.config import RunConfig


@dataclass(frozen=True)
class Fresh:
    """A fit that never saw what is gone.

    Attributes:
        digest: over projection, sums and counts.
        rows: SHA-256 of the classes' solved rows; equal on one build and processor.
        unknown_below: its threshold for `unknown`; 0 without one.
    """

    digest: str
    rows: str
    unknown_below: float


def hash_of_rows(checkpoint: Checkpoint) -> str:
    """SHA-256 of the solved rows and their classes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(checkpoint.classes.names):
        position = checkpoint.classes.position(name)
        found.update(name.encode() + b"\0")
        for tensor in READOUTS.get(checkpoint.model.readout).class_rows:
            found.update(checkpoint.tensors[tensor][position].contiguous().numpy().tobytes())
    return found.hexdigest()


def fit_afresh(checkpoint: Checkpoint, source: DataConfig | None, names: Sequence[str]) -> Fresh:
    """A fit without some classes.

    Args:
        source: the data; None is that of the checkpoint's run.

    Raises:
        AuditError: the fit failed.
    """
    recipe = recipe_of(checkpoint)
    asked = {
        "run": recipe.to_dict(),
        "data": dataclasses.asdict(source or recipe.data),
        "classes": list(names),
    }
    command = [sys.executable, "-m", "pfm.audit.comparisons.fresh"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AuditError(f"the fit without the classes failed: {done.stderr.strip().splitlines()[-1:]}")
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Fit what standard input asks for."""
    import torch

    from pfm.audit.comparisons.data import without_classes
    from pfm.backbones.spec import describe_backbone
    from pfm.data.loading import load_data
    from pfm.model.checkpoint import load_checkpoint
    from pfm.training.run import train

    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        run = RunConfig.from_dict(asked["run"])
        known = {field.name for field in dataclasses.fields(DataConfig)}
        source = DataConfig(**{name: value for name, value in asked["data"].items() if name in known})
        settings = dataclasses.replace(run.train, save_dir=folder, eval_every=0)
        data = load_data(source, describe_backbone(run.backbone).storage)
        data = without_classes(data, data.classes.positions(asked["classes"]))
        run = dataclasses.replace(run, data=source, train=settings)
        result = train(run, torch.device("cpu"), lambda _: None, data=data)
        fitted = load_checkpoint(result.checkpoint)
        found = Fresh(str(fitted.exact["digest"]), hash_of_rows(fitted), fitted.unknown_below)
        print(json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
