"""Which targets are measured, and which bundles they run."""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from pfm.errors import ConfigError, DeviceError
from pfm_bench.targets import TARGETS
from pfm_bench.targets.plan import Plan
from pfm_export.graph.form import GraphForm
from pfm_export.serving.bundle import Bundle


def choose_targets(wanted: Sequence[str], device: str) -> list[str]:
    """The names that were asked for, or those of what this machine has.

    Args:
        device: "cpu", "cuda", or "auto"; which of them "what this machine has" takes.

    Raises:
        ConfigError: there is no such target.
        DeviceError: the machine cannot run it.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: this machine has no GPU that torch can use; use --device auto or cpu")
    if not wanted:
        return [name for name in TARGETS.names() if TARGETS.get(name).is_default(device)]
    for name in wanted:
        try:
            kind = TARGETS.get(name)
        except ConfigError as error:
            raise ConfigError(f"--targets: {error}") from error
        try:
            kind.check(device)
        except DeviceError as error:
            raise DeviceError(f"--targets {name}: {error}") from error
    return list(dict.fromkeys(wanted))


def plan_targets(
    names: Sequence[str], folders: Sequence[Path], checkpoint: Path | None, *, device: str, threads: int
) -> list[Plan]:
    """One plan for each name, or for each bundle where the target reads it.

    A bundle's target carries its precision in its name, and its folder where that is not enough.

    Raises:
        ConfigError: two would have the same name.
    """
    precisions = [precision_of(Bundle.open(folder)) for folder in folders]
    torch_device = "cuda" if torch.cuda.is_available() and device != "cpu" else "cpu"
    plans = []
    for target in names:
        kind = TARGETS.get(target)
        plan = functools.partial(Plan, kind=kind, checkpoint=checkpoint, device=torch_device, threads=threads)
        if not kind.reads_bundle:
            plans.append(plan(name=target, bundle=folders[0], precision=kind.precision(precisions[0])))
            continue
        for folder, precision in zip(folders, precisions, strict=True):
            name = target if precision == "fp32" else f"{target} {precision}"
            if precisions.count(precision) > 1:
                name += f" ({folder.name})"
            plans.append(plan(name=name, bundle=folder, precision=kind.precision(precision)))
    found = [plan.name for plan in plans]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two bundles would both be called {twice!r}; give folders of different names")
    return plans


def precision_of(bundle: Bundle) -> str:
    """As the manifest states it; a manifest that says nothing is of a float32 graph.

    Raises:
        ConfigError: a form whose time is not that of one call of one graph.
    """
    form = GraphForm.of(bundle)
    if form.split or form.per_request_prompts or form.with_frontend:
        raise ConfigError(f"{bundle.folder} is not of the ordinary form; pfm bench takes that, or --uint8_input")
    return form.precision
