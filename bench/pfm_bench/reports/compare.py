"""Two bench documents side by side: `pfm bench compare A.json B.json`.

The two were not measured in one interleaved run, so the rounds are no pairs, and a machine that was
busier in one of them looks like a slow-down. Three ratios are given, from the plainest to the most robust: of
the time on the clock, of CPU time, and of the ratio that each document has to its own reference,
from which the speed of the machine drops out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pfm.errors import DataError
from pfm.storage import explain
from pfm_bench.reports.serving import markdown, show_ratio
from pfm_bench.reports.stats import ratio_of_ratios, unpaired_ratio

KEYS = ("threads", "batch_size", "num_prompts", "target")
Key = tuple[Any, ...]
RATIOS = {"wall": "time (95 %)", "cpu": "CPU time (95 %)", "to_reference": "ratio to its reference (95 %)"}


def read_document(path: Path) -> dict[str, Any]:
    """What `pfm bench serve`, `train` or `eval` wrote.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {explain(error)}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); give what pfm bench wrote") from error
    try:
        entries = _entries(document)
        is_bench = bool(entries) and all(_is_samples(entry["latency_ms"]) for entry in entries.values())
        is_bench = is_bench and isinstance(document["host"], dict) and isinstance(document["settings"], dict)
    except (KeyError, TypeError, AttributeError):
        is_bench = False
    if not is_bench:
        raise DataError(f"{path} is no bench document; give what pfm bench serve, train or eval wrote")
    return document


def _is_samples(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, int | float) and v > 0 for v in values)


def _entries(document: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The cases of `serve` or the variants of `train` and `eval`, by what tells them apart."""
    if "variants" in document:
        return {(entry["name"],): entry for entry in document["variants"]}
    threads = document["settings"].get("threads")  # older documents say it once for all cases
    return {tuple(case.get(key, threads) for key in KEYS): case for case in document["cases"]}


def _reference(document: Mapping[str, Any], key: Key) -> Key:
    return (*key[:-1], document["settings"].get("reference", "torch"))


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios of `after` to `before`, above 1 where it became slower.

    Raises:
        DataError: the two have no case in common.
    """
    old, new = _entries(before), _entries(after)
    shared = [key for key in old if key in new]
    if not shared:
        raise DataError("the two documents have no case in common; measure the same targets, sizes and threads")
    cases = [_compare_case(key, before, after, old, new) for key in shared]
    notes = []
    for fact in sorted({*before["host"], *after["host"]}):
        here, there = before["host"].get(fact), after["host"].get(fact)
        if here != there:
            notes.append(f"the hosts differ in {fact}: {_differences(here, there)}")
    alone = len(old) + len(new) - 2 * len(shared)
    if alone:
        notes.append(f"{alone} case{'s are' if alone > 1 else ' is'} in one document only and not shown")
    return {"cases": cases, "notes": notes}


def _compare_case(
    key: Key,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    old: Mapping[Key, dict[str, Any]],
    new: Mapping[Key, dict[str, Any]],
) -> dict[str, Any]:
    names = KEYS if len(key) == len(KEYS) else ("variant",)
    ratios = {"wall": unpaired_ratio(new[key]["latency_ms"], old[key]["latency_ms"])}
    if old[key].get("cpu_ms") and new[key].get("cpu_ms"):
        ratios["cpu"] = unpaired_ratio(new[key]["cpu_ms"], old[key]["cpu_ms"])
    references = _reference(after, key), _reference(before, key)
    if references[0] == references[1] != key and references[0] in new and references[0] in old:
        ratios["to_reference"] = ratio_of_ratios(
            new[key]["latency_ms"],
            new[references[0]]["latency_ms"],
            old[key]["latency_ms"],
            old[references[0]]["latency_ms"],
        )
    return {
        **dict(zip(names, key, strict=True)),
        "p50_ms": [old[key]["p50_ms"], new[key]["p50_ms"]],
        "ratios": ratios,
        "verdict": _verdict(ratios),
    }


def _verdict(ratios: Mapping[str, Mapping[str, float]]) -> str:
    """By the most robust ratio there is; "" where its interval holds 1."""
    ratio = next(ratios[name] for name in reversed(RATIOS) if name in ratios)
    if ratio["low"] > 1:
        return "slower"
    return "faster" if ratio["high"] < 1 else ""


def _differences(here: Any, there: Any) -> str:
    if isinstance(here, dict) and isinstance(there, dict):
        names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        return ", ".join(f"{name} {here.get(name)} → {there.get(name)}" for name in names)
    return f"{here} → {there}"


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """A Markdown table, and the notes."""
    rows = []
    for case in comparison["cases"]:
        row = {name: str(case[name]) for name in (*KEYS, "variant") if name in case}
        row["p50 ms"] = " → ".join(f"{value:.2f}" for value in case["p50_ms"])
        row |= {title: show_ratio(case["ratios"].get(name)) for name, title in RATIOS.items()}
        rows.append({**row, "B is": case["verdict"]})
    lines = [markdown(rows), "", "ratios are B over A; above 1 B is slower"]
    return "\n".join([*lines, *(f"note: {note}" for note in comparison["notes"])])
