"""A token opens what it says and nothing else; a class that its profile leaves out does not exist for it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from making.served import Local, opened
from pfm.errors import ConfigError
from pfm_export.service.refusals import RefusedError
from pfm_export.service.tenants import TokenDoor, read_tokens
from pfm_export.serving.bundle import Bundle

WARD, ADMIN = "ward-" + "a" * 32, "admin-" + "b" * 32
HIDDEN = "blue"
INPUTS = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
BODY = {
    "inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": INPUTS.tolist()}]
}  # fmt: skip
INFER = "/v2/models/shared/infer"


def entry(token: str, profile: str, *rights: str) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(token.encode()).hexdigest(), "profile": profile, "rights": rights}


def write_tokens(path: Path, *entries: Any) -> Path:
    path.write_text(json.dumps({"tokens": entries}))
    return path


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    ward = entry(WARD, "ward", "predict", "suspend", "erase")
    return write_tokens(
        tmp_path / "tokens.json", ward, entry(ADMIN, "default", "predict", "suspend", "restore", "erase", "metrics")
    )


@pytest.fixture
def hidden(forms: Callable[[str], Path], tmp_path: Path, tokens: Path) -> Iterator[Local]:
    """A class is suspended in the ward's profile."""
    folder = Path(shutil.copytree(forms("shared"), tmp_path / "hidden" / "shared"))
    Bundle.open(folder).suspend([HIDDEN], profile="ward")
    with opened(folder, tokens=tokens) as local:
        yield local


@pytest.fixture
def gone(forms: Callable[[str], Path], tmp_path: Path, tokens: Path) -> Iterator[Local]:
    """The same class was erased."""
    folder = Path(shutil.copytree(forms("shared"), tmp_path / "gone" / "shared"))
    Bundle.open(folder).suspend([HIDDEN], profile="ward").erase([HIDDEN])
    with opened(folder, tokens=tokens) as local:
        yield local


def ask(local: Local, method: str, path: str, token: str = WARD, **more: Any) -> httpx.Response:
    return local(method, path, headers={"authorization": f"Bearer {token}"}, **more)


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/v2/models/shared", {}),
    ("POST", INFER, {"json": BODY}),
    *(
        ("POST", INFER, {"json": {**BODY, "parameters": {how: names, **more}}})
        for how in ("active", "without")
        for names in ([HIDDEN], [HIDDEN, "red"], ["bluee"], ["blu"], ["gren"], ["2"], ["red", "green", "grey"], [])
        for more in ({}, {"profile": "nowhere"})
    ),
    *(
        ("POST", f"/v1/predict?{query}", {"content": b"x"})
        for query in (f"active={HIDDEN}", f"without={HIDDEN}", f"active={HIDDEN}&active=red", "profile=default", "")
    ),
    *(
        ("POST", f"/v1/models/shared/{what}", {"json": {"classes": names, "request_id": str(number)}})
        for what in ("suspend", "restore", "erase")
        for number, names in enumerate(([HIDDEN], [HIDDEN, "red"], ["red", "green", "grey"], ["bluee"]))
    ),
    ("POST", "/v1/models/shared/suspend", {"json": {"classes": ["red"], "request_id": "s", "profile": "default"}}),
    ("POST", "/v1/models/shared/suspend", {"json": {"classes": ["red"], "request_id": "t"}}),
    ("POST", INFER, {"json": BODY}),
    ("GET", "/metrics", {}),
    ("GET", "/openapi.json", {}),
]


def test_a_class_that_a_profile_leaves_out_is_to_its_tenant_as_if_it_were_erased(hidden: Local, gone: Local) -> None:
    for method, path, more in REQUESTS:
        one, other = ask(hidden, method, path, **more), ask(gone, method, path, **more)
        assert (one.status_code, kinds(one)) == (other.status_code, kinds(other)), (path, more)
        assert same(one.json(), other.json()) if path != "/metrics" else one.text == other.text, (path, more)


def kinds(answer: httpx.Response) -> set[str]:
    return set(answer.headers) - {"content-length"}


