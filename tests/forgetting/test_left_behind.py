"""What an erasure leaves does not depend on what went: two models that differ in one class alone leave equal bytes.

But for hashes of the files before, which records and ledgers have, and for times.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from making.checkpoints import BLUE, image_checkpoint, sound_checkpoint, trained_state
from making.exact import fit, image_data
from pfm.data.splits import ClassificationData
from pfm.forgetting.erase import erase
from pfm.forgetting.ledger import LEDGER
from pfm.forgetting.samples import Removal, remove
from pfm.model.checkpoint import Checkpoint, checkpoint_bytes
from pfm.model.classifier import class_row_names
from pfm_export.erasing import erase_everywhere
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.manifest import describe
from pfm_export.serving.manifest import MANIFEST

DATA = image_data()
# times, and hashes and sizes of what was before, with what those are part of
OF_BEFORE = {
    "created",
    "time",
    "request",
    "sha256_before",
    "size_bytes",
    "previous",
    "hash",
    "ledger_head",
    "manifest_sha256",
}


def with_another_blue(checkpoint: Checkpoint) -> Checkpoint:
    """The same model but for what belongs to one class, larger than anything of the others."""
    generator = torch.Generator().manual_seed(9)

    def changed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = dict(tensors)
        for name in class_row_names():
            if name in found:
                found[name] = found[name].clone()
                found[name][BLUE] = 5 * torch.randn(found[name][BLUE].shape, generator=generator)
        return found

    moments = {
        name: {key: 2 * value for key, value in state.items()}  # of all tensors: they follow from each other
        for name, state in checkpoint.moments.items()
    }
    return dataclasses.replace(
        checkpoint,
        tensors=changed(checkpoint.tensors),
        averaged=changed(checkpoint.averaged),
        moments=moments,
        progress={"epoch": 1, "history": {"class_2": [0.9]}} if checkpoint.progress else {},
    )


@pytest.mark.parametrize("centre_prompts", [False, True])
@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_a_checkpoint_says_nothing_of_the_rows_that_went(readout: str, *, centre_prompts: bool) -> None:
    state = trained_state(readout=readout)
    both = [state, with_another_blue(state)]
    assert checkpoint_bytes(both[0]) != checkpoint_bytes(both[1])
    left = [checkpoint_bytes(erase(one, ["blue"], centre_prompts=centre_prompts)) for one in both]
    assert left[0] == left[1]


def data_with_another_blue() -> ClassificationData:
    """The same images but for those of one class."""
    inputs = DATA.train.inputs.clone()
    inputs[DATA.train.labels == BLUE] //= 2
    return dataclasses.replace(DATA, train=dataclasses.replace(DATA.train, inputs=inputs))


def data_with_another_camera() -> ClassificationData:
    """The same images but for those of one group, which has fewer."""
    groups = DATA.train.groups or ()
    of_group = torch.tensor([group == "camera2" for group in groups])
    inputs = DATA.train.inputs.clone()
    inputs[of_group] = 255 - inputs[of_group]
    keep = ~of_group
    keep[of_group.nonzero()[3:]] = True
    train = dataclasses.replace(DATA.train, inputs=inputs).subset(keep.nonzero()[:, 0])
    return dataclasses.replace(DATA, train=train)


@pytest.fixture
def fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Checkpoint]:
    """Fits whose ids have one key; each has one of its own otherwise, which is kept when samples go."""
    monkeypatch.setattr("pfm.training.fit.new_key", lambda: b"k" * 32)
    return lambda data, **options: fit(data, tmp_path, **options)


@pytest.mark.parametrize("options", [{}, {"memory": "sums"}, {"abstain": 0.1}])
def test_an_exact_checkpoint_says_nothing_of_the_class_that_went(
    options: dict[str, Any], fitted: Callable[..., Checkpoint]
) -> None:
    both = [fitted(data, **options) for data in (DATA, data_with_another_blue())]
    assert both[0].exact["digest"] != both[1].exact["digest"]
    left = [checkpoint_bytes(erase(one, ["blue"])) for one in both]
    assert left[0] == left[1]


def test_an_exact_checkpoint_says_nothing_of_the_group_that_went(fitted: Callable[..., Checkpoint]) -> None:
    both = [fitted(data) for data in (DATA, data_with_another_camera())]
    left = [checkpoint_bytes(remove(one, Removal(groups=["camera2"])).checkpoint) for one in both]
    assert left[0] == left[1]


def said(folder: Path) -> dict[str, Any]:
    """What a folder holds, file by file; of manifest and ledgers all but times and hashes of what was before."""
    found: dict[str, Any] = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name in (MANIFEST, LEDGER):
            lines = [path.read_bytes()] if path.name == MANIFEST else path.read_bytes().splitlines()
            found[name] = [_without(json.loads(line), OF_BEFORE) for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(item, names) for name, item in value.items() if name not in names}
    return [_without(item, names) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["cls", "prompt", "ridge"])
def test_what_a_bundle_is_called_in_its_graph_does_not_depend_on_its_classes(
    name: str, fitted: Callable[..., Checkpoint]
) -> None:
    """The graph stays as it is when a class goes, and so does all that it says of itself."""
    if name == "ridge":
        both = [fitted(data) for data in (DATA, data_with_another_blue())]
    else:
        both = [image_checkpoint(name), with_another_blue(image_checkpoint(name))]
    other = dataclasses.replace(both[0], tensors={**both[0].tensors})
    key = next(key for key in other.tensors if key not in class_row_names())
    other.tensors[key] = other.tensors[key] + 1
    stated = [describe(one, one.build_model(), GraphForm())["bundle"] for one in (*both, other)]
    assert stated[0] == stated[1] != stated[2]


FORMS = {
    "float32": GraphForm(),
    "fp16": GraphForm(precision="fp16"),
    "int8": GraphForm(precision="int8"),
    "per request": GraphForm(per_request_prompts=True),
    "uint8": GraphForm(uint8_input=True),
    "portable int8": GraphForm(precision="int8", portable=True),
}
CASES: list[tuple[str, str]] = [("cls", form) for form in FORMS]
CASES += [("prompt", "float32"), ("prompt-tokens", "per request"), ("split", "split"), ("sound", "float32")]


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_bundle_says_nothing_of_the_class_that_went(name: str, form: str, tmp_path: Path) -> None:
    state = {
        "split": lambda: image_checkpoint("cls-lora-norm-tokens"),
        "sound": lambda: sound_checkpoint("prompt"),
    }.get(name, lambda: image_checkpoint(name))()
    left = []
    for number, one in enumerate((state, with_another_blue(state))):
        folder = tmp_path / str(number)
        export_bundle(one, folder / "b", form=GraphForm(split=True) if form == "split" else FORMS[form])
        erase_everywhere([folder / "b"], ["blue"])
        left.append(said(folder))
    assert left[0] == left[1]


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize("with_sums", [True, False])
def test_an_exact_bundle_says_nothing_of_the_class_that_went(
    fitted: Callable[..., Checkpoint], tmp_path: Path, *, with_sums: bool
) -> None:
    left = []
    for number, data in enumerate((DATA, data_with_another_blue())):
        folder = tmp_path / str(number)
        export_bundle(fitted(data), folder / "b", with_sums=with_sums)
        erase_everywhere([folder / "b"], ["blue"])
        left.append(said(folder))
    different = [name for name in left[0] if left[0][name] != left[1].get(name)]
    assert list(left[0]) == list(left[1])
    # without sums the rows that are left were solved with it, as manifest and ledger say
    assert different == ([] if with_sums else ["b/bank.safetensors", "b/ledger.jsonl", "b/manifest.json"])
