"""Write result files again in their compact form, nothing run anew, and say that the numbers are the same.

    python bench/compact_results.py bench/pfm_bench/results/audit_digits.json

Runs of nested figures become a table (`pfm_bench.reports.packed`); every float keeps six significant digits.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pfm.storage import rounded, write_compact_json
from pfm_bench.reports.packed import pack, runs_of

DIGITS = 6


def compact(path: Path) -> str:
    """Rewrite a file; what it was and is, in words.

    Raises:
        SystemExit: a number would not be the same to six digits, and the file stays as it is.
    """
    before = json.loads(path.read_text())
    size = path.stat().st_size
    content = {**before, "runs": pack(runs_of(before))} if "runs" in before else before
    draft = path.with_suffix(".draft")
    write_compact_json(draft, content, DIGITS)
    if _opened(json.loads(draft.read_text())) != rounded(_opened(before), DIGITS):
        raise SystemExit(f"{path}: {draft} does not hold the same numbers")
    draft.replace(path)
    return f"{path.name}: {size:,} bytes, now {path.stat().st_size:,}; every number the same to {DIGITS} digits"


def _opened(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "runs": runs_of(document)} if "runs" in document else document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    for path in parser.parse_args().files:
        print(compact(path))


if __name__ == "__main__":
    main()
