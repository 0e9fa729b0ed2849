"""A bundle that others erase from, write to and damage while it is served."""

import json
import random
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from making.bundles import spoiled
from making.checkpoints import image_checkpoint
from pfm.errors import BundleError, ClassNameError, PfmError
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER
from pfm.storage import sha256_bytes
from pfm_export.graph.export import export_bundle
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import MANIFEST, write_manifest
from pfm_export.serving.session import PromptSession
from pfm_export.serving.signature import MODEL
from pfm_export.serving.writing import write_bundle

ROOT = Path(__file__).parent.parent.parent
INPUTS = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
NAMES = [f"class{i}" for i in range(12)]
FILES = (MODEL, BANK, MANIFEST, LEDGER, "config.json", "preprocessor_config.json")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a model that others have traced, which is one for any number of classes, with rows of twelve."""
    folder = tmp_path_factory.mktemp("bundles")
    export_bundle(image_checkpoint("prompt"), folder / "four")
    random, shape = np.random.default_rng(1), load_file(folder / "four" / BANK)["prompt.0"].shape
    (folder / "twelve").mkdir()
    rewrite(
        folder / "four",
        folder / "twelve",
        bank={f"prompt.{i}": random.standard_normal(shape, dtype=np.float32) for i in range(len(NAMES))},
        classes=[{"id": i, "name": name} for i, name in enumerate(NAMES)],
    )
    return folder / "twelve"


def rewrite(source: Path, folder: Path, *, bank: dict[str, np.ndarray], graph: bytes = b"", **changes: Any) -> None:
    """A bundle as another one but for its rows, and what else is given."""
    manifest = json.loads((source / MANIFEST).read_text())
    stated = {name: value for name, value in manifest.items() if name not in ("format", "version")}
    write_bundle(
        folder,
        graphs={MODEL: graph or (source / MODEL).read_bytes()},
        others={name: (source / name).read_bytes() for name in manifest["files"] if name not in (MODEL, BANK)},
        bank=bank,
        manifest={**stated, **changes},
    )


def write_another(exported: Path, folder: Path) -> None:
    """A bundle of the same classes, with other numbers in graph and bank."""
    folder.mkdir()
    rewrite(
        exported,
        folder,
        bank={name: rows + 1 for name, rows in load_file(exported / BANK).items()},
        graph=spoiled((exported / MODEL).read_bytes()),
        bundle=sha256_bytes(b"another"),
    )


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def erase_elsewhere(folder: Path, *names: str, announce: bool = False) -> "subprocess.Popen[str]":
    """A process that erases classes one after another, and with `announce` says so before and after each."""
    script = f"""
        import sys, time
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "export")!r}]
        from pfm_export.serving.bundle import Bundle
        for name in {names!r}:
            print("erasing", name, flush=True)
            Bundle.open({str(folder)!r}).erase([name])
            print("erased", name, flush=True)
            time.sleep(0.05 if {announce} else 0)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: "subprocess.Popen[str]") -> str:
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return said


def test_a_session_notices_what_another_process_erased(folder: Path) -> None:
    session = PromptSession(folder, device="cpu")
    assert "class3" in session.predict(INPUTS).classes
    finished(erase_elsewhere(folder, "class3", "class5"))
    assert session.predict(INPUTS).classes == tuple(name for name in NAMES if name not in ("class3", "class5"))
    with pytest.raises(ClassNameError, match="class3"):
        session.predict(INPUTS, ["class3"])
    session.erase(["class0"])  # from the bundle as it is now
    assert len(Bundle.open(folder).classes) == 9


def test_a_session_whose_bundle_was_damaged_or_replaced_stops(exported: Path, folder: Path, tmp_path: Path) -> None:
    session = PromptSession(folder, device="cpu")
    whole = (folder / BANK).read_bytes()
    (folder / BANK).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match="was changed"):
        session.predict(INPUTS)
    (folder / BANK).unlink()
    with pytest.raises(BundleError, match="not a complete bundle"):
        session.predict(INPUTS)
    (folder / BANK).write_bytes(whole)
    assert len(session.predict(INPUTS).classes) == len(NAMES)
    write_another(exported, tmp_path / "other")
    for path in (tmp_path / "other").iterdir():
        shutil.copy(path, folder / path.name)
    with pytest.raises(BundleError, match="another bundle"):
        session.predict(INPUTS)


def test_a_session_does_not_answer_with_a_bank_that_was_put_back(exported: Path, folder: Path) -> None:
    """All of it fits together: bank, manifest with its own hash, ledger; which says that the class was erased."""
    session = PromptSession(folder, device="cpu")
    session.erase(["class3"])
    shutil.copy(exported / BANK, folder / BANK)
    head = json.loads((folder / MANIFEST).read_bytes())["ledger_head"]
    write_manifest(folder, {**json.loads((exported / MANIFEST).read_bytes()), "ledger_head": head})
    assert "class3" in Bundle.open(folder).classes.names
    for serve in (lambda: session.predict(INPUTS), lambda: PromptSession(folder, device="cpu")):
        with pytest.raises(BundleError, match="holds the class class3, whose erasure its ledger records"):
            serve()
    Bundle.open(folder).erase(["class3"])
    assert "class3" not in session.predict(INPUTS).classes


