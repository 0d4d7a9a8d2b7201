"""Comparisons of constructed sides with known drops and disagreements."""

from dataclasses import replace

import numpy as np
import pytest

from tests.shared.constructed import few_draws, frames_table, predicted, side, sides
from virnuc.errors import DataError
from virnuc.evaluation.comparison import compare
from virnuc.evaluation.evaluation import replicate_metrics
from virnuc.evaluation.predictions import labels_of

pytestmark = pytest.mark.usefixtures(few_draws.__name__)


def test_equal_models_differ_by_nothing():
    slow, _ = sides()
    pair = compare(slow, [replace(slow, name="same")]).pairs[0]
    assert pair.problems == ()
    assert (pair.drop.value, pair.drop.low, pair.drop.high) == (0, 0, 0)
    for level in ("frames", "chunks"):
        assert {d.value for d in pair.differences[level].values()} == {0.0}
    assert pair.mcnemar == {"only_baseline": 0, "only_candidate": 0, "p_value": 1.0}


def test_the_constructed_drop_and_disagreements_are_found():
    slow, fast = sides(lost=4)
    pair = compare(slow, [fast]).pairs[0]
    assert pair.drop.value == 0.04
    assert pair.differences["frames"]["accuracy"].value == pytest.approx(-0.04)
    assert pair.mcnemar["only_baseline"] == 160
    groups = pair.disagreements.set_index("group")
    assert groups.loc["viral"].tolist() == [2000, 80, 0]
    assert groups["only_baseline"].sum() == 160


def test_a_drop_at_the_limit_is_exactly_the_limit():
    slow, fast = sides(lost=5)
    assert compare(slow, [fast]).pairs[0].drop.value == 0.05  # 0.9 - 0.85 is not


def test_pairing_narrows_the_interval_when_models_fail_on_the_same_genomes():
    table = frames_table(20, 50)
    rng = np.random.default_rng(2)
    hard = np.repeat(rng.random(20) * 0.6, 50) > rng.random(1000)
    more = hard | (rng.random(1000) < 0.02)
    pair = compare(side("slow", predicted(table, hard)), [side("fast", predicted(table, more, 1))]).pairs[0]
    own, paired = pair.candidate.metrics["frames"]["accuracy"], pair.differences["frames"]["accuracy"]
    assert (paired.high - paired.low) < 0.3 * (own.high - own.low)


def test_losses_in_one_genome_widen_the_interval_beyond_those_spread_evenly():
    table = frames_table(20, 50)
    none = np.zeros(1000, bool)
    gathered, spread = none.copy(), none.copy()
    gathered[:30], spread[::34] = True, True
    slow = side("slow", predicted(table, none))
    pairs = compare(slow, [side("a", predicted(table, gathered)), side("b", predicted(table, spread))]).pairs
    assert pairs[0].drop.value == pairs[1].drop.value == 0.03
    assert pairs[0].drop.high > 0.05 > pairs[1].drop.high


def test_rows_in_another_order_make_no_difference():
    slow, fast = sides(lost=3)
    mixed = replace(fast, predictions=fast.predictions.sample(frac=1, random_state=1))
    assert compare(slow, [mixed]).pairs[0].drop == compare(slow, [fast]).pairs[0].drop


@pytest.mark.parametrize("key", ["test/accuracy", "test/chunk/f1", "test/count/frames", "test/prevalence_05/precision"])
def test_an_edited_or_deleted_metric_is_refused_by_name(key):
    slow, fast = sides()
    edited = replace(fast, metrics={**fast.metrics, key: fast.metrics[key] * 1.000001})
    with pytest.raises(DataError, match=f"virnuc-fast v1: the logged {key}"):
        compare(slow, [edited])
    deleted = {name: value for name, value in slow.metrics.items() if name != key}
    with pytest.raises(DataError, match=key):
        compare(replace(slow, metrics=deleted), [fast])


