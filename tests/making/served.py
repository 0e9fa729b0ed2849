"""Bundles in the forms that a service treats differently, and what stands in for a session."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import uvicorn

from making.checkpoints import deep_prompt_checkpoint, image_checkpoint, sound_checkpoint
from pfm.model.checkpoint import Checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.service.app import build_app
from pfm_export.service.config import ServeConfig
from pfm_export.service.orders import Named, records_folder
from pfm_export.service.service import Service
from pfm_export.service.worker import settings
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.kinds import Batch

FORMS: dict[str, tuple[Callable[[], Checkpoint], dict[str, Any]]] = {
    "shared": (lambda: image_checkpoint("cls"), {}),
    "requests": (lambda: image_checkpoint("prompt-tokens"), {"per_request_prompts": True}),
    "split-images": (lambda: image_checkpoint("cls-lora-norm-tokens"), {"split": True, "uint8_input": True}),
    "requests-cls": (lambda: image_checkpoint("cls"), {"per_request_prompts": True}),
    "all": (deep_prompt_checkpoint, {"split": True, "uint8_input": True, "per_request_prompts": True}),
    "features": (lambda: sound_checkpoint("prompt"), {}),
    "int8": (lambda: image_checkpoint("cls"), {"per_request_prompts": True, "precision": "int8"}),
    "waveform": (lambda: sound_checkpoint("cls"), {"with_frontend": True}),
}
SLOW_FORMS = ("requests-cls", "all", "features", "int8", "waveform")
PARAMS = [pytest.param(n, marks=pytest.mark.slow if n in SLOW_FORMS else ()) for n in FORMS]


def export_form(name: str, folder: Path) -> Path:
    """A bundle of one of FORMS."""
    make, form = FORMS[name]
    export_bundle(make(), folder, form=GraphForm(**form))
    return folder


class Recorder:
    """Answers every item with the first of its classes, and keeps what each pass was of.

    Attributes:
        passes: the active sets of the items of each pass.
    """

    def __init__(self) -> None:
        self.passes: list[list[ActiveSet]] = []

    def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
        self.passes.append([chosen] * count)
        return answer(chosen, count)

    def predict_each_prepared(self, batches: Sequence[Batch], sets: Sequence[ActiveSet]) -> list[Prediction]:
        (batch,) = batches
        assert sorted(set(batch.owners.tolist())) == list(range(len(sets)))
        self.passes.append(list(sets))
        return [answer(chosen, 1) for chosen in sets]


def answer(chosen: ActiveSet, count: int) -> Prediction:
    names = tuple(map(str, chosen.active or ("red",)))
    return Prediction([names[0]] * count, names, np.ones((count, len(names)), np.float32))


def rows(count: int = 1, shape: tuple[int, ...] = (2,), dtype: npt.DTypeLike = np.float32) -> Batch:
    return Batch.of_items(range(count), np.zeros((count, *shape), dtype))


class Local:
    """A server without a socket: requests go straight to the application."""

    def __init__(self, service: Service, records: Path) -> None:
        self.service = service
        self.app = build_app(service, records)

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())


@contextlib.contextmanager
def opened(*folders: Path, **config: Any) -> Iterator[Local]:
    """Bundles served without a socket, called like their folders."""
    config.setdefault("device", "cpu")
    named = [Named(folder.name, folder) for folder in folders]
    service = Service.open(named, ServeConfig(**config), threads=config.get("threads") or 0)
    try:
        yield Local(service, records_folder(named, service.config))
    finally:
        service.close()


@contextlib.contextmanager
def listening(*folders: Path, **config: Any) -> Iterator[tuple[Local, str]]:
    """The same with a socket, and its address."""
    with opened(*folders, **config) as local, socket.create_server(("127.0.0.1", 0)) as place:
        server = uvicorn.Server(settings(local.app, local.service.config))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([place])))
        thread.start()
        try:
            yield local, f"127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
