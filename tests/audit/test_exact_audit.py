"""The audit of an exact readout: a fit in another process is the judge, and one sample too many is noticed."""

import dataclasses
from pathlib import Path

import pytest
import torch

from making.audits import SMALL
from making.exact import only
from making.images import write_npz
from pfm.audit.attacks.exact import Exact
from pfm.audit.models import AuditRequest, Models
from pfm.audit.verdict import FAIL, PASS
from pfm.backbones.config import BackboneConfig
from pfm.backbones.spec import describe_backbone
from pfm.cli import pfm, run
from pfm.data.config import DataConfig
from pfm.data.loading import load_data
from pfm.device import Processes
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.training.learning import learn_on


@pytest.mark.slow
def test_a_fit_in_another_process_is_the_judge_and_one_sample_put_back_fails(tmp_path: Path) -> None:
    npz = write_npz(tmp_path / "colours.npz")
    train = ["train", "--dataset", str(npz), "--readout", "ridge", "--features", "raw", "--width", "40", "--cpu"]
    assert run(pfm, [*train, "--save_dir", str(tmp_path / "run")]) == 0
    (path,) = (tmp_path / "run").glob("*.pt")
    full = load_checkpoint(path)
    storage = describe_backbone(BackboneConfig(model_name="scratch:raw_pixels")).storage
    data = load_data(DataConfig(dataset=str(npz)), storage)

    def verdict(judged: Checkpoint | None) -> str:
        request = AuditRequest(full=full, data=data, keys=["2"], judged=judged)
        models = Models(request, SMALL, tmp_path / "models", torch.device("cpu"), lambda _: None)
        (judgement,) = Exact().measure(models).judgements
        return judgement.verdict

    assert verdict(None) == PASS
    smaller = erase(full, ["2"])
    is_one = torch.zeros(len(data.train), dtype=torch.bool)
    is_one[2] = True
    put_back = learn_on(smaller, only(data, is_one), Processes(device=torch.device("cpu"))).checkpoint
    assert verdict(put_back) == FAIL
    other_rows = {name: tensor + 1e-7 for name, tensor in smaller.tensors.items() if name.startswith("ridge.")}
    assert verdict(dataclasses.replace(smaller, tensors={**smaller.tensors, **other_rows})) == FAIL
    one_less = dataclasses.replace(smaller, exact={**smaller.exact, "is_solved": False})
    assert verdict(one_less) == FAIL
    more = {
        f"rows.{name}": put_back.memory[f"rows.{name}"]
        for name in ("values", "labels", "groups", "content_ids", "name_ids")
    }
    assert verdict(dataclasses.replace(smaller, memory={**smaller.memory, **more})) == FAIL  # kept, and not counted
