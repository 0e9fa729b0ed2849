"""How fast files come to a model, and in how much memory: photographs of 5 megapixels, two decoding processes.

    python bench/intake.py --work intake --before OLD_CHECKOUT --out bench/pfm_bench/results/intake.json

makes the photographs in --work, then measures one part after another; a part that is in --out already is not measured
again (give --again to). Parts: `rate` (images a second, interleaved rounds), `start` (from the start of `pfm train` to
its first step, beside the version in OLD_CHECKOUT, and the memory of all its processes), `many` (ten times as many
files), `shared` (two processes and one copy), `limit` (ten times --data_memory, killed and resumed),
`parts` (what the ways between processes and stores let through).

Memory is the proportional set size of a process and all its descendants, sampled every 50 ms, with the memory of files
without a name that they have open, each counted once.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pfm.storage import write_json
from pfm_bench.reports.header import host_facts

ROOT = Path(__file__).parent.parent
SIZE = 224
WORKERS = 2
COMMAND = "from pfm.cli import main; main()"


def make_photos(folder: Path, count: int, *, width: int = 2592, height: int = 1944, distinct: int = 8) -> Path:
    """`count` JPEGs in two classes and two splits, a tenth for the test; a few distinct ones, linked."""
    if (folder / "test").is_dir():
        return folder
    random = np.random.default_rng(0)
    originals: list[Path] = []
    originals_folder = folder.parent / f"originals_{width}"
    originals_folder.mkdir(parents=True, exist_ok=True)
    for number in range(distinct):
        path = originals_folder / f"{number}.jpg"
        if not path.exists():
            coarse = random.integers(0, 256, (height // 24, width // 24, 3)).astype(np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
            grain = random.integers(-12, 13, (height, width, 1))
            Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        originals.append(path)
    for number in range(count):
        split = "test" if number % 10 == 9 else "train"
        place = folder / split / ("ab"[number % 2 if split == "train" else number // 10 % 2])
        place.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % distinct], place / f"{number:05}.jpg")
    return folder


def make_model(folder: Path, size: int = 32, patch: int = 8) -> Path:
    """A small ViT in Hugging Face layout, with mean and deviation of its own."""
    if not folder.is_dir():
        from transformers import ViTConfig, ViTModel

        config = ViTConfig(
            image_size=size, patch_size=patch, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64,
        )  # fmt: skip
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
        facts = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": size, "width": size}}
        write_json(folder / "preprocessor_config.json", facts)
    return folder


# memory of a tree of processes


def tree_of(root: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def memory_of(root: int) -> tuple[int, dict[int, int]]:
    """(Bytes of PSS, {nameless memory file: bytes}) of a process and its descendants."""
    total = 0
    files: dict[int, int] = {}
    for process in tree_of(root):
        with contextlib.suppress(OSError, IndexError):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += 1024 * int(rollup.split("\nPss:")[1].split()[0])
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(link).startswith("/memfd:pfm"):
                        facts = link.stat()
                        files[facts.st_ino] = facts.st_blocks * 512
    return total, files


@dataclass
class Watched:
    """What a run of processes took.

    Attributes:
        first_step_s: from the start to the first line of losses in the log; None where there was none.
        wall_s: in all.
        cpu_s: of all processes.
        peak_bytes: see the module.
        nameless_files: the most nameless memory files at once, each of which is one copy of a split.
    """

    first_step_s: float | None
    wall_s: float
    cpu_s: float
    peak_bytes: int
    nameless_files: int

    @property
    def peak_mib(self) -> float:
        return round(self.peak_bytes / 2**20, 1)


def watch(
    command: list[str], log: Path, checkout: Path, *, until_first_step: bool, kill_at_step: int | None = None
) -> Watched:
    """Run a command and watch its log and memory.

    Args:
        until_first_step: end it then.
        kill_at_step: end all its processes at once, as a loss of power would, once the log has that step.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    paths = os.pathsep.join(str(checkout / part) for part in (".", "export", "bench"))
    environment = {
        **os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    before = os.times()
    started = time.monotonic()
    with (log.parent / "output.txt").open("ab") as output:
        process = subprocess.Popen(  # not in this folder, whose pfm would be imported
            command, env=environment, stdout=output, stderr=output, start_new_session=True, cwd=log.parent
        )
    first: float | None = None
    peak = most_files = 0
    while process.poll() is None:
        used, files = memory_of(process.pid)
        peak, most_files = max(peak, used + sum(files.values())), max(most_files, len(files))
        step = last_step(log)
        if first is None and step:
            first = time.monotonic() - started
        if (until_first_step and first is not None) or (kill_at_step is not None and step >= kill_at_step):
            for number in tree_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            break
        time.sleep(0.05)
    process.wait()
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    if first is None or (process.returncode and not until_first_step and kill_at_step is None):
        raise SystemExit(f"it failed:\n{(log.parent / 'output.txt').read_text()[-3000:]}")
    return Watched(round(first, 3), round(time.monotonic() - started, 3), round(cpu, 3), peak, most_files)


def last_step(log: Path) -> int:
    """The newest step in a run's log; 0 for none."""
    if not log.exists():
        return 0
    lines = [line for line in log.read_text().split("\n")[:-1] if '"event": "step"' in line]  # but one that has no end
    return json.loads(lines[-1])["step"] if lines else 0


def train_command(data: Path, folder: Path, *options: str, processes: int = 1) -> list[str]:
    """`pfm train` on a folder of images, or under torchrun on several processes."""
    start = [sys.executable, "-c", COMMAND, "train"]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        start = [*launcher, "--master-port", "29733", str(ROOT / "pfm" / "train.py")]
    fixed = ("--cpu", "--dataset", f"imagefolder:{data}", "--save_dir", str(folder), "--log_every", "1", "--seed", "1")
    return [*start, *fixed, *options]


# images a second


def ours(files: list[Path]) -> int:
    from pfm.data.decoding import ImageDecoding
    from pfm.data.image_jobs import ImageRow
    from pfm.data.workers import decode_many

    job = ImageRow(ImageDecoding(size=SIZE, decode="fast"), 3)
    return sum(len(batch) for batch in decode_many(files, job, workers=WORKERS))


def ours_full(files: list[Path]) -> int:
    from pfm.data.decoding import ImageDecoding
    from pfm.data.image_jobs import ImageRow
    from pfm.data.workers import decode_many

    job = ImageRow(ImageDecoding(size=SIZE, decode="full"), 3)
    return sum(len(batch) for batch in decode_many(files, job, workers=WORKERS))


def torchvision_loader(files: list[Path]) -> int:
    """A plain DataLoader over ImageFolder, as its tutorial has it."""
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, PILToTensor, Resize

    data = ImageFolder(str(files[0].parents[1]), Compose([Resize((SIZE, SIZE)), PILToTensor()]))
    part = Subset(data, range(len(files)))
    return sum(len(images) for images, _ in DataLoader(part, batch_size=16, num_workers=WORKERS))


def _simplejpeg(path: Path) -> int:
    import simplejpeg  # type: ignore[import-not-found]  # an extra of this script only

    pixels = simplejpeg.decode_jpeg(
        path.read_bytes(), colorspace="RGB", fastdct=True, min_height=SIZE, min_width=SIZE, min_factor=1
    )
    return len(np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR))) and 1


