"""The rule on synthetic numbers: what passes, what fails, what is left open, and how often it is right."""

import dataclasses
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from pfm.audit import figures, pooling, rule, sampled, student, verdict
from pfm.audit.rule import FAIL, INCONCLUSIVE, PASS, Comparison, Learned, Side, Tolerance


def compared(value: float, *oracles: float, **more: float | Side) -> Comparison:
    return Comparison(value=value, oracles=oracles, **{"tolerance": 0.05, **more})  # type: ignore[arg-type]


def test_a_verdict_can_be_computed_again_from_an_audits_document() -> None:
    results = Path(__file__).parent.parent.parent / "bench" / "pfm_bench" / "results"
    measures = json.loads((results / "audit_demo_cls_cold.json").read_bytes())["verdict"]["measures"]
    compared_with = [entry for entry in measures if "comparison" in entry]
    counts = Counter(entry["level"] for entry in compared_with)
    assert len(compared_with) >= 15
    for entry in compared_with:
        stored = entry["comparison"]
        again = Comparison(**{**stored, "oracles": tuple(stored["oracles"]), "side": Side(stored["side"])})
        assert rule.judge(again, counts[entry["level"]]) == entry["verdict"]
        by_covariance = again.among(0, range(1, len(again.oracles) + 1))
        assert by_covariance.sampling == pytest.approx(again.sampling, rel=1e-3)  # of six digits


def test_students_t_is_that_of_its_tables() -> None:
    table = {(0.95, 1): 6.3138, (0.95, 2): 2.9200, (0.95, 4): 2.1318, (0.95, 9): 1.8331, (0.995, 4): 4.6041,
             (0.975, 30): 2.0423, (0.6, 5): 0.2672}  # fmt: skip
    for (share, freedom), value in table.items():
        assert student.quantile(share, freedom) == pytest.approx(value, abs=1e-4)
        assert student.quantile(1 - share, freedom) == pytest.approx(-value, abs=1e-4)
        assert student.tail(value, freedom) == pytest.approx(1 - share, abs=1e-5)
    assert student.tail(0.0, 3) == 0.5


def test_the_half_widths_are_those_that_were_expected() -> None:
    assert [round(100 * rule.far(0.02, count), 1) for count in (3, 5, 10)] == [6.7, 4.7, 3.8]
    assert [round(100 * rule.near(0.02, count), 1) for count in (3, 5, 10)] == [3.4, 1.9, 1.2]
    assert rule.near(0.02, 1) == rule.far(0.02, 1) == math.inf
    assert rule.near(0.0, 5, 0.01) == pytest.approx(0.01645, abs=1e-5)
    assert rule.far(0.01, 5, sampling=0.02) == rule.far(0.02, 5)  # oracles that agree by chance
    assert rule.far(0.02, 5, num_measures=9) > 1.4 * rule.far(0.02, 5)


def test_close_passes_far_fails_and_between_is_left_open() -> None:
    oracles = (0.78, 0.80, 0.82, 0.79, 0.81)
    assert rule.judge(compared(0.81, *oracles)) == PASS
    assert rule.judge(compared(0.95, *oracles)) == FAIL
    assert rule.judge(compared(0.65, *oracles)) == FAIL  # harder to bring back is a fingerprint too
    assert rule.judge(compared(0.845, *oracles)) == INCONCLUSIVE
    assert rule.judge(compared(0.80, 0.80)) == INCONCLUSIVE  # one oracle has no spread
    assert rule.judge(compared(math.nan, *oracles)) == INCONCLUSIVE


def test_a_handful_of_test_samples_lets_nothing_pass() -> None:
    """Two samples that every model answers alike have no spread, and say nothing of a third."""
    assert rule.judge(compared(1.0, 1.0, 1.0, 1.0, num_samples=2)) == INCONCLUSIVE
    assert "at least 10 test samples" in rule.settled_by(compared(1.0, 1.0, 1.0, 1.0, num_samples=2))
    assert rule.judge(compared(1.0, 1.0, 1.0, 1.0, num_samples=10)) == PASS
    assert rule.judge(compared(0.0, 1.0, 1.0, 1.0, num_samples=2)) == FAIL


