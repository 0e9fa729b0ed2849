"""Two bench documents side by side: `pfm bench compare A.json B.json`.

The two were not measured in one interleaved run, so their rounds are not pairs, and a machine that was
busier in one of them looks like a slow-down. Three ratios are given, from the plainest to the most robust: of
the time on the clock, of CPU time, and of the ratio that each document has to its own reference,
from which the speed of the machine drops out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm.errors import DataError, explain
from pfm.storage import Json, JsonValue
from pfm_bench.measuring.stats import Ratio, ratio_of_ratios, unpaired_ratio
from pfm_bench.reports.markdown import markdown

KEYS = ("threads", "batch_size", "num_prompts", "target")
Key = tuple[JsonValue, ...]  # the values of KEYS, or the name of a variant alone
RATIOS = {"wall": "time (95 %)", "cpu": "CPU time (95 %)", "to_reference": "ratio to its reference (95 %)"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A case, or a variant, of a document; milliseconds.

    Attributes:
        cpu_ms: empty where it was not measured.
    """

    p50_ms: float
    latency_ms: list[float]
    cpu_ms: list[float]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Entry":
        """As it stands in the JSON.

        Raises:
            KeyError, TypeError: it is something else.
        """
        latency_ms, p50_ms = stored["latency_ms"], stored.get("p50_ms", 0)
        is_raw = isinstance(latency_ms, list) and bool(latency_ms)
        if not is_raw or not all(isinstance(value, int | float) and value > 0 for value in latency_ms):
            raise TypeError("raw samples are positive numbers")
        return cls(p50_ms=p50_ms, latency_ms=latency_ms, cpu_ms=stored.get("cpu_ms") or [])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A bench document, as far as it is compared.

    Attributes:
        host: facts of the machine, by name.
        reference: the target or variant that the others stand beside.
        entries: its cases or variants, by what tells them apart.
    """

    host: Json
    reference: str
    entries: Mapping[Key, Entry]

    @classmethod
    def of(cls, document: Any) -> "Measured":
        """What `pfm bench serve`, `train` or `eval` wrote, now or in an older version.

        Raises:
            KeyError, TypeError, AttributeError: it is something else.
        """
        settings, host = document["settings"], document["host"]
        if not isinstance(settings, dict) or not isinstance(host, dict):
            raise TypeError("settings and host are by name")
        if "variants" in document:
            entries = {(entry["name"],): Entry.of(entry) for entry in document["variants"]}
        else:
            threads = settings.get("threads")  # older documents say it once for all cases
            entries = {tuple(case.get(key, threads) for key in KEYS): Entry.of(case) for case in document["cases"]}
        if not entries:
            raise TypeError("nothing was measured")
        return cls(host=host, reference=settings.get("reference", "torch"), entries=entries)

    def reference_of(self, key: Key) -> Key:
        """What that case stands beside."""
        return (*key[:-1], self.reference)


@dataclass(frozen=True, kw_only=True)
class ComparedCase:
    """A case that both documents have.

    Attributes:
        key: what tells it apart, by name.
        p50_ms: before and after.
        ratios: after over before, by a key of `RATIOS`; above 1 where it became slower.
    """

    key: Mapping[str, JsonValue]
    p50_ms: tuple[float, float]
    ratios: Mapping[str, Ratio]

    @property
    def verdict(self) -> str:
        """By the most robust ratio there is; "" where its interval holds 1."""
        ratio = next(self.ratios[name] for name in reversed(RATIOS) if name in self.ratios)
        if ratio.low > 1:
            return "slower"
        return "faster" if ratio.high < 1 else ""

    def to_dict(self) -> Json:
        return {
            **self.key,
            "p50_ms": self.p50_ms,
            "ratios": {name: ratio.to_dict() for name, ratio in self.ratios.items()},
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of them, and what a reader has to know of the two documents."""

    cases: tuple[ComparedCase, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> Json:
        return {"cases": [case.to_dict() for case in self.cases], "notes": self.notes}


def read_document(path: Path) -> Measured:
    """What `pfm bench serve`, `train` or `eval` wrote.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {explain(error)}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); give what pfm bench wrote") from error
    try:
        return Measured.of(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a bench document; give what pfm bench serve, train or eval wrote") from error


def compare(before: Measured, after: Measured) -> Comparison:
    """Ratios of `after` to `before`.

    Raises:
        DataError: the two have no case in common.
    """
    shared = [key for key in before.entries if key in after.entries]
    if not shared:
        raise DataError("the two documents have no case in common; measure the same targets, sizes and threads")
    notes = []
    for fact in sorted({*before.host, *after.host}):
        here, there = before.host.get(fact), after.host.get(fact)
        if here != there:
            notes.append(f"the hosts differ in {fact}: {_differences(here, there)}")
    alone = len(before.entries) + len(after.entries) - 2 * len(shared)
    if alone:
        notes.append(f"{alone} case{'s are' if alone > 1 else ' is'} in one document only and not shown")
    return Comparison(cases=tuple(_compare_case(key, before, after) for key in shared), notes=tuple(notes))


def _compare_case(key: Key, before: Measured, after: Measured) -> ComparedCase:
    names = KEYS if len(key) == len(KEYS) else ("variant",)
    old, new = before.entries[key], after.entries[key]
    ratios = {"wall": unpaired_ratio(new.latency_ms, old.latency_ms)}
    if old.cpu_ms and new.cpu_ms:
        ratios["cpu"] = unpaired_ratio(new.cpu_ms, old.cpu_ms)
    beside = after.reference_of(key)
    is_shared = beside == before.reference_of(key) and beside in after.entries and beside in before.entries
    if is_shared and beside != key:
        ratios["to_reference"] = ratio_of_ratios(
            new.latency_ms, after.entries[beside].latency_ms, old.latency_ms, before.entries[beside].latency_ms
        )
    return ComparedCase(key=dict(zip(names, key, strict=True)), p50_ms=(old.p50_ms, new.p50_ms), ratios=ratios)


def _differences(here: JsonValue, there: JsonValue) -> str:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        return ", ".join(f"{name} {here.get(name)} → {there.get(name)}" for name in names)
    return f"{here} → {there}"


def describe_comparison(comparison: Comparison) -> str:
    """A Markdown table, and the notes."""
    rows = []
    for case in comparison.cases:
        row = {name: str(value) for name, value in case.key.items()}
        row["p50 ms"] = " → ".join(f"{value:.2f}" for value in case.p50_ms)
        row |= {title: case.ratios[name].describe() if name in case.ratios else "" for name, title in RATIOS.items()}
        rows.append({**row, "B is": case.verdict})
    lines = [markdown(rows), "", "ratios are B over A; above 1 B is slower"]
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes)])