def simplejpeg_pool(files: list[Path]) -> int:
    """The fastest decoder that installs, in a pool of forked processes."""
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        done = sum(pool.imap(_simplejpeg, files, chunksize=16))
        pool.close()
        pool.join()
    return done


def measure_rate(photos: Path, rounds: int) -> dict[str, Any]:
    """Images a second of each way, in interleaved rounds."""
    files = sorted((photos / "train").rglob("*.jpg"))
    counts = {"pfm": 160, "pfm, decode full": 32, "torchvision": 32, "simplejpeg": 160}
    ways: dict[str, Callable[[list[Path]], int]] = {
        "pfm": ours, "pfm, decode full": ours_full, "torchvision": torchvision_loader, "simplejpeg": simplejpeg_pool,
    }  # fmt: skip
    if importlib.util.find_spec("simplejpeg") is None:
        ways.pop("simplejpeg")
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:
            part = (files * 2)[: counts[name]]
            before, started = os.times(), time.perf_counter()
            done = ways[name](part)
            wall, after = time.perf_counter() - started, os.times()
            cpu = sum(after[:4]) - sum(before[:4])
            samples[name].append({"images": done, "wall_s": round(wall, 4), "cpu_s": round(cpu, 4)})
            print(f"{name}: {done / wall:.0f} images/s", flush=True)
    rates = {name: [s["images"] / s["wall_s"] for s in own] for name, own in samples.items()}
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(rates["pfm"], own, strict=True)), 3)
        for name, own in rates.items()
    }
    return {
        "size": SIZE, "workers": WORKERS, "rounds": rounds,
        "images_per_s": {name: round(statistics.median(own), 1) for name, own in rates.items()},
        "pfm_times_as_fast_as": ratios, "samples": samples,
        "note": "each sample starts its processes anew: fresh interpreters for pfm, forks for the others",
    }  # fmt: skip


