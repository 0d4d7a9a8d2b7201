"""The gate on constructed cases, each with one thing that decides it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_registry.gate import Policy, judge, verdict_document
from tests.shared.constructed import frames_table, predicted, side, sides
from virnuc.errors import DataError, UsageError
from virnuc.evaluation.comparison import compare
from virnuc.reports.verdict import Origin

POLICY_FILE = Path(__file__).parents[2] / "model_registry" / "policy.yaml"
POLICY = Policy.read(POLICY_FILE)


def verdict(slow, fast):
    return judge(compare(slow, [fast]), POLICY).candidates[0]


def failed(found):
    return [rule.name for rule in found.rules if not rule.passed]


def test_equal_models_with_a_speedup_pass():
    found = verdict(*sides())
    assert (found.outcome, failed(found)) == ("PASS", [])
    assert found.answer.startswith("Yes: virnuc-fast v1 may replace virnuc-slow v1: accuracy changes by")
    assert not any(rule.next_steps for rule in found.rules)


@pytest.mark.parametrize(
    ("lost", "outcome", "rules"),
    [(49, "PASS", []), (50, "FAIL", ["accuracy_drop", "accuracy_drop_upper_bound"]), (51, "FAIL", ["accuracy_drop"])],
)
def test_a_drop_just_below_at_and_above_the_limit(lost, outcome, rules):
    found = verdict(*sides(lost, genomes=8, frames=1000))  # lost in each genome alike: the interval is a point
    assert found.outcome == outcome
    assert set(rules) <= set(failed(found))
    drop = next(rule for rule in found.rules if rule.name == "accuracy_drop")
    assert drop.numbers == {"drop": pytest.approx(lost / 1000), "limit": 0.05}
    assert bool(drop.next_steps) is not drop.passed


def test_a_drop_of_three_points_whose_interval_goes_beyond_five_fails_by_that_alone():
    table = frames_table(20, 50)
    lost = np.arange(1000) < 30  # all of them in one genome
    found = verdict(side("slow", predicted(table, np.zeros(1000, bool))), side("fast", predicted(table, lost), 2.0))
    assert found.outcome == "FAIL"
    assert failed(found) == ["accuracy_drop_upper_bound"]
    assert "more genomes" in found.rules[2].next_steps[0]


def test_too_few_genomes_for_an_interval_fail():
    found = verdict(*sides(genomes=2))
    assert failed(found) == ["accuracy_drop_upper_bound"]
    assert "too few genomes" in found.rules[2].observed


@pytest.mark.parametrize(("ratio", "outcome"), [(1.99, "FAIL"), (2.0, "PASS"), (2.01, "PASS")])
def test_speedup_below_at_and_above_the_limit(ratio, outcome):
    found = verdict(*sides(speedup=ratio))
    assert found.outcome == outcome
    assert failed(found) == ([] if outcome == "PASS" else ["speedup"])


def test_the_spread_of_the_timed_runs_stands_beside_the_speedup():
    slow, fast = sides()
    speeds = replace(fast.baseline_speed, runs=(9.0, 10.0, 12.0)), replace(fast.speed, runs=(2.0, 2.5, 3.0))
    found = verdict(slow, replace(fast, baseline_speed=speeds[0], speed=speeds[1]))
    assert found.rules[3].observed == "4.00 times as fast, 3.00 to 6.00 over the runs"


def test_mixed_precision_does_not_count_as_a_speedup():
    slow, fast = sides(speedup=8.3)
    found = verdict(slow, replace(fast, speed=replace(fast.speed, precision="fp16")))
    assert failed(found) == ["speedup"]
    assert "precision 'fp32' against 'fp16'" in found.rules[3].observed


def test_without_a_benchmark_the_speed_rule_fails_and_says_what_to_run():
    slow, fast = sides()
    found = verdict(slow, replace(fast, speed=None))
    assert failed(found) == ["speedup"]
    assert "Run benchmark" in found.rules[3].next_steps[0]


@pytest.mark.parametrize("which", ["slow", "fast"])
@pytest.mark.parametrize("weights", [{"dnabert_s": "hub", "esm": "random"}, {}])
def test_random_or_unrecorded_weights_on_either_side_fail(which, weights):
    slow, fast = sides()
    slow, fast = (replace(one, weights=weights) if one.encoder == which else one for one in (slow, fast))
    found = verdict(slow, fast)
    assert (found.outcome, failed(found)) == ("FAIL", ["no_random_weights"])


def test_another_split_or_a_missing_frame_allows_no_verdict():
    slow, fast = sides()
    fewer = side("fast", fast.predictions.iloc[:-1], 2.5)
    for other in (replace(fast, split_digest="cd" * 32), fewer):
        found = verdict(slow, other)
        assert found.outcome == "NO VERDICT"
        assert failed(found)[:3] == ["same_frames", "accuracy_drop", "accuracy_drop_upper_bound"]
        assert found.answer.startswith("No verdict can be given on virnuc-fast v1: tested on different")
        assert "as the first rule says" in found.rules[1].next_steps[0]


def test_a_hand_edited_metric_never_reaches_the_gate():
    slow, fast = sides(lost=20)
    with pytest.raises(DataError, match="test/accuracy"):
        verdict(slow, replace(fast, metrics={**fast.metrics, "test/accuracy": 0.99}))


@pytest.mark.parametrize(
    "key", ["merged_dim", "dna_dim", "protein_dim", "model_type", "checkpoint_version", "encoders"]
)
def test_a_checkpoint_that_does_not_fit_its_features_fails(key):
    slow, fast = sides()
    other = {"dna": {"weight_digest": "other"}} if key == "encoders" else "other"
    found = verdict(slow, replace(fast, checkpoint={**fast.checkpoint, key: other}))
    assert failed(found) == ["checkpoint_agrees"]
    without = {name: value for name, value in fast.checkpoint.items() if name != key}
    if key != "encoders":
        assert failed(verdict(slow, replace(fast, checkpoint=without))) == ["checkpoint_agrees"]


def test_no_baseline_no_verdict_and_every_rule_still_says_something():
    fast = replace(sides()[1], baseline_speed=None)
    found = judge(compare(None, [fast], missing="no model is registered as virnuc-slow"), POLICY)
    assert found.outcome == "NO VERDICT"
    assert "no model is registered as virnuc-slow" in found.candidates[0].answer
    assert [rule.passed for rule in found.candidates[0].rules] == [False, False, False, False, False, True]
    assert all(rule.observed and rule.next_steps for rule in found.candidates[0].rules if not rule.passed)


def test_the_worst_of_several_candidates_is_the_outcome():
    slow, fast = sides()
    _, worse = sides(lost=9)
    found = judge(compare(slow, [fast, replace(worse, name="virnuc-worse")]), POLICY)
    assert [candidate.outcome for candidate in found.candidates] == ["PASS", "FAIL"]
    assert found.outcome == "FAIL"


def test_the_shipped_policy_has_the_published_limits():
    assert (POLICY.accuracy_drop_below, POLICY.accuracy_drop_upper_bound_below, POLICY.speedup_at_least) == (
        0.05,
        0.05,
        2,
    )


def test_digest_follows_the_values_and_not_the_comments(tmp_path):
    text = POLICY_FILE.read_text(encoding="utf-8")
    (tmp_path / "commented.yaml").write_text("# more\n" + text)
    (tmp_path / "softer.yaml").write_text(text.replace("speedup_at_least: 2.0", "speedup_at_least: 1.5"))
    assert Policy.read(tmp_path / "commented.yaml").digest == POLICY.digest
    assert Policy.read(tmp_path / "softer.yaml").digest != POLICY.digest


@pytest.mark.parametrize(
    "edit",
    [
        ("version: 1", "version: 2"),
        ("speedup_at_least: 2.0", "speedup_at_least: fast"),
        ("speedup_at_least: 2.0", "speedup_at_least: yes"),
        ("speedup_at_least: 2.0", "speedup_at_least: .nan"),
        ("speedup_at_least: 2.0", "speedup: 2.0"),
        ("speedup_at_least: 2.0", ""),
        ("accuracy_drop_below: 0.05", "accuracy_drop_below: 5"),
        ("accuracy_drop_below: 0.05", "accuracy_drop_below: [0.05"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(edit, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY_FILE.read_text(encoding="utf-8").replace(*edit))
    with pytest.raises(UsageError, match=r"policy\.yaml"):
        Policy.read(path)


def test_a_missing_policy_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Policy.read(tmp_path / "none.yaml")


def test_the_document_repeats_the_verdict_word_for_word():
    comparison = compare(*(lambda pair: (pair[0], [pair[1]]))(sides(lost=9)))
    found = judge(comparison, POLICY)
    document = verdict_document(comparison, found, Origin("2026-01-01T00:00:00+00:00", "run", "command"))
    assert document["outcome"] == "FAIL"
    assert document["policy"]["digest"] == POLICY.digest
    assert [rule["name"] for rule in document["verdicts"][0]["rules"] if not rule["passed"]] == failed(
        found.candidates[0]
    )