def test_a_difference_within_the_tolerance_never_fails_however_sure_it_is() -> None:
    assert rule.judge(compared(0.84, 0.80, 0.8001, 0.7999)) == PASS
    assert rule.judge(compared(0.84, 0.80, 0.8001, 0.7999, sampling=0.01)) == INCONCLUSIVE


def test_only_the_side_that_counts_is_judged() -> None:
    oracles = (0.5, 0.52, 0.48)
    assert rule.judge(compared(0.9, *oracles, side=Side.BELOW)) == PASS
    assert rule.judge(compared(0.9, *oracles, side=Side.ABOVE)) == FAIL
    assert rule.judge(compared(0.1, *oracles, side=Side.BELOW)) == FAIL


def test_few_test_samples_leave_it_open_even_where_the_oracles_agree() -> None:
    assert rule.judge(compared(0.08, 0.0, 0.0, 0.0, sampling=0.045)) == INCONCLUSIVE
    assert rule.judge(compared(0.60, 0.0, 0.0, 0.0, sampling=0.08)) == FAIL


def test_an_open_case_says_what_would_settle_it() -> None:
    wide = compared(0.81, 0.75, 0.80, 0.85)
    assert rule.judge(wide) == INCONCLUSIVE
    needed = rule.oracles_needed(wide)
    assert needed is not None
    assert rule.settled_by(wide) == f"about {needed} retrained models would settle it"
    assert rule.near(wide.spread, needed) <= 0.04 < rule.near(wide.spread, needed - 1)
    few = compared(0.81, 0.80, 0.801, 0.799, sampling=0.05, num_samples=40)
    assert rule.samples_needed(few) == 170  # 40 (1.645 b / 0.04)²
    assert "test samples would settle it, of which there are 40" in rule.settled_by(few)
    noisy = compared(0.86, 0.70, 0.80, 0.90)
    assert rule.oracles_needed(noisy) is None
    assert "among themselves they differ as much" in rule.settled_by(noisy)
    assert "at least two" in rule.settled_by(compared(0.8, 0.8))


def test_what_was_never_learned_is_not_judged() -> None:
    assert Learned(accuracy=0.9, low=0.8, chance=0.1).is_known
    hardly = Learned(accuracy=0.21, low=0.15, chance=0.1)
    assert not hardly.is_known
    assert hardly.reason.startswith("it was never learned: the full model answers 21.0 %".replace(" %", "%"))


# --- calibration by simulation --------------------------------------------------------------------


def test_at_the_recommended_number_retrained_models_pass_and_planted_gaps_fail() -> None:
    for spread in (0.01, 0.02):
        count = rule.recommended_oracles(spread)
        assert count is not None
        fair = rule.power(0.0, spread, count, seed=1)
        assert fair.passed >= 0.78  # of 80, less what 4,000 other draws may differ by
        assert fair.failed <= 0.10
        assert rule.power(2 * Tolerance.AREA, spread, count, seed=1).failed >= 0.78
    assert rule.recommended_oracles(0.02, 0.05) == 5
    assert rule.recommended_oracles(0.06, most=12) is None


def test_a_level_of_many_measures_takes_more_oracles_than_one_measure() -> None:
    one, level = rule.recommended_oracles(0.025), rule.recommended_oracles(0.025, num_measures=16)
    assert one is not None
    assert level is not None
    assert one < level <= 10
    assert rule.recommended_oracles(0.05, num_measures=16, most=12) is None


