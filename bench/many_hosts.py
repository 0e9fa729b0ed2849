"""A result file whose cases several machines made: it says of each which one, and takes those of other files in."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm_bench.reports.header import host_facts
from pfm_bench.reports.packed import runs_of


@dataclass
class Cases:
    """Cases, and where each was made.

    Attributes:
        hosts: of each host the facts, the device, and under "runs" the names of its cases.
    """

    runs: dict[str, Any]
    hosts: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "Cases":
        """Of a file, or of none; an older one names a single host."""
        if not path.exists():
            return cls({}, [])
        document = json.loads(path.read_text())
        runs = runs_of(document)
        return cls(runs, document.get("hosts") or [{"device": "cpu", **document["host"], "runs": list(runs)}])

    def add(self, name: str, run: Any, device: str) -> None:
        """A case that was made here, in the place of one of the same name."""
        self._put(name, run, {"device": device, **host_facts()})

    def take(self, other: "Cases") -> None:
        """The cases of another file."""
        for host in other.hosts:
            for name in host["runs"]:
                self._put(name, other.runs[name], host)

    def _put(self, name: str, run: Any, host: dict[str, Any]) -> None:
        self.runs[name] = run
        facts = {key: value for key, value in host.items() if key != "runs"}
        for known in self.hosts:
            known["runs"] = [other for other in known["runs"] if other != name]
        same = next((known for known in self.hosts if {**facts, "runs": known["runs"]} == known), None)
        if same is None:
            self.hosts.append({**facts, "runs": [name]})
        else:
            same["runs"].append(name)
        self.hosts = [known for known in self.hosts if known["runs"]]
