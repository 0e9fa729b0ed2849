"""The pages for people: whole in themselves, and unable to run anything that is not theirs."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from making.served import Local, opened


@pytest.fixture(scope="module")
def local(forms: Callable[[str], Path]) -> Iterator[Local]:
    with opened(forms("shared")) as found:
        yield found


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_nothing_from_elsewhere_and_runs_only_its_own_script(local: Local, path: str) -> None:
    page = local("GET", path)
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(https?:)?//[a-z]|\b(src|srcset)=|@import|url\(", page.text)
    rules = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    for tag in ("script", "style"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
    assert "innerHTML" not in page.text  # a class may be called anything
    assert not re.search(r" on[a-z]+=", page.text)


def test_the_addresses_that_the_page_asks_are_there(local: Local) -> None:
    page = local("GET", "/").text
    asked = re.findall(r'ask\("([^"]+?)[?"]', page)
    assert asked == ["v1/models", "v2/models/", "v1/predict"]
    assert local("GET", "/v1/models").json() == {"models": ["shared"]}
    assert local("GET", "/v2/models/shared").json()["classes"] == ["red", "green", "blue", "grey"]
    assert local("POST", "/v1/predict?model=shared", content=b"x").status_code == 400


def test_the_page_asks_for_its_own_server_also_behind_a_prefix(local: Local) -> None:
    for path in ("/", "/docs"):
        assert not re.search(r'(href|fetch\(|ask\()="?/', local("GET", path).text)