def test_power_falls_from_pass_to_fail_with_the_gap() -> None:
    shares = [rule.power(gap, 0.02, 5, tolerance=0.05, draws=1500) for gap in (0.0, 0.025, 0.05, 0.10, 0.15)]
    assert [s.passed for s in shares] == sorted((s.passed for s in shares), reverse=True)
    assert [s.failed for s in shares] == sorted(s.failed for s in shares)
    assert shares[-1].passed == 0
    assert all(sum(s) == pytest.approx(1) for s in shares)
    quick = rule.power(0.10, 0.02, 3, tolerance=0.05)
    assert quick.failed > 0.75  # three find faults
    assert rule.power(0.0, 0.02, 3, tolerance=0.05).passed < 0.65  # and seldom pass


def test_a_retrained_model_rarely_fails_any_of_a_levels_measures() -> None:
    """Eight measures that go together, as those of one model do, at spreads from a fifth of their tolerance to all."""
    stream, count, levels = random.Random(0), 5, 0
    spreads = [0.01, 0.015, 0.02, 0.02, 0.025, 0.03, 0.04, 0.05]
    audits = 400
    for _ in range(audits):
        shared = [stream.gauss(0, math.sqrt(0.4)) for _ in range(count + 1)]
        verdicts = []
        for spread in spreads:
            values = [spread * (common + stream.gauss(0, math.sqrt(0.6))) for common in shared]
            verdicts.append(rule.judge(compared(values[0], *values[1:]), len(spreads)))
        levels += FAIL in verdicts
    assert levels / audits <= 0.13  # a tenth, and what 400 draws may differ by


def test_the_interval_of_the_difference_holds_the_truth_as_often_as_it_says() -> None:
    stream, held = random.Random(1), 0
    for _ in range(400):
        low, high = rule.interval(compared(0.9, *(stream.gauss(0.8, 0.02) for _ in range(4))))
        held += low <= 0.1 <= high
    assert 0.86 <= held / 400 <= 0.94  # 90 %, and a binomial's deviations


def test_what_is_said_before_an_audit_starts() -> None:
    said = rule.prospects(3)
    assert "within ±6.7 points" in said
    assert "(±4.7 with 5, ±3.8 with 10)" in said
    assert "seldom passes" in said
    assert "seldom" not in rule.prospects(10)
    assert "20 at most" in rule.prospects(10, most=20)
    assert "has no spread" in rule.prospects(1)


# --- levels ---------------------------------------------------------------------------------------


def test_a_level_is_judged_by_all_its_comparisons_together() -> None:
    """What one measure alone would fail is within what one of nine retrained models shows in one of nine measures."""
    edge = compared(0.8525, 0.78, 0.80, 0.82, 0.79, 0.81)
    one = verdict.by_rule("scrub", "a", edge, "the area is")
    assert one.verdict == FAIL
    same = compared(0.80, 0.78, 0.80, 0.82, 0.79, 0.81)
    found = verdict.summarise([one, *(verdict.by_rule("scrub", str(n), same, "it is") for n in range(8))])
    assert found["measures"][0]["verdict"] == INCONCLUSIVE
    assert found["levels"]["scrub"] == INCONCLUSIVE
    assert found["measures"][0]["reason"].startswith("the area is 0.853, of 5 retrained models 0.800: +0.052 (+0.037")
    assert "would settle it" in found["measures"][0]["reason"]
    assert found["measures"][1]["verdict"] == PASS
    assert found["measures"][0]["comparison"]["oracles"] == edge.oracles


def test_what_was_never_learned_is_inconclusive_at_every_level() -> None:
    learned = Learned(accuracy=0.21, low=0.15, chance=0.1)
    found = verdict.summarise([verdict.by_rule("suspend", "a", compared(0.95, 0.8, 0.81, 0.79), "x is")], learned)
    assert set(found["levels"].values()) == {found["overall"]} == {INCONCLUSIVE}
    assert set(found["sentences"].values()) == {verdict.NEVER_LEARNED}
    assert "never learned" in found["precondition"]["reason"]
    known = verdict.summarise([], Learned(accuracy=0.9, low=0.8, chance=0.1))
    assert known["precondition"]["is_known"]