def test_edited_predictions_are_refused():
    slow, fast = sides()
    flipped = fast.predictions.copy()
    flipped.loc[0, "score"] = 1 - flipped.loc[0, "score"]
    with pytest.raises(DataError, match="one of the two was changed"):
        compare(slow, [replace(fast, predictions=flipped)])


def test_each_kind_of_mismatch_is_named_with_a_remedy():
    slow, fast = sides()

    def problem(**changed):
        (found,) = compare(slow, [replace(fast, **changed)]).pairs[0].problems
        return found

    assert "different splits" in problem(split_digest="cd" * 32)
    assert "train both on one split" in problem(split_digest="cd" * 32)
    assert "another version of the evaluation code" in problem(evaluation_version="0")
    shorter = fast.predictions.iloc[1:]
    changed = side("fast", shorter)
    found = problem(predictions=shorter, metrics=changed.metrics, replicates=changed.replicates)
    assert "1 only on one side, the first is G0_chunk_1F1" in found
    assert "run evaluate with virnuc-fast v1" in found
    renamed = fast.predictions.assign(genome="G" + fast.predictions["genome"])
    assert "another genome" in problem(predictions=renamed)


def test_without_a_usable_baseline_the_candidate_is_reported_alone():
    slow, fast = sides()
    alone = compare(None, [fast], missing="none is registered under virnuc-slow")
    assert alone.baseline is None
    assert alone.pairs[0].problems == ("none is registered under virnuc-slow",)
    assert alone.pairs[0].drop is None
    assert alone.pairs[0].candidate.metrics["frames"]["accuracy"].value == pytest.approx(0.9)
    unpaired = compare(replace(slow, predictions=None), [fast])
    assert "no predictions" in unpaired.pairs[0].problems[0]
    assert unpaired.baseline.metrics["frames"]["accuracy"].value == pytest.approx(0.9)


def test_a_candidate_that_was_never_evaluated_is_refused():
    slow, fast = sides()
    with pytest.raises(DataError, match="never evaluated"):
        compare(slow, [replace(fast, predictions=None)])


def test_controls_and_several_candidates_are_paired_with_the_one_baseline():
    slow, fast = sides(lost=2)
    _, faster = sides(lost=4)
    control = side("composition", predicted(frames_table(40, 100), np.tile(np.arange(100), 40) < 20))
    found = compare(slow, [fast, replace(faster, name="faster")], [control])
    assert [pair.drop.value for pair in (*found.pairs, *found.controls)] == [0.02, 0.04, 0.1]
    assert len(found.sides) == 4


def test_the_drop_is_the_mean_over_pairs_of_trainings_of_one_seed():
    slow, fast = sides()
    scores = fast.replicates[["frame_id"]].copy()
    for seed, lost in ((3, 0), (1, 2), (2, 4), (9, 50)):  # the baseline has no seed 9
        scores[f"seed_{seed}"] = sides(lost=lost)[1].predictions["score"]
    logged = replicate_metrics(labels_of(fast.predictions), scores.drop(columns="frame_id"))
    drop = compare(slow, [replace(fast, replicates=scores, metrics={**fast.metrics, **logged})]).pairs[0].drop
    assert drop.by_replicate == pytest.approx({"seed_1": 0.02, "seed_2": 0.04, "seed_3": 0.0})
    assert drop.value == pytest.approx(0.02) and drop.replicates == 3
    assert drop.training_spread == pytest.approx(0.02)
    assert drop.training_error == pytest.approx(0.02 / 3**0.5)
    assert drop.sampling_error == pytest.approx(0)  # the same loss in each genome
    assert drop.low <= 0 and drop.high >= 0.04  # as much as the trainings differ


def test_the_interval_follows_from_what_is_compared_and_from_nothing_else():
    slow, fast = sides(lost=3)
    table = frames_table()
    other = side("fast", predicted(table, np.random.default_rng(1).random(4000) < 0.13, seed=1))
    first, again, renamed = (
        compare(slow, [one]).pairs[0].drop for one in (other, other, replace(other, name="virnuc-new", version="7"))
    )
    assert first == again == renamed
    assert compare(slow, [fast]).pairs[0].drop != first