# runs


def measure_start(photos: Path, before: Path | None, work: Path, rounds: int) -> dict[str, Any]:
    """From the start of `pfm train` to its first step, interleaved with the version before."""
    found: dict[str, list[Watched]] = {"now": [], "before": []}
    model = make_model(work / "vit_32")
    checkouts = {"now": ROOT, **({} if before is None else {"before": before})}
    for number in range(rounds):
        for name, checkout in checkouts.items():
            folder = work / "start" / f"{name}_{number}"
            command = train_command(photos, folder, "--model_name", str(model), "--epochs", "1")
            if name == "now":
                command += ["--data_workers", str(WORKERS)]
            log = folder / f"{photos.name}_seed_1_log.jsonl"
            found[name].append(watch(command, log, checkout, until_first_step=True))
            print(f"start, {name}: {found[name][-1]}", flush=True)
    report: dict[str, Any] = {
        name: {
            "first_step_s": statistics.median(run.first_step_s or 0 for run in runs),
            "peak_mib": max(run.peak_mib for run in runs),
            "samples": [asdict(run) for run in runs],
        }
        for name, runs in found.items()
        if runs
    }
    if before is not None:
        pairs = zip(found["before"], found["now"], strict=True)
        report["times_as_fast"] = round(statistics.median(b.first_step_s / n.first_step_s for b, n in pairs), 2)  # type: ignore[operator]
    return {"files": 400, "model": "ViT of 32 pixels, 2 layers, with its own mean and deviation", **report}


def measure_many(work: Path) -> dict[str, Any]:
    """Ten times as many files, for a model of 224 pixels."""
    photos = make_photos(work / "many", 4000)
    folder = work / "many_run"
    options = ("--model_name", "scratch:vit_tiny_patch16_224", "--epochs", "1", "--batch_size", "4")
    command = train_command(photos, folder, *options, "--data_workers", str(WORKERS))
    run = watch(command, folder / "many_seed_1_log.jsonl", ROOT, until_first_step=True)
    return {"files": 4000, "size": SIZE, "peak_mib": run.peak_mib, **asdict(run)}


def measure_shared(photos: Path, work: Path) -> dict[str, Any]:
    """One process and two, of a model of 224 pixels: what the second adds."""
    found = {}
    for processes in (1, 2):
        folder = work / f"shared_{processes}"
        options = ("--model_name", "scratch:vit_tiny_patch16_224", "--epochs", "1", "--batch_size", "2")
        command = train_command(photos, folder, *options, "--data_on", "host", processes=processes)
        run = watch(command, folder / f"{photos.name}_seed_1_log.jsonl", ROOT, until_first_step=True)
        found[str(processes)] = {"peak_mib": run.peak_mib, **asdict(run)}
        print(f"shared, {processes}: {run}", flush=True)
    return {"data_mib": round(400 * 3 * SIZE * SIZE / 2**20, 1), "splits": 2, "processes": found}


