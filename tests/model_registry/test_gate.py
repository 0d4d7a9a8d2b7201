"""The gate on constructed cases: each rule on both sides of its limit; one property decides each case."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from model_registry.gate import judge, verdict_document
from model_registry.rules import RULES
from tests.shared.constructed import few_draws, frames_table, predicted, replicated, side, sides, timed
from tests.shared.judged import POLICY, compared, failed, judged, rule_of, verdict, verdict_with, with_limits
from virnuc.errors import DataError
from virnuc.evaluation.comparison import compare
from virnuc.evaluation.evaluation import replicate_metrics
from virnuc.evaluation.predictions import labels_of
from virnuc.reports.verdict import Origin

pytestmark = pytest.mark.usefixtures(few_draws.__name__)
WARNED = "control_gain"  # no control in these cases, and the project's policy only warns


def changed(evidence, predictions, replicates=5, **more):
    """Return the evidence with other predictions, and the metrics that an evaluation of these logs."""
    trainings = replicated(predictions, replicates)
    logged = replicate_metrics(labels_of(predictions), trainings.drop(columns="frame_id"))
    found = side(evidence.encoder, predictions)
    return replace(found, replicates=trainings, metrics={**found.metrics, **logged}, **more)


def test_equal_models_with_a_speedup_pass():
    found = verdict_with()
    assert (found.outcome, failed(found)) == ("PASS", [])
    assert found.answer.startswith("Yes: virnuc-fast v1 may replace virnuc-slow v1: accuracy changes by")
    assert [rule.name for rule in found.rules if rule.outcome == "WARN"] == [WARNED]
    assert not any(rule.next_steps for rule in found.rules if rule.outcome == "PASS")


def test_every_rule_is_judged_in_the_order_of_the_list():
    assert [rule.name for rule in verdict_with().rules] == [rule.name for rule in RULES]
    assert {limit.name for rule in RULES for limit in rule.limits} == set(POLICY.limits)


@pytest.mark.parametrize(
    ("lost", "rules"),
    [(4, []), (5, ["accuracy_drop", "accuracy_drop_upper_bound"]), (6, ["accuracy_drop"])],
)
def test_a_drop_just_below_at_and_above_the_limit(lost, rules):
    found = judged(compared(lost, 40))  # the same loss in each genome: the interval is a point
    assert set(rules) <= set(failed(found)) and bool(rules) == (found.outcome == "FAIL")
    drop = rule_of(found, "accuracy_drop")
    assert drop.numbers == {"drop": pytest.approx(lost / 100)}
    assert bool(drop.next_steps) is (drop.outcome == "FAIL")


def test_a_drop_of_three_points_whose_interval_goes_beyond_five_fails_by_that_alone():
    table = frames_table(40, 50)
    lost = np.arange(2000) < 60  # all of them in two genomes
    found = verdict(side("slow", predicted(table, np.zeros(2000, bool))), side("fast", predicted(table, lost), 2.0))
    assert failed(found) == ["accuracy_drop_upper_bound"]
    assert "more genomes" in rule_of(found, "accuracy_drop_upper_bound").next_steps[0]


def test_trainings_that_differ_widen_the_interval_until_it_fails():
    slow, fast = sides(3, 40)
    spread = fast.replicates.copy()
    for seed, more in enumerate((-3, 5, -3, 5, -1)):  # the mean stays near 3 points
        spread[f"seed_{seed}"] = sides(3 + more, 40)[1].predictions["score"]
    logged = replicate_metrics(labels_of(fast.predictions), spread.drop(columns="frame_id"))
    found = verdict(slow, replace(fast, replicates=spread, metrics={**fast.metrics, **logged}))
    assert failed(found) == ["accuracy_drop_upper_bound"]
    assert judged(compared(3, 40)).outcome == "PASS"


@pytest.mark.parametrize(("genomes", "outcome"), [(38, "FAIL"), (40, "PASS")])
def test_nineteen_and_twenty_genomes_a_class(genomes, outcome):
    found = judged(compared(0, genomes))
    assert failed(found) == ([] if outcome == "PASS" else ["enough_genomes"])


def test_twenty_genomes_of_which_one_has_most_frames_are_too_few():
    table = frames_table(40, 100)
    small = table.groupby("genome").head(10)
    uneven = pd.concat([small, table[table["genome"].isin(["G0", "G1"])]]).drop_duplicates("frame_id")
    uneven = uneven.reset_index(drop=True)
    wrong = np.zeros(len(uneven), bool)
    found = verdict(side("slow", predicted(uneven, wrong)), side("fast", predicted(uneven, wrong), 2.0))
    assert failed(found) == ["enough_genomes"]
    assert rule_of(found, "enough_genomes").numbers["effective_genomes"] == pytest.approx(290**2 / (100**2 + 19 * 100))


@pytest.mark.parametrize(("met", "outcome"), [(40, "PASS"), (41, "FAIL")])
@pytest.mark.parametrize("who", ["the classifier", "esm2_tiny"])
def test_test_frames_that_a_training_has_seen(met, outcome, who):
    predictions = compared(0, 40).pairs[0].candidate.evidence.predictions
    found = verdict_with(fast={"predictions": predictions.assign(seen=np.where(np.arange(4000) < met, who, ""))})
    assert failed(found) == ([] if outcome == "PASS" else ["unseen_genomes"])
    assert f"{met} in the training of {who} (virnuc-fast v1)" in rule_of(found, "unseen_genomes").observed


@pytest.mark.parametrize(("replicates", "outcome"), [(4, "FAIL"), (5, "PASS"), (1, "FAIL")])
def test_four_and_five_trainings_a_side(replicates, outcome):
    slow, fast = (changed(one, one.predictions, replicates, speed=one.speed) for one in sides())
    found = verdict(slow, fast)
    assert failed(found) == ([] if outcome == "PASS" else ["same_training"])


def test_trainings_without_a_seed_in_common_are_no_pairs():
    slow, fast = sides()
    other = fast.replicates.rename(columns={f"seed_{seed}": f"seed_{seed + 10}" for seed in range(5)})
    found = verdict(slow, replace(fast, replicates=other))
    assert failed(found) == ["same_training"]
    assert "1 pairs" in rule_of(found, "same_training").observed


@pytest.mark.parametrize("training", [{"epochs": "1", "lr": "0.0002", "seed": "0"}, {}])
def test_a_side_with_other_or_unrecorded_settings_fails(training):
    assert failed(verdict_with(slow={"training": training})) == ["same_training"]


def test_a_baseline_that_another_version_beats_on_validation_fails_and_names_it():
    better = {"models:/virnuc-slow/1": 0.9, "models:/virnuc-slow/2": 0.9001}
    found = verdict_with({"validation": better})
    assert failed(found) == ["best_baseline"]
    assert rule_of(found, "best_baseline").next_steps == ("Compare with models:/virnuc-slow/2.",)
    assert failed(verdict_with({"validation": {}})) == ["best_baseline"]
    for validation, rank in (
        ({**better, "models:/virnuc-slow/2": 0.9}, "the best of 2 versions"),
        ({"models:/virnuc-slow/1": 0.9}, "its only version"),
    ):
        observed = rule_of(verdict_with({"validation": validation}), "best_baseline").observed
        assert observed == f"validation accuracy 0.9000, {rank}"
    assert verdict_with({"validation": {**better, "models:/virnuc-slow/2": 0.9}}).outcome == "PASS"


def control(wrong, validated, name="composition"):
    predictions = predicted(frames_table(), np.tile(np.arange(100), 40) < wrong)
    return side(name, predictions, speed=None, validation={f"models:/virnuc-{name}/1": validated})


@pytest.mark.parametrize(("wrong", "gain"), [(10, 0.0), (11, 0.01)])
def test_the_strongest_control_by_validation_warns_or_decides(wrong, gain):
    weak = control(60, 0.5, "weak")
    against = [weak, control(wrong, 0.8)]
    slow, fast = sides()
    comparison = compare(slow, [fast], against)
    warned, required = (judged(comparison, policy) for policy in (POLICY, with_limits(control_gain="required")))
    assert warned.outcome == "PASS"
    assert rule_of(warned, WARNED).numbers["control_gain"] == pytest.approx(gain)
    assert rule_of(warned, WARNED).outcome == ("PASS" if gain else "WARN")
    assert failed(required) == ([] if gain else [WARNED])
    assert failed(verdict_with(policy=with_limits(control_gain="required"))) == [WARNED]


def test_a_control_that_does_as_well_is_named_first_in_the_report():
    slow, fast = sides(lost=2)
    comparison = compare(slow, [fast], [control(11, 0.8)])  # the baseline is one point over it, the candidate one below
    document = verdict_document(comparison, judge(comparison, POLICY), Origin("2026", "run", "command"))
    assert document["caveats"][0].startswith("virnuc-composition v1 does as well without a protein language model: ")
    assert document["strongest_control"] == "virnuc-composition v1"


@pytest.mark.parametrize(("ratio", "outcome"), [(1.99, "FAIL"), (2.0, "PASS"), (2.01, "PASS")])
def test_speedup_below_at_and_above_the_limit(ratio, outcome):
    found = verdict_with(fast={"speed": timed(10 / ratio)})
    assert failed(found) == ([] if outcome == "PASS" else ["speedup"])


def test_the_lower_end_over_the_runs_decides_and_the_runs_stand_beside_it():
    speed = timed(2.5)
    runs = speed.sides["candidate"].runs
    times = (2.5, 2.5, 2.5, 6.0, 6.0)
    late = tuple(replace(run, embed_s=time) for run, time in zip(runs, times, strict=True))
    disturbed = replace(speed.sides["candidate"], runs=late)
    found = verdict_with(fast={"speed": replace(speed, sides={**speed.sides, "candidate": disturbed})})
    assert failed(found) == ["speedup"]
    observed = rule_of(found, "speedup").observed
    assert observed == "4.00 times as fast, lower bound over the runs 1.67 (run by run 4.00, 4.00, 4.00, 1.67, 1.67)"


def retimed(speed, side_name, **provenance):
    timed_side = speed.sides[side_name]
    other = replace(timed_side, provenance={**timed_side.provenance, **provenance})
    return replace(speed, sides={**speed.sides, side_name: other})


@pytest.mark.parametrize(
    ("unfair", "words"),
    [
        (lambda speed: retimed(speed, "candidate", precision="bf16"), "precision fp32 against bf16"),
        (
            lambda speed: retimed(retimed(speed, "candidate", precision="bf16"), "baseline", precision="bf16"),
            "precision bf16, but fp32 in the features",
        ),
        (lambda speed: retimed(speed, "candidate", weight_digest="another"), "weight digest another"),
        (lambda speed: replace(speed, frames_digest="others"), "not of the frames that the sample"),
        (lambda speed: timed(2.5, runs=4), "4 runs are too few"),
        (
            lambda speed: replace(speed, sides={name: replace(one, frames=499) for name, one in speed.sides.items()}),
            "499 frames are too few",
        ),
    ],
)
def test_a_benchmark_that_does_not_fit_the_features_does_not_count(unfair, words):
    found = verdict_with(fast={"speed": unfair(timed(1.2))})
    assert failed(found) == ["speedup"]
    assert words in rule_of(found, "speedup").observed


def test_without_a_benchmark_the_speed_rule_fails_and_says_what_to_run():
    found = verdict_with(fast={"speed": None})
    assert failed(found) == ["speedup"]
    assert "Run benchmark" in rule_of(found, "speedup").next_steps[0]


@pytest.mark.parametrize("which", ["slow", "fast"])
@pytest.mark.parametrize(
    "wrong",
    [{"weights": {"dnabert_s": "hub", "esm": "random"}}, {"weights": {}}, {"unrecorded": "trained elsewhere"}],
)
def test_random_weights_or_an_unrecorded_training_on_either_side_fail(which, wrong):
    found = verdict_with(**{which: wrong})
    assert (found.outcome, failed(found)) == ("FAIL", ["known_origin"])


def test_another_split_or_a_missing_frame_allows_no_verdict():
    slow, fast = sides()
    fewer = changed(fast, fast.predictions.iloc[:-1])
    for other in (replace(fast, split_digest="cd" * 32), fewer):
        found = verdict(slow, other)
        assert found.outcome == "NO VERDICT"
        assert {"same_frames", "accuracy_drop", "accuracy_drop_upper_bound"} <= set(failed(found))
        assert found.answer.startswith("No verdict can be given on virnuc-fast v1: tested on different")
        assert "see the first rule" in rule_of(found, "accuracy_drop").next_steps[0]


def test_a_hand_edited_metric_never_reaches_the_gate():
    slow, fast = sides(lost=20)
    for key in ("test/accuracy", "test/replicates/accuracy_mean", "test/leak/frames_sharing_a_genome"):
        with pytest.raises(DataError, match=key):
            verdict(slow, replace(fast, metrics={**fast.metrics, key: 0.99}))


@pytest.mark.parametrize(
    "key", ["merged_dim", "dna_dim", "protein_dim", "model_type", "checkpoint_version", "encoders"]
)
def test_a_checkpoint_that_does_not_fit_its_features_fails(key):
    fast = compared(0, 40).pairs[0].candidate.evidence
    other = {"dna": {"weight_digest": "other"}} if key == "encoders" else "other"
    found = verdict_with(fast={"checkpoint": {**fast.checkpoint, key: other}})
    assert failed(found) == ["checkpoint_agrees"]
    without = {name: value for name, value in fast.checkpoint.items() if name != key}
    if key != "encoders":
        assert failed(verdict_with(fast={"checkpoint": without})) == ["checkpoint_agrees"]


def test_no_baseline_no_verdict_and_every_rule_still_says_something():
    fast = replace(sides()[1], speed=None)
    found = judge(compare(None, [fast], missing="no model is registered as virnuc-slow"), POLICY).candidates[0]
    assert found.outcome == "NO VERDICT"
    assert "no model is registered as virnuc-slow" in found.answer
    assert [rule.name for rule in found.rules if rule.outcome == "PASS"] == ["checkpoint_agrees"]
    assert all(rule.observed and rule.next_steps for rule in found.rules if rule.outcome == "FAIL")


def test_the_worst_of_several_candidates_is_the_outcome():
    slow, fast = sides()
    _, worse = sides(lost=9)
    found = judge(compare(slow, [fast, replace(worse, name="virnuc-worse")]), POLICY)
    assert [candidate.outcome for candidate in found.candidates] == ["PASS", "FAIL"]
    assert found.outcome == "FAIL"


def test_the_document_repeats_the_verdict_word_for_word():
    comparison = compared(9, 40)
    found = judge(comparison, POLICY)
    past = {"models:/virnuc-fast/1": ["yesterday PASS against models:/virnuc-slow/1"]}
    document = verdict_document(comparison, found, Origin("2026-01-01T00:00:00+00:00", "run", "command"), past)
    assert document["outcome"] == "FAIL"
    assert document["policy"]["digest"] == POLICY.digest and document["policy"]["project"]
    told = [rule["name"] for rule in document["verdicts"][0]["rules"] if rule["outcome"] == "FAIL"]
    assert told == failed(found.candidates[0])
    assert document["verdicts"][0]["earlier"] == past["models:/virnuc-fast/1"]
