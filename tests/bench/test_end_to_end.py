"""`pfm bench end_to_end`: what it times, and what it says of it."""

import json
from pathlib import Path

import pytest

from pfm.cli import pfm, run
from pfm.errors import ConfigError
from pfm_bench.measuring.rounds import Samples
from pfm_bench.scenarios.end_to_end import Case, fastest, ms_a_file
from pfm_bench.scenarios.end_to_end_plan import EndToEndPlan


def test_a_stream_counts_by_the_file_and_the_fastest_way_of_each_kind_is_named() -> None:
    cases = {
        "file, fast": Case(what="file", bundle="fast", files=1),
        "stream one by one, fast": Case(what="stream one by one", bundle="fast", files=4),
        "stream ahead, fast": Case(what="stream ahead", bundle="fast", files=4),
    }
    times = dict(zip(cases, ([3.0, 5.0, 4.0], [16.0] * 3, [12.0] * 3), strict=True))
    samples = Samples(times, warmup_rounds=1, pause_ms=0.0)
    assert [ms_a_file(samples, key, case) for key, case in cases.items()] == [4.0, 4.0, 3.0]
    assert fastest(samples, cases) == {"file": "file, fast", "stream": "stream ahead, fast"}


def test_the_size_of_a_photo_is_two_numbers() -> None:
    assert EndToEndPlan(photo="640x480").size == (640, 480)
    for wrong in ("640", "0x480", "axb", "640 x 480"):
        with pytest.raises(ConfigError, match="--photo"):
            EndToEndPlan(photo=wrong)


@pytest.mark.slow(seconds=60)
def test_files_and_http_are_timed_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "end_to_end", "--random_weights", "scratch:vit_digits", "--photo", "64x48", "--stream", "2"]
    code = run(pfm, [*command, "--rounds", "5", "--seconds", "1", "--threads", "1", "--out", str(tmp_path)])
    assert code == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "end_to_end.json").read_text())
    assert {entry["what"] for entry in found["cases"]} == {"model", "file", "stream one by one", "stream ahead", "http"}
    assert {entry["bundle"] for entry in found["cases"]} == {"fast", "fast + graph", "full", "full + graph"}
    assert set(found["fastest"]) == {"file", "stream", "http"}
