"""The page to try a file, in a browser: what a person does there, and that nothing of it is cut off."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from making.browser import Page, browse, find_chromium
from making.served import listening
from pfm_export.serving.bundle import Bundle

TOKEN = "page-" + "t" * 40
PICTURES = os.environ.get("PFM_PICTURES")  # a folder, to look at them
LABEL = "document.getElementById('label').textContent"
ROWS = "[...document.querySelectorAll('#shares tr')].map(row => row.cells[0].textContent)"
SHARES = "[...document.querySelectorAll('#shares tr')].reduce((sum, r) => sum + parseFloat(r.cells[1].textContent), 0)"
BOXES = "[...document.querySelectorAll('#classes label')].map(label => label.textContent.trim())"
ERROR = "document.getElementById('error').textContent"
IS_CUT = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
# of texts, the ratio of brightness to their ground, as WCAG has it; 4.5 is its least
CONTRAST = """
(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const bright = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const ground = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [...document.querySelectorAll("h1, h2, legend, label, td, a, p, code, #label, #error, button")]
    .filter(element => element.textContent.trim()).map(element => {
      const two = [bright(numbers(getComputedStyle(element).color)), bright(ground(element))];
      return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
    });
  return Math.min(...found);
})()
"""


def keep(name: str, picture: bytes) -> None:
    if PICTURES:
        (Path(PICTURES) / f"{name}.png").write_bytes(picture)


@pytest.mark.slow(seconds=30)
def test_a_person_tries_a_file_and_switches_a_class_off(forms: Callable[[str], Path], tmp_path: Path) -> None:
    find_chromium()
    folder = Path(shutil.copytree(forms("shared"), tmp_path / "shared"))
    Bundle.open(folder).suspend(["grey"], profile="ward")
    entry = {"sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "profile": "ward", "rights": ["predict"]}
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": [entry]}))
    picture = tmp_path / "picture.png"
    Image.new("RGB", (20, 30), (200, 30, 30)).save(picture)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")

    with listening(folder, tokens=tmp_path / "tokens.json") as (_, address):

        async def visit(page: Page) -> None:
            await page.open(f"http://{address}/")
            assert await page.wait_for(ERROR) == "Enter your token, and press Load."
            await page.evaluate(f"document.getElementById('token').value = {json.dumps(TOKEN)}")
            await page.evaluate("document.getElementById('load').click()")
            assert await page.wait_for(f"{BOXES}.length && {BOXES}") == ["red", "green", "blue"]  # and no grey
            assert await page.evaluate(ERROR) == ""
            await page.choose_file("#file", picture)
            first = await page.wait_for(LABEL)
            rows = await page.evaluate(ROWS)
            assert sorted(rows) == ["blue", "green", "red"]
            assert rows[0] == first
            assert abs(await page.evaluate(SHARES) - 100) < 0.3
            for width, scheme in ((390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")):
                keep(f"page-{width}-{scheme}", await page.look(width, scheme))
                assert not await page.evaluate(IS_CUT), (width, scheme)
                assert await page.evaluate(CONTRAST) >= 4.5, (width, scheme)
            await page.evaluate(f"document.querySelector('#classes input[value={first}]').click()")
            await page.wait_for(f"{LABEL} && {LABEL} !== {json.dumps(first)}")
            assert sorted(await page.evaluate(ROWS)) == sorted(set(rows) - {first})
            assert abs(await page.evaluate(SHARES) - 100) < 0.3
            await page.evaluate("document.getElementById('none').click()")
            assert await page.wait_for(ERROR) == "Leave at least one class."
            assert await page.evaluate(LABEL) == ""
            await page.evaluate("document.getElementById('all').click()")
            assert await page.wait_for(LABEL) == first
            await page.choose_file("#file", broken)
            assert "not an image of a known kind" in await page.wait_for(ERROR)
            keep("page-error", await page.look(390, "dark"))
            assert await page.evaluate(CONTRAST) >= 4.5
            assert await page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
            await page.evaluate("document.getElementById('token').value = 'x'.repeat(40)")
            await page.evaluate("document.getElementById('load').click()")
            await page.wait_for(f"{ERROR} === 'This token is not known.'")
            assert await page.evaluate(f"{BOXES}.length") == 0

        browse(tmp_path / "profile", visit)


@pytest.mark.slow(seconds=20)
def test_the_interface_is_shown_whole(forms: Callable[[str], Path], tmp_path: Path) -> None:
    find_chromium()
    with listening(forms("shared")) as (_, address):

        async def visit(page: Page) -> None:
            await page.open(f"http://{address}/docs")
            assert await page.wait_for("document.querySelectorAll('section').length") > 10
            for width, scheme in ((390, "light"), (1280, "dark")):
                keep(f"docs-{width}-{scheme}", await page.look(width, scheme))
                assert not await page.evaluate(IS_CUT), (width, scheme)
                assert await page.evaluate(CONTRAST) >= 4.5, (width, scheme)

        browse(tmp_path / "profile", visit)
