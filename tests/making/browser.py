"""A headless Chromium, told what to do over its DevTools protocol; tests that want one skip where there is none."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

T = TypeVar("T")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
PATIENCE = 300.0  # seconds; a busy machine starts a browser slowly


def find_chromium() -> str:
    """The program."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


class Page:
    """One page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command of the protocol; what it answers."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=PATIENCE)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, script: str) -> Any:
        """The value of an expression once it is true."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if found := await self.evaluate(script):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"{script} did not become true: {await self.evaluate('document.body.innerText')}")

    async def open(self, address: str) -> None:
        """Go to an address, and wait until it is loaded."""
        await self.tell("Page.navigate", url=address)
        await self.wait_for(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    async def choose_file(self, selector: str, path: Path) -> None:
        """As if a user had chosen it."""
        root = (await self.tell("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.tell("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.tell("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    async def look(self, width: int, scheme: str) -> bytes:
        """A picture of the whole page, as it is in a window of so many pixels, in a light or dark scheme."""
        await self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        await self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        shown = await self.tell("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shown["data"])


def browse(folder: Path, visit: Callable[[Page], Coroutine[Any, Any, T]]) -> T:
    """Open a page in a browser of its own, whose profile is written to a folder, and do something there."""
    program = find_chromium()
    with subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(folder)},
    ) as process:  # fmt: skip
        try:
            return asyncio.run(_visit(_port(folder), visit))
        finally:
            process.terminate()


def _port(folder: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        path = folder / "DevToolsActivePort"
        if path.exists() and (lines := path.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")


async def _visit(port: int, visit: Callable[[Page], Coroutine[Any, Any, T]]) -> T:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(entry for entry in await answer.json() if entry["type"] == "page")
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            return await visit(Page(socket))
