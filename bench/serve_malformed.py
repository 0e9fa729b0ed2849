"""What five hundred malformed requests cost a server: computing time, memory, and what it answers.

    python bench/serve_malformed.py --out bench/pfm_bench/results/serve_malformed.json

exports two small bundles of random weights, starts `pfm serve` and sends one request after the other. Computing time
is that of the server's process on the CPU, all threads together; what else the machine does adds nothing to it.
"""

import argparse
import tempfile
from pathlib import Path

from pfm.storage import write_json
from pfm_bench.reports.header import FORMAT, host_facts
from pfm_bench.scenarios.malformed import requests
from pfm_bench.scenarios.malformed_run import send_all


def main() -> None:
    """Send, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = send_all(requests(), Path(folder))
    for cost in sorted(found.each, key=lambda cost: -cost.cpu_ms)[:20]:
        print(
            f"{cost.cpu_ms:7.1f} ms {cost.status:3} {cost.peak_mib:6.1f} MiB {cost.request.fault}: {cost.request.name}"
        )
    command = f"python bench/serve_malformed.py --out {given.out}"
    write_json(given.out, {"format": FORMAT, "command": command, "host": host_facts(), **found.to_dict()})
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
