"""Whatever a tenant asks, in whatever order: a class that its profile leaves out is nowhere in what it gets."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from making.served import Local, opened
from pfm_export.serving.bundle import Bundle

CLASSES = ("red", "green", "blue", "grey")
NEAR = ("rde", "gren", "bleu", "gray", "re", "0", "2", "-1", "RED", "", "unknown", "class", "default")  # not names
WARD, OTHER = "ward-" + "a" * 32, "other-" + "b" * 32
RIGHTS = {WARD: ["predict", "suspend", "erase"], OTHER: ["predict", "suspend", "restore", "erase", "metrics"]}
INPUTS = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
ENTRY = {"name": "pixel_values", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": INPUTS.tolist()}
Ask = tuple[str, str, dict[str, Any]]


def picture() -> bytes:
    found = io.BytesIO()
    Image.new("RGB", (9, 9), (10, 200, 30)).save(found, "PNG")
    return found.getvalue()


def asks(random: np.random.Generator, count: int) -> list[Ask]:
    """Requests that a curious tenant might try."""

    def names() -> list[str]:
        return [str(name) for name in random.choice((*CLASSES, *NEAR), int(random.integers(0, 4)))]

    found: list[Ask] = []
    for number in range(count):
        parameters = {how: names() for how in ("active", "without") if random.random() < 0.5}
        if random.random() < 0.2:
            parameters["profile"] = str(random.choice(["ward", "other", "default", "nowhere"]))  # type: ignore[assignment]
        outputs = [{"name": str(name)} for name in random.permutation(["labels", "classes", "probabilities"])]
        body = {"inputs": [ENTRY], "outputs": outputs[: int(random.integers(1, 4))], "parameters": parameters}
        query = "&".join(f"{how}={name}" for how in ("active", "without") for name in parameters.get(how, ()))
        change = {"classes": names(), "request_id": f"{number}", "reason": str(random.choice(CLASSES))}
        found.append(
            (
                ("GET", "/v2/models/shared", {}), ("GET", "/v1/models", {}), ("GET", "/openapi.json", {}),
                ("GET", "/", {}), ("GET", "/docs", {}), ("GET", "/v2", {}), ("GET", "/metrics", {}),
                ("GET", f"/v2/models/{random.choice(CLASSES)}/ready", {}),
                *[("POST", "/v2/models/shared/infer", {"json": body})] * 8,
                *[("POST", f"/v1/predict?{query}", {"content": picture() if random.random() < 0.8 else b"x"})] * 6,
                ("POST", "/v1/models/shared/suspend", {"json": change}),
                ("POST", "/v1/models/shared/restore", {"json": change}),
                ("POST", "/v1/models/shared/erase", {"json": {**change, "classes": ["nobody", *names()]}}),
            )[int(random.integers(25))]
        )  # fmt: skip
    return found


def serve(forms: Callable[[str], Path], folder: Path, hidden: list[str], *, is_gone: bool) -> tuple[Path, Path]:
    bundle = Path(shutil.copytree(forms("shared"), folder / "shared"))
    Bundle.open(bundle).suspend(hidden, profile="ward").suspend([], profile="other")
    if is_gone:
        Bundle.open(bundle).erase(hidden)
    entries = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "profile": token.partition("-")[0], "rights": rights}
        for token, rights in RIGHTS.items()
    ]
    (folder / "tokens.json").write_text(json.dumps({"tokens": entries}))
    return bundle, folder / "tokens.json"


def say(local: Local, ask: Ask, token: str = WARD) -> httpx.Response:
    method, path, more = ask
    return local(method, path, headers={"authorization": f"Bearer {token}"}, **more)


def compare(forms: Callable[[str], Path], folder: Path, seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    hidden = [str(name) for name in random.choice(CLASSES, int(random.integers(1, 4)), replace=False)]
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    one, tokens = serve(forms, folder / "a", hidden, is_gone=False)
    two, _ = serve(forms, folder / "b", hidden, is_gone=True)
    with opened(one, tokens=tokens) as there, opened(two, tokens=tokens) as gone:
        for ask in asks(random, count):
            mine, reference = say(there, ask), say(gone, ask)
            assert mine.status_code == reference.status_code, (hidden, ask, mine.text, reference.text)
            assert set(mine.headers) == set(reference.headers)
            if mine.headers["content-type"] == "application/json" and ask[1] != "/openapi.json":
                assert alike(mine.json(), reference.json()), (hidden, ask, mine.text, reference.text)
            if ask[1] not in ("/", "/docs", "/openapi.json"):  # which are the same for everybody, and are compared
                said = mine.text + str(mine.headers)
                asked = json.dumps(ask[2].get("json", "")) + ask[1]  # what it said itself may be said back
                words = set(re.findall(r"\w+", said)) - set(re.findall(r"\w+", asked))
                assert not words & set(hidden), (hidden, ask, said)
            else:
                assert mine.text == reference.text
            check_shares(mine, hidden)
        metrics = say(there, ("GET", "/metrics", {}), OTHER).text
        assert not set(re.findall(r"\w+", metrics)) & {*CLASSES, "ward", "other"}


def check_shares(answer: httpx.Response, hidden: list[str]) -> None:
    """Probabilities are of the classes that there are for the tenant alone, and add up to one."""
    document = answer.json() if answer.headers["content-type"] == "application/json" else {}
    if isinstance(found := document.get("probabilities"), dict):
        assert not set(found) & set(hidden)
        assert abs(sum(found.values()) - 1) < 1e-5
        assert document["label"] in found
    tensors = {each["name"]: each["data"] for each in document.get("outputs", ()) if "data" in each}
    if "classes" in tensors and "probabilities" in tensors:
        shares = np.reshape(tensors["probabilities"], (2, len(tensors["classes"])))
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert not set(tensors.get("labels", ())) & set(hidden)


def alike(one: Any, other: Any) -> bool:
    """Numbers may differ by rounding: the rows that stay are centred by an erasure."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-5
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def test_no_request_tells_a_tenant_of_a_class_that_it_does_not_see(
    forms: Callable[[str], Path], tmp_path: Path
) -> None:
    compare(forms, tmp_path, 1, 40)


@pytest.mark.slow(seconds=40)
@pytest.mark.parametrize("seed", range(2, 8))
def test_no_request_of_many_tells_a_tenant_of_a_class_that_it_does_not_see(
    forms: Callable[[str], Path], tmp_path: Path, seed: int
) -> None:
    compare(forms, tmp_path, seed, 200)


def test_a_change_that_a_tenant_makes_tells_it_of_no_other_class(forms: Callable[[str], Path], tmp_path: Path) -> None:
    bundle, tokens = serve(forms, tmp_path, ["blue"], is_gone=False)
    with opened(bundle, tokens=tokens) as local:
        for what, names in (("suspend", ["grey"]), ("erase", ["red"]), ("erase", ["red"])):
            asked = {"classes": names, "request_id": what}
            answer = say(local, ("POST", f"/v1/models/shared/{what}", {"json": asked}))
            assert answer.status_code == 200
            assert not set(re.findall(r"\w+", answer.text)) & {"blue"}
        assert say(local, ("GET", "/v2/models/shared", {})).json()["classes"] == ["green"]
        assert "blue" in say(local, ("GET", "/v2/models/shared", {}), OTHER).json()["classes"]
