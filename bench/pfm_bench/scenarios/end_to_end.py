"""From a file to its label: where decoding and resizing is done, in the session, by threads ahead, in the graph.

Four bundles of one model. Its files are decoded near the model's size and brought to it in whole grey levels ("fast",
what `--decode fast` trains with), or decoded as they are and resized in float ("full"); and the rest is done in front
of the graph, or in it (`--uint8_input`). Each is asked for one file, for a stream of them one by one and with threads
that read ahead, and over HTTP, in interleaved rounds.
"""

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from pfm.data.decoding import ImageDecoding
from pfm.data.images import ImagePreprocess
from pfm.device import available_cores
from pfm.errors import ConfigError
from pfm.model.checkpoint import Checkpoint
from pfm.storage import Json, JsonValue
from pfm_bench.measuring.rounds import Samples, measure
from pfm_bench.measuring.served import own_server
from pfm_bench.scenarios.end_to_end_plan import EndToEndPlan
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.predicting.pipeline import predict_files
from pfm_export.serving.answers import ActiveSet
from pfm_export.serving.session import PromptSession

PAUSE_MS = 30.0  # in which threads that wait busily stop, which would take cores from the server
READERS = 2  # threads that read ahead
SHARPNESS = 24  # of the pictures' noise, so that a JPEG has about as many bytes as a photograph
REFERENCE = "model"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed.

    Attributes:
        what: "model" (inputs that are ready), "file", "stream one by one", "stream ahead" or "http".
        bundle: "fast" or "full", "+ graph" where the graph does the rest.
        files: of one call.
    """

    what: str
    bundle: str
    files: int

    def __str__(self) -> str:
        return f"{self.what}, {self.bundle}"


Calls = dict[str, tuple[Case, Callable[[], object]]]


def run(plan: EndToEndPlan, folder: Path, tell: Callable[[str], None]) -> Json:
    """Measure all of it in a folder.

    Raises:
        ConfigError: the model is not one of images.
    """
    checkpoint = random_checkpoint(plan.random_weights, num_classes=plan.num_classes, readout="cls", seed=plan.seed)
    bundles = write_bundles(checkpoint, plan.precision, folder)
    photos = write_photos(folder / "photos", plan)
    sessions = {
        name: PromptSession(path, device="cpu", threads=plan.threads, warm_up=[1]) for name, path in bundles.items()
    }
    calls: Calls = {}
    for name, session in sessions.items():
        for case, call in local_calls(name, session, photos, is_first=not calls):
            calls[str(case)] = (case, call)
    with contextlib.ExitStack() as stack:
        if plan.http:
            for case, call in stack.enter_context(http_calls(bundles, photos[0], plan.threads, folder / "log")):
                calls[str(case)] = (case, call)
        samples = measure(
            {key: call for key, (_, call) in calls.items()}, rounds=plan.rounds, budget_s=plan.seconds,
            pause_ms=PAUSE_MS, warmup_rounds=1, seed=plan.seed,
        )  # fmt: skip
    cases = {key: case for key, (case, _) in calls.items()}
    size = photos[0].stat().st_size
    for key, case in cases.items():
        tell(f"{key:32} {ms_a_file(samples, key, case):8.1f} ms a file")
    return {"settings": asdict(plan), "photo_bytes": size, "rounds": samples.rounds, **describe(samples, cases)}


def write_bundles(checkpoint: Checkpoint, precision: str, folder: Path) -> dict[str, Path]:
    """The four, by name."""
    preprocess = cast("ImagePreprocess", checkpoint.preprocess)
    if len(checkpoint.spec.input_shape) != 3:
        raise ConfigError("pfm bench end_to_end takes a model of images")
    found: dict[str, Path] = {}
    for name, decoding in {
        "fast": ImageDecoding(size=preprocess.size, decode="fast"),
        "full": ImageDecoding(),
    }.items():
        for is_in_graph in (False, True):
            path = folder / (f"{name}-graph" if is_in_graph else name)
            form = GraphForm(precision=precision, uint8_input=is_in_graph)
            export_bundle(replace(checkpoint, preprocess=replace(preprocess, decoding=decoding)), path, form=form)
            found[f"{name} + graph" if is_in_graph else name] = path
    return found


def write_photos(folder: Path, plan: EndToEndPlan) -> list[Path]:
    """JPEGs with as much detail as photographs have."""
    folder.mkdir()
    random, (width, height) = np.random.default_rng(plan.seed), plan.size
    paths: list[Path] = []
    for number in range(plan.stream):
        rough = random.integers(0, 256, (max(1, height // 64), max(1, width // 64), 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.integers(-SHARPNESS, SHARPNESS, (height, width, 1))
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=88)
    return paths


def local_calls(
    name: str, session: PromptSession, photos: list[Path], *, is_first: bool
) -> Iterator[tuple[Case, Callable[[], object]]]:
    """Those in this process."""
    if is_first:
        ready = session.input.zeros(1)
        yield Case(what=REFERENCE, bundle=name, files=1), lambda: session.predict(ready)
    names = [str(path) for path in photos]
    yield Case(what="file", bundle=name, files=1), lambda: session.predict_images(names[0])
    yield (
        Case(what="stream one by one", bundle=name, files=len(names)),
        lambda: [session.predict_images(path) for path in names],
    )
    yield Case(what="stream ahead", bundle=name, files=len(names)), lambda: ahead(session, names)


def ahead(session: PromptSession, names: list[str]) -> list[object]:
    """Answers of a stream, one file a pass, while threads read the next ones."""
    return list(predict_files(session, names, ActiveSet(), batch_size=1, num_workers=READERS))


@contextlib.contextmanager
def http_calls(
    bundles: Mapping[str, Path], photo: Path, threads: int, log: Path
) -> Iterator[list[tuple[Case, Callable[[], object]]]]:
    """Those that ask a server for a file's label."""
    threads = threads or len(available_cores())  # as many as the sessions beside it; a server may choose fewer
    options = ("--device", "cpu", "--threads", str(threads))
    content = photo.read_bytes()
    with own_server(list(bundles.values()), *options, log=log) as server:
        place = urlsplit(server.address)
        connection = http.client.HTTPConnection(str(place.hostname), place.port)

        def ask(model: str) -> object:
            connection.request("POST", f"/v1/predict?model={model}", content)
            answer = connection.getresponse()
            found = json.loads(answer.read())
            assert answer.status == 200, found
            return found["label"]

        yield [
            (Case(what="http", bundle=name, files=1), lambda path=path: ask(path.name))
            for name, path in bundles.items()
        ]
        connection.close()


def ms_a_file(samples: Samples[str], key: str, case: Case) -> float:
    """The median of a call over its files."""
    return round(float(np.median(samples.latency_ms[key])) / case.files, 3)


def fastest(samples: Samples[str], cases: Mapping[str, Case]) -> dict[str, str]:
    """Of one file, a stream and HTTP: which way takes the least time a file."""
    found: dict[str, str] = {}
    for what in ("file", "stream", "http"):
        ways = [key for key, case in cases.items() if case.what.startswith(what)]
        if ways:
            found[what] = min(ways, key=lambda key: ms_a_file(samples, key, cases[key]))
    return found


def describe(samples: Samples[str], cases: Mapping[str, Case]) -> dict[str, JsonValue]:
    """Times of each case, and which way was the fastest."""
    entries: list[JsonValue] = [
        {
            "case": key, **asdict(case), "ms_a_file": ms_a_file(samples, key, case),
            **{f"call_{name}": round(value, 3) for name, value in samples.percentiles(key).to_dict().items()},
            "latencies_ms": [round(value, 3) for value in samples.latency_ms[key]],
        }
        for key, case in cases.items()
    ]  # fmt: skip
    return {"cases": entries, "fastest": dict(fastest(samples, cases))}