def same(one: Any, other: Any) -> bool:
    """Numbers may differ by rounding: the rows that stay are centred by an erasure."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-5
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_tenant_that_does_not_see_all_gets_no_certificate_which_names_all(hidden: Local) -> None:
    told = ask(hidden, "POST", "/v1/models/shared/erase", json={"classes": ["red"], "request_id": "e"})
    assert told.status_code == 200
    assert told.json()["certificate"] is None
    assert HIDDEN not in told.text
    asked = {"classes": ["green"], "request_id": "e"}
    whole = ask(hidden, "POST", "/v1/models/shared/erase", ADMIN, json=asked).json()
    assert HIDDEN in json.dumps(whole["certificate"])  # ids of tenants are apart
    assert ask(hidden, "POST", INFER, json=BODY).json()["outputs"][1]["data"] == ["grey"]


def test_a_tenant_may_do_what_its_token_says(hidden: Local) -> None:
    assert ask(hidden, "GET", "/metrics").status_code == 403
    assert ask(hidden, "GET", "/metrics", ADMIN).status_code == 200
    restore = {"classes": [HIDDEN]}
    assert ask(hidden, "POST", "/v1/models/shared/restore", json=restore).status_code == 403
    assert ask(hidden, "POST", INFER, json={**BODY, "parameters": {"profile": "default"}}).status_code == 403
    assert hidden("GET", "/v2/health/ready").status_code == 200


WRONG = [
    "",
    WARD,
    f"Basic {WARD}",
    "Bearer ",
    "Bearer short",
    f"Bearer {WARD}x",
    f"Bearer {WARD[:-1]}",
    f"Bearer ä{WARD}",
]


def test_a_wrong_or_missing_token_is_refused(hidden: Local) -> None:
    for header in (text.encode() for text in WRONG):
        for path in (INFER, "/v1/predict", "/v1/models/shared/erase", "/v1/models/nothing/erase"):
            answer = hidden("POST", path, headers={"authorization": header}, json=BODY)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v2/models/shared", "/metrics", "/v1/models"):
            assert hidden("GET", path, headers={"authorization": header}).status_code == 401
    for header, said in ((None, "a token is needed"), ("Bearer short", "a token has 32 characters at least")):
        answer = hidden("GET", "/metrics", headers={} if header is None else {"authorization": header})
        assert answer.json()["error"].startswith(said)


def test_a_token_for_a_profile_that_a_model_does_not_have_is_not_for_that_model(
    forms: Callable[[str], Path], tmp_path: Path
) -> None:
    path = write_tokens(tmp_path / "tokens.json", entry(WARD, "ward", "predict"))
    with opened(forms("shared"), tokens=path) as local:
        answer = ask(local, "POST", INFER, json=BODY)
    assert (answer.status_code, answer.json()) == (403, {"error": "this token is not for the model shared"})


def test_a_token_that_is_taken_out_is_refused_from_then_on_and_everybody_while_the_file_is_damaged(
    tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    door = TokenDoor(tokens)
    assert door.find(door.key(f"Bearer {WARD}")).profile == "ward"
    write_tokens(tokens, entry(ADMIN, "default", "predict"))
    with pytest.raises(RefusedError) as caught:
        door.find(door.key(f"Bearer {WARD}"))
    assert caught.value.status == 401
    assert door.find(door.key(f"bearer {ADMIN}")).profile == "default"
    tokens.write_text("{")
    with pytest.raises(RefusedError) as caught:
        door.find(door.key(f"Bearer {ADMIN}"))
    assert caught.value.status == 503
    assert not door.is_whole
    said = capsys.readouterr().err.splitlines()
    with pytest.raises(RefusedError):
        door.find(door.key("Bearer " + "w" * 40))
    assert [json.loads(line)["event"] for line in said] == ["tokens"]
    assert capsys.readouterr().err == ""  # once for each state of the file


def test_a_file_of_tokens_says_what_it_has_to(tmp_path: Path) -> None:
    good = entry(WARD, "ward", "predict")
    for bad in (
        [], [good, good], [{**good, "sha256": WARD}], [{**good, "rights": ["all"]}], [{**good, "right": []}],
        [{key: good[key] for key in ("sha256", "rights")}], [{**good, "profile": None}], ["x"],
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="--tokens"):
            read_tokens(write_tokens(tmp_path / "tokens.json", *bad))
    with pytest.raises(ConfigError, match="is not a file of tokens: 'profile' is missing; it holds"):
        read_tokens(write_tokens(tmp_path / "tokens.json", {key: good[key] for key in ("sha256", "rights")}))
