"""The pictures of served answers in README and docs, and the files that they are drawn from.

    python bench/answers.py --data digits
    python bench/answers.py --data mednist --path PATH/mednist_64.npz
    python bench/answers.py --data fsdd --path PATH/fsdd

Each trains the demo's two models, one after the other on one thread, and erases a class from the served bundles: the
digit 3, the images of hands, the speaker theo. It writes `answers_digits.json` and the like to `--out`; then
`python bench/redraw.py` draws the pictures. The digits and the speakers are told as `pfm demo` tells them, but that
prompts start from the seed, as they did when the files were made.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: models this small are all overhead

from pfm.data.config import DataConfig
from pfm.model.config import StartConfig
from pfm.storage import write_json
from pfm_bench.demo.answers import collect_answers
from pfm_bench.demo.digits import digits_task
from pfm_bench.demo.medical import medical_task
from pfm_bench.demo.side_by_side import READOUTS
from pfm_bench.demo.sounds import sounds_task
from pfm_bench.demo.story import tell_story
from pfm_bench.demo.task import Task
from pfm_bench.reports.header import host_facts

SHOWN_PATHS = {"digits": "", "mednist": "PATH/mednist_64.npz", "fsdd": "PATH/fsdd"}
SEED = 42


def choose_task(data: str, path: Path | None) -> Task:
    """What is told of.

    Args:
        path: where the data is; digits come with the package.
    """
    if data == "digits":
        return digits_task(None, "")
    if path is None:
        raise SystemExit(f"give --path {SHOWN_PATHS[data]}")
    if data == "mednist":
        return medical_task(path)
    pattern = "name:{digit}_{speaker}_{n}"
    return sounds_task(DataConfig(dataset=f"audiofolder:{path}", label_from=pattern, label="speaker"), "theo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SHOWN_PATHS), required=True)
    parser.add_argument("--path", type=Path, help="where the data is; digits come with the package")
    parser.add_argument("--out", type=Path, default=Path("bench/pfm_bench/results"), help="folder of the JSON file")
    arguments = parser.parse_args()
    task = dataclasses.replace(choose_task(arguments.data, arguments.path), start=StartConfig(prompt_start="seed"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        results = {name: tell_story(task, name, Path(temporary) / name, SEED) for name in READOUTS}
    named = f" --path {SHOWN_PATHS[arguments.data]}" if SHOWN_PATHS[arguments.data] else ""
    answers = {name: result.answers for name, result in results.items()}
    document = {
        "command": f"python bench/answers.py --data {arguments.data}{named}",
        "seed": SEED,
        "seconds": round(time.monotonic() - started, 1),
        "host": host_facts(),
        "full_bank": {name: result.full_bank for name, result in results.items()},
        "answers": collect_answers(task, task.load(), answers).to_dict(),
    }
    write_json(arguments.out / f"answers_{arguments.data}.json", document)


if __name__ == "__main__":
    main()