def test_pooled_gaps_are_as_unsure_as_their_classes_differ() -> None:
    """Thirty audits of ten classes whose gaps differ by class alone are known no better than ten."""
    stream = random.Random(0)
    runs = [[[gap] * 3 for gap in (stream.gauss(0.05, 0.03) for _ in range(10))] for _ in range(60)]
    found = [pooling.pool(by_class, torch.Generator().manual_seed(number)) for number, by_class in enumerate(runs)]
    assert sum(one.low <= 0.05 <= one.high for one in found) >= 44  # of 60: 90 %, less what a bootstrap of ten loses
    assert (found[0].num_classes, found[0].num_audits) == (10, 30)
    assert found[0].mean == pytest.approx(sum(own[0] for own in runs[0]) / 10)
    alike = pooling.pool([[0.01, 0.05, 0.03]] * 10, torch.Generator().manual_seed(0))
    assert alike.high - alike.low < 0.02  # seeds alone


# --- what is compared -----------------------------------------------------------------------------


def test_the_error_of_a_difference_is_that_of_a_bootstrap_over_the_same_samples() -> None:
    """Placements (DeLong) beside 3,000 draws of both sides; two models that answer alike differ by little."""
    generator = torch.Generator().manual_seed(0)
    own, rest = torch.randn(60, generator=generator) + 1, torch.randn(200, generator=generator)
    scores = [(own + 0.3 * torch.randn(60, generator=generator), rest + 0.3 * torch.randn(200, generator=generator))
              for _ in range(3)]  # fmt: skip
    areas = [sampled.area_of(*pair) for pair in scores]
    found = sampled.compare(areas[0], areas[1:], 0.05)
    assert found.difference == pytest.approx(figures.auc(*scores[0]) - sum(figures.auc(*s) for s in scores[1:]) / 2)
    draws = [
        figures.auc_replicates(*pair, torch.Generator().manual_seed(1), replicates=3000) for pair in scores
    ]  # the same samples are drawn for each
    assert found.sampling == pytest.approx(float((draws[0] - (draws[1] + draws[2]) / 2).std()), rel=0.1)
    assert found.num_samples == 60
    swapped = sampled.compare(areas[1], [areas[2], areas[0]], 0.05)
    assert found.among(1, [2, 0]).sampling == pytest.approx(swapped.sampling)
    assert found.among(1, [2, 0]).difference == pytest.approx(swapped.difference)
    ties = sampled.area_of((own * 2).round(), (rest * 2).round())
    assert ties.value == pytest.approx(figures.auc((own * 2).round(), (rest * 2).round()), abs=1e-12)
    assert float(ties.parts[1].mean()) == pytest.approx(ties.value, abs=1e-12)
    balanced = sampled.balanced_of(own > 0, rest > 0)
    assert balanced.value == pytest.approx(0.5 * float((own > 0).double().mean() + (rest > 0).double().mean()))
    alone = sampled.compare(sampled.mean_of(own), [sampled.mean_of(own)], 0.1)
    assert (alone.difference, alone.sampling) == (0.0, 0.0)


def test_a_model_that_is_a_retrained_one_is_not_judged_by_luck() -> None:
    far = verdict.by_rule("scrub", "a", compared(0.95, 0.7, 0.71, 0.69), "x is")
    exact = verdict.Judgement(
        level="exact", measure="digest", value=1, low=1, high=1, limit=1, verdict=PASS, reason="", settles=True
    )
    assert verdict.summarise([far])["levels"]["scrub"] == FAIL
    found = verdict.summarise([far, exact])
    assert (found["levels"]["scrub"], found["levels"]["exact"]) == (PASS, PASS)
    assert found["measures"][0]["reason"].endswith(verdict.EQUAL)
    unequal = verdict.summarise([far, dataclasses.replace(exact, verdict=FAIL, settles=False)])
    assert unequal["levels"]["scrub"] == FAIL