def measure_limit(work: Path) -> dict[str, Any]:
    """A set ten times --data_memory on two processes, whole, and killed and resumed; beside one that just fits.

    The model is so small that what differs between the two sets is where their data is kept.
    """
    count = 4000
    large = make_photos(work / "large", count, width=640, height=480)
    small = make_photos(work / "small", count // 10, width=640, height=480)  # ten epochs of them are as many steps
    model = make_model(work / "vit_224", SIZE, 56)
    size = count * 3 * SIZE * SIZE
    memory = f"{size // 10 // 2**20 + 1}MB"
    fixed = ("--model_name", str(model), "--batch_size", "15", "--data_memory", memory, "--data_workers", str(WORKERS))
    options = (*fixed, "--eval_every", "0", "--save_steps", "20")

    def run(data: Path, name: str, *more: str, kill: int | None = None) -> Watched:
        folder = work / "limit" / name
        command = train_command(data, folder, *options, *more, processes=2)
        done = watch(command, folder / f"{data.name}_seed_1_log.jsonl", ROOT, until_first_step=False, kill_at_step=kill)
        print(f"limit, {name}: {done}", flush=True)
        return done

    shutil.rmtree(work / "limit", ignore_errors=True)
    resumed = work / "limit" / "large" / "large_seed_1_1.pt"  # both in one folder, whose name is in the checkpoint
    runs = {
        "a tenth, ten epochs": run(small, "small", "--epochs", "10"),
        "whole": run(large, "large", "--epochs", "1"),
    }
    whole = (work / "limit" / "large").rename(work / "limit" / "whole") / resumed.name
    runs["killed"] = run(large, "large", "--epochs", "1", kill=60)
    runs["resumed"] = run(large, "large", "--epochs", "1", "--resume", "auto")
    return {
        "files": count, "data_mib": round(size / 2**20, 1), "data_memory": memory,
        "same_bytes": whole.read_bytes() == resumed.read_bytes(), "same_tensors": same_tensors(whole, resumed),
        "peak_mib": {name: one.peak_mib for name, one in runs.items()},
        "samples": {name: asdict(one) for name, one in runs.items()},
    }  # fmt: skip


def measure_parts() -> dict[str, Any]:
    """What the way from a worker to a store, and from a store to a batch, lets through; agreement of two processes."""
    import torch

    from pfm.data.decoding import ImageDecoding
    from pfm.data.image_jobs import ImageRow
    from pfm.data.store import Store
    from pfm.data.workers import Workers, batches

    job, buffer = ImageRow(ImageDecoding(), 3), io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(buffer, "BMP")  # whose decoding is a copy
    source = buffer.getvalue()

    count = 1024
    found: dict[str, Any] = {"row_bytes": 3 * SIZE * SIZE}
    for where in ("host", "disk"):
        store = Store.make((count, 3, SIZE, SIZE), torch.uint8, where, "a bench")
        with Workers(WORKERS, patience_s=-1) as pool:
            list(pool.map(job, [[source]]))
            before, started = time.process_time(), time.perf_counter()
            place = 0
            for _, outcomes in pool.map(job, batches([source] * count, 16)):
                for outcome in outcomes:
                    assert outcome.value is not None
                    store.write(place, outcome.value)
                    place += 1
            wall, cpu = time.perf_counter() - started, time.process_time() - before
        found[f"into_{where}"] = {"rows_per_s": round(count / wall), "rows_per_cpu_s": round(count / cpu)}
        before, started = time.process_time(), time.perf_counter()
        for _ in store.batches(list(torch.randperm(count).split(32)), 0):
            pass
        wall, cpu = time.perf_counter() - started, time.process_time() - before
        found[f"from_{where}"] = {"rows_per_s": round(count / wall), "rows_per_cpu_s": round(count / cpu)}
    code = (
        "import json, time, torch, torch.distributed as dist; dist.init_process_group('gloo')\n"
        "def times(n, size):\n"
        "    t = torch.zeros(size); out = []\n"
        "    for _ in range(n):\n"
        "        s = time.perf_counter(); dist.all_reduce(t); out.append(1e3 * (time.perf_counter() - s))\n"
        "    return sorted(out)[n // 2]\n"
        "found = {'one_number_ms': times(300, 1), 'lora_vit_base_ms': times(50, 162_826)}\n"
        "if dist.get_rank() == 0: print(json.dumps(found))\n"
        "dist.destroy_process_group()"
    )
    script = Path(os.environ.get("TMPDIR", "/tmp")) / f"agree_{os.getpid()}.py"
    script.write_text(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29734"]
    done = subprocess.run([*launcher, str(script)], capture_output=True, text=True, check=True)
    script.unlink()
    return {**found, "all_reduce_of_two_processes": json.loads(done.stdout.splitlines()[-1])}


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two checkpoints hold the same trained tensors, to the bit."""
    import torch

    from pfm.model.checkpoint import load_checkpoint

    a, b = load_checkpoint(first).tensors, load_checkpoint(second).tensors
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="checkout of the version to compare the start with")
    parser.add_argument("--parts", default="rate,start,many,shared,limit,parts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    work: Path = arguments.work.absolute()
    photos = make_photos(work / "photos", 400)
    report: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    report |= {
        "command": "python bench/intake.py --work intake --before OLD_CHECKOUT --out intake.json",
        "host": host_facts(),
        "photo": {"width": 2592, "height": 1944, "bytes": (work / "originals_2592" / "0.jpg").stat().st_size},
        "note": "the cores were shared with other programs: see CPU seconds and ratios of interleaved rounds",
    }
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "rate": lambda: measure_rate(photos, arguments.rounds),
        "start": lambda: measure_start(photos, arguments.before, work, max(1, arguments.rounds // 2)),
        "many": lambda: measure_many(work),
        "shared": lambda: measure_shared(photos, work),
        "limit": lambda: measure_limit(work),
        "parts": measure_parts,
    }
    for name in arguments.parts.split(","):
        if arguments.again or name not in report:
            report[name] = parts[name]()
            write_json(arguments.out, report)


if __name__ == "__main__":
    main()
