"""Erased, suspended and restored while the server runs: at once, for all workers, once for each request, certified."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from making import exact
from making.served import Local, opened
from pfm.errors import StorageError
from pfm.forgetting.certificate import read_certificate
from pfm.forgetting.ledger import LEDGER, canonical
from pfm_export.graph.export import export_bundle
from pfm_export.service import changes
from pfm_export.service.tenants import OpenDoor
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.signature import MODEL

NAMES = ["red", "green", "blue", "grey"]
INPUTS = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
BODY = {
    "inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": INPUTS.tolist()}]
}  # fmt: skip
ERASE, SUSPEND, RESTORE = (f"/v1/models/shared/{what}" for what in ("erase", "suspend", "restore"))


@pytest.fixture
def folder(forms: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(forms("shared"), tmp_path / "shared"))


@pytest.fixture
def local(folder: Path) -> Iterator[Local]:
    with opened(folder) as found:
        yield found


def classes(local: Local, **parameters: Any) -> list[str]:
    """Those of an answer."""
    answer = local("POST", "/v2/models/shared/infer", json={**BODY, "parameters": parameters})
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert set(outputs["labels"]) <= set(outputs["classes"])
    return outputs["classes"]


def status(local: Local, path: str, **more: Any) -> int:
    return local("POST", path, **more).status_code


def test_an_erased_class_is_answered_no_more_by_any_worker_and_the_answer_is_the_certificate(
    local: Local, folder: Path, tmp_path: Path
) -> None:
    with opened(folder) as other:
        assert classes(other) == NAMES
        asked = {"classes": ["blue"], "request_id": "r1", "reason": "request 7", "requested_by": "Ada"}
        answer = local("POST", ERASE, json=asked)
        assert answer.status_code == 200
        for worker in (local, other):
            assert classes(worker) == ["red", "green", "grey"]
            named = worker("POST", "/v2/models/shared/infer", json={**BODY, "parameters": {"active": ["blue"]}})
            assert named.status_code == 400
            assert worker("GET", "/v2/models/shared").json()["classes"] == ["red", "green", "grey"]
    told = answer.json()
    assert (told["request_id"], told["model"], told["erased"]) == ("r1", "shared", ["blue"])
    path = tmp_path / "given.json"
    path.write_bytes(json.dumps(told["certificate"], sort_keys=True, separators=(",", ":")).encode() + b"\n")
    found = read_certificate(path)
    assert found.artifacts[0].classes == ((2, "blue"),)
    assert found.document["requested_by"] == "Ada"
    assert not (folder / "signing.key").exists()
    assert "pfm_changes_total" in local("GET", "/metrics").text


def test_a_request_that_comes_again_is_answered_and_not_done_again(local: Local, folder: Path) -> None:
    asked = {"classes": ["blue"], "request_id": "r1"}
    first = local("POST", ERASE, json=asked).json()
    ledger = (folder / LEDGER).read_bytes()
    with opened(folder) as other:  # after a restart, or another worker
        assert other("POST", ERASE, json=asked).json() == first
        assert status(other, ERASE, json={"classes": ["red"], "request_id": "r1"}) == 409
        assert status(other, ERASE, json={"classes": ["blue"], "request_id": "r2"}) == 400
    assert (folder / LEDGER).read_bytes() == ledger


def test_an_answer_that_could_not_be_written_is_given_when_the_request_comes_again(
    local: Local, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise StorageError("no space")

    asked = {"classes": ["blue"], "request_id": "r1"}
    with monkeypatch.context() as patch:
        patch.setattr(changes, "load_key", fails)
        assert status(local, ERASE, json=asked) == 500
    assert classes(local) == ["red", "green", "grey"]
    ledger = (folder / LEDGER).read_bytes()
    assert local("POST", ERASE, json=asked).json()["certificate"]["artifacts"][0]["records"]
    assert (folder / LEDGER).read_bytes() == ledger


def test_what_cannot_be_erased_leaves_everything_as_it_was(local: Local, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    every = {"classes": NAMES, "request_id": "r1"}
    assert status(local, ERASE, json=every) == 400
    assert status(local, ERASE, json=every) == 400  # nor is it begun
    assert status(local, ERASE, json={"classes": ["blu"]}) == 400
    for body in (
        {}, {"classes": []}, {"classes": "blue"}, {"classes": [2]}, {"classes": ["blue"], "reasn": "x"},
        {"classes": ["blue"], "centre_prompts": "yes"}, {"classes": ["blue"], "centre_prompts": 1},
    ):  # fmt: skip
        assert status(local, ERASE, json=body) == 400
    assert status(local, SUSPEND, json={"classes": ["blue"], "centre_prompts": True}) == 400
    assert status(local, ERASE, json={"classes": ["blue"], "reason": "x" * 2000}) == 400
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert classes(local) == NAMES


def test_an_erasure_centres_the_prompts_where_that_is_asked_for(local: Local, folder: Path, tmp_path: Path) -> None:
    assert not Bundle.open(folder).prompts_centred
    asked = {"classes": ["blue"], "request_id": "r1", "centre_prompts": True}
    signed = local("POST", ERASE, json=asked).json()["certificate"]
    assert Bundle.open(folder).prompts_centred
    path = tmp_path / "certificate.json"
    path.write_bytes(canonical(signed) + b"\n")
    content = read_certificate(path, signed["public_key"]).artifacts[0].content
    assert content is not None
    assert content.prompts_centred
    assert local("POST", ERASE, json={**asked, "centre_prompts": False}).status_code == 409  # another request


def test_a_page_of_another_site_cannot_change_anything(local: Local) -> None:
    content = json.dumps({"classes": ["blue"]}).encode()
    assert status(local, ERASE, content=content, headers={"content-type": "text/plain"}) == 415
    assert status(local, ERASE, json={"classes": ["blue"]}, headers={"origin": "https://example.org"}) == 403
    assert status(local, SUSPEND, json={"classes": ["blue"]}, headers={"origin": "http://localhost"}) == 200


def test_a_suspension_is_for_one_profile_and_can_be_undone(local: Local, folder: Path) -> None:
    asked = {"classes": ["blue"], "profile": "ward", "request_id": "s1"}
    told = local("POST", SUSPEND, json=asked).json()
    assert told == {
        "request_id": "s1", "model": "shared", "profile": "ward", "active": ["red", "green", "grey"]
    }  # fmt: skip
    with opened(folder) as other:
        assert classes(other, profile="ward") == ["red", "green", "grey"]
        assert classes(other) == NAMES
        assert other("POST", RESTORE, json={**asked, "request_id": "s2"}).json()["active"] == NAMES
    assert classes(local, profile="ward") == NAMES
    assert local("POST", SUSPEND, json=asked).json() == told  # the same request again is not done again
    assert classes(local, profile="ward") == NAMES
    assert status(local, RESTORE, json={"classes": ["blue"], "profile": "other"}) == 400


def test_without_tokens_nothing_can_be_changed_from_other_machines(local: Local) -> None:
    local.service.door = OpenDoor(is_local=False)
    for path in (ERASE, SUSPEND, RESTORE):
        assert status(local, path, json={"classes": ["blue"]}) == 403
    assert classes(local) == NAMES


@pytest.mark.slow
def test_an_exact_bundle_is_solved_anew_before_it_is_certified(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    export_bundle(exact.fit(exact.image_data(), tmp_path / "run"), folder, with_sums=True)
    with opened(folder) as local:
        told = local("POST", ERASE, json={"classes": ["blue"], "request_id": "r"}).json()
        assert told["certificate"]["artifacts"][0]["records"]
        assert classes(local) == ["red", "green", "grey"]
        assert local.service.models["shared"].session.settle() is True
    assert Bundle.open(folder).is_exact


def test_where_every_class_is_suspended_a_request_is_told_so(local: Local) -> None:
    left = classes(local)[1:]
    assert status(local, ERASE, json={"classes": classes(local)[:1], "request_id": "r1"}) == 200
    with_one = left[:-1]
    assert status(local, SUSPEND, json={"classes": with_one, "request_id": "r2"}) == 200
    assert status(local, ERASE, json={"classes": left[-1:], "request_id": "r3"}) == 200
    answer = local("POST", "/v2/models/shared/infer", json=BODY)
    assert answer.status_code == 400
    assert "no class of the model shared is active now" in answer.text


def test_a_class_is_erased_where_the_graph_is_damaged_and_certified_when_it_is_back(local: Local, folder: Path) -> None:
    graph = (folder / MODEL).read_bytes()
    (folder / MODEL).unlink()
    asked = {"classes": ["blue"], "request_id": "r1"}
    answer = local("POST", ERASE, json=asked)
    assert answer.status_code == 500
    assert "the classes are erased, and their certificate is missing" in answer.text
    assert "blue" not in classes(local)  # from the graph in memory
    assert "blue" not in Bundle.open(folder).classes.names
    (folder / MODEL).write_bytes(graph)
    answer = local("POST", ERASE, json=asked)
    assert answer.status_code == 200
    assert answer.json()["certificate"]["artifacts"]