def test_erasures_by_several_processes_at_once_are_all_kept(folder: Path) -> None:
    processes = [erase_elsewhere(folder, *NAMES[start : start + 3]) for start in (0, 3, 6)]
    for process in processes:
        finished(process)
    bundle = Bundle.open(folder)
    assert bundle.classes.names == ("class9", "class10", "class11")
    assert bundle.pending == ()
    erased = [entry["name"] for record in ledger.read(folder / LEDGER) for entry in record["classes"]]
    assert sorted(erased) == sorted(NAMES[:9])


@pytest.mark.slow
def test_no_thread_answers_a_class_that_another_process_has_erased(exported: Path, tmp_path: Path) -> None:
    """8 threads through one session, 1,000 rounds in all, while the classes go one after another."""
    rounds = 0
    for repetition in range(3):
        folder = Path(shutil.copytree(exported, tmp_path / f"bundle{repetition}"))
        session = PromptSession(folder, device="cpu", threads=1)
        gone: set[str] = set()  # erased for good before the prediction began
        failures: list[str] = []
        counts = [0] * 8
        stop = threading.Event()

        def serve(number: int, *, session: PromptSession = session, gone: set[str] = gone,
                  failures: list[str] = failures, counts: list[int] = counts,
                  stop: threading.Event = stop) -> None:  # fmt: skip
            while not stop.is_set() or counts[number] < 45:
                before = set(gone)
                try:
                    prediction = session.predict(INPUTS)
                except Exception as error:
                    failures.append(repr(error))
                    return
                if before & {*prediction.classes, *prediction.labels}:
                    failures.append(f"{before} were erased, {prediction.classes} answered")
                if not np.isfinite(prediction.probabilities).all():
                    failures.append("torn numbers")
                counts[number] += 1

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        process = erase_elsewhere(folder, *NAMES[:10], announce=True)
        assert process.stdout is not None
        for line in process.stdout:
            what, name = line.split()
            if what == "erased":
                gone.add(name)
        process.communicate(timeout=600)
        stop.set()
        for thread in threads:
            thread.join(timeout=600)
        assert failures == []
        assert process.returncode == 0
        assert session.predict(INPUTS).classes == ("class10", "class11")
        rounds += sum(counts)
    assert rounds >= 1000


Damage = Callable[[random.Random, Path, Path], None]


def flip(rng: random.Random, folder: Path, other: Path) -> None:
    path = folder / rng.choice(FILES)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 5))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(rng: random.Random, folder: Path, other: Path) -> None:
    path = folder / rng.choice(FILES)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def remove(rng: random.Random, folder: Path, other: Path) -> None:
    (folder / rng.choice(FILES)).unlink()


def swap(rng: random.Random, folder: Path, other: Path) -> None:
    name = rng.choice(FILES[:4])  # the others are the same in both
    (folder / name).write_bytes((other / name).read_bytes())


def edit_manifest(rng: random.Random, folder: Path, other: Path) -> None:
    """Another value, another type, a key less or one more, anywhere inside."""
    manifest = json.loads((folder / MANIFEST).read_text())
    place: Any = manifest
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            place = inner
            continue
        break
    action = rng.randrange(3)
    if action == 0:
        del place[key]
    elif action == 1:
        place[key] = rng.choice(
            [v for v in (None, 17, -1.5, "x", [], {}, True) if v != inner or type(v) is not type(inner)]
        )
    else:
        manifest[f"more{rng.randrange(9)}"] = 1
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGES: tuple[Damage, ...] = (flip, truncate, remove, swap, edit_manifest)


def refusal(folder: Path) -> str | None:
    """What a session says of a bundle; None where it opens it."""
    try:
        PromptSession(folder, device="cpu", threads=1)
    except PfmError as error:
        return str(error)
    return None


def survivors(exported: Path, tmp_path: Path, cases: int) -> list[str]:
    """Damaged bundles that were opened all the same."""
    first = Path(shutil.copytree(exported, tmp_path / "first"))
    Bundle.open(first).erase(["class1"])  # so that there is a ledger to damage
    other = tmp_path / "other"
    write_another(exported, other)
    Bundle.open(other).erase(["class2"])
    rng = random.Random(0)
    opened = []
    folder = tmp_path / "damaged"
    for number in range(cases):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(first, folder)
        damage = DAMAGES[number % len(DAMAGES)]
        damage(rng, folder, other)
        message = refusal(folder)
        if message is not None:
            assert message.strip()
            assert "\n" not in message
            continue
        changed = [name for name in FILES if (folder / name).read_bytes() != (first / name).read_bytes()]
        opened.append(f"{number} {damage.__name__} {changed}")
    return opened


def test_damaged_bundles_are_refused_before_any_prediction(exported: Path, tmp_path: Path) -> None:
    assert survivors(exported, tmp_path, 100) == []


@pytest.mark.slow
def test_a_thousand_damaged_bundles_are_refused(exported: Path, tmp_path: Path) -> None:
    assert survivors(exported, tmp_path, 1200) == []
