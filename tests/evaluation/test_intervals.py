"""Metrics against slow definitions, draws against resampled rows, intervals against a simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as skm

from virnuc.evaluation.intervals import draw_genomes
from virnuc.evaluation.metrics import METRICS, binary_metrics, mcnemar

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=np.int8)
SCORES = np.array([0.9, 0.5, 0.4, 0.6, 0.2, 0.4, 0.1, 0.8])


def slow_areas(labels, scores):
    """Return ROC-AUC as the share of ordered pairs, and PR-AUC as mean precision at the scores of viral rows."""
    viral, other = scores[labels == 1], scores[labels == 0]
    pairs = [(v > o) + (v == o) / 2 for v in viral for o in other]
    precisions = [np.mean(labels[scores >= v]) for v in viral]
    return np.mean(pairs), np.mean(precisions)


def test_metrics_of_a_case_counted_by_hand():
    found = binary_metrics(LABELS, SCORES)  # true viral 3, false viral 1, true non-viral 3, missed 1
    roc, pr = slow_areas(LABELS, SCORES)
    assert found == pytest.approx(
        {
            "accuracy": 6 / 8,
            "precision": 3 / 4,
            "recall": 3 / 4,
            "specificity": 3 / 4,
            "f1": 3 / 4,
            "mcc": (3 * 3 - 1 * 1) / 16,
            "roc_auc": roc,
            "pr_auc": pr,
            "brier": np.mean([0.01, 0.25, 0.36, 0.36, 0.04, 0.16, 0.01, 0.04]),
            "ece": (0.1 + 0.5 + 2 * 0.1 + 0.6 + 0.2 + 0.1 + 0.2) / 8,  # the two scores of 0.4 share a bin
            "log_loss": -np.mean(np.log([0.9, 0.5, 0.4, 0.4, 0.8, 0.6, 0.9, 0.8])),
        }
    )


def test_undefined_metrics_are_nan():
    one_class = binary_metrics(np.ones(3, dtype=np.int8), np.array([0.1, 0.2, 0.9]))
    assert np.isnan([one_class["specificity"], one_class["roc_auc"], one_class["pr_auc"]]).all()
    assert one_class["accuracy"] == pytest.approx(1 / 3)


def test_calibration_error_is_the_gap_within_each_bin():
    scores = np.array([0.30, 0.30, 0.30, 0.30, 0.95, 0.95])
    labels = np.array([0, 0, 0, 1, 1, 1], dtype=np.int8)
    assert binary_metrics(labels, scores)["ece"] == pytest.approx((4 * 0.05 + 2 * 0.05) / 6)


@pytest.mark.parametrize("prevalence", [0.01, 0.05, 0.5])
def test_prevalence_follows_bayes(prevalence):
    plain, shifted = binary_metrics(LABELS, SCORES), binary_metrics(LABELS, SCORES, prevalence)
    called = plain["recall"] * prevalence + (1 - plain["specificity"]) * (1 - prevalence)
    assert shifted["precision"] == pytest.approx(plain["recall"] * prevalence / called)
    assert shifted["recall"] == pytest.approx(plain["recall"])
    assert shifted["roc_auc"] == pytest.approx(plain["roc_auc"])


@st.composite
def clustered(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=4, max_size=9))
    codes = np.repeat(np.arange(len(sizes)), sizes)
    scores = draw(st.lists(st.integers(0, 10), min_size=len(codes), max_size=len(codes)))  # many ties
    return pd.Series([f"G{code}" for code in codes]), (codes % 2).astype(np.int8), np.array(scores) / 10


def by_scikit_learn(labels, scores, weights):
    """Return the metrics that scikit-learn has, too."""
    called, undefined = scores >= 0.5, {"zero_division": np.nan}
    both = len(set(labels)) == 2
    given = {"sample_weight": weights}
    return {
        "accuracy": skm.accuracy_score(labels, called, **given),
        "precision": skm.precision_score(labels, called, **undefined, **given),
        "recall": skm.recall_score(labels, called, **undefined, **given),
        "specificity": skm.recall_score(labels, called, pos_label=0, **undefined, **given),
        "f1": skm.f1_score(labels, called, **undefined, **given),
        "mcc": skm.matthews_corrcoef(labels, called, **given),
        "roc_auc": skm.roc_auc_score(labels, scores, **given) if both else np.nan,
        "pr_auc": skm.average_precision_score(labels, scores, **given) if both else np.nan,
        "brier": skm.brier_score_loss(labels, scores, pos_label=1, **given),
        "log_loss": skm.log_loss(labels, scores, labels=[0, 1], **given),
    }


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=1, max_size=25), st.floats(0.01, 0.99))
@settings(max_examples=25)
def test_metrics_are_those_of_scikit_learn_weighted_or_not(rows, prevalence):
    labels, scores = np.array([label for label, _ in rows], np.int8), np.array([score for _, score in rows]) / 10
    share = labels.mean()
    chosen = np.where(labels == 1, prevalence / max(share, 1e-9), (1 - prevalence) / max(1 - share, 1e-9))
    for asked, weights in ((None, None), (prevalence, chosen)):
        expected = by_scikit_learn(labels, scores, weights)
        found = binary_metrics(labels, scores, asked)
        assert {key: found[key] for key in expected} == pytest.approx(expected, nan_ok=True)


@given(clustered())
@settings(max_examples=40)
def test_a_draw_is_the_metric_of_its_rows_written_out(case):
    genomes, labels, scores = case
    draws = draw_genomes(genomes, labels, seed=1, resamples=5)
    found = draws.of(labels, scores)
    assert found.keys() == {metric.key for metric in METRICS if metric.resampled}
    for number, weights in enumerate(draws.weights):
        rows = np.repeat(np.arange(len(labels)), weights[draws.codes].astype(int))
        expected = binary_metrics(labels[rows], scores[rows])
        for name, values in found.items():
            assert values[number] == pytest.approx(expected[name], nan_ok=True), name


def test_draws_keep_the_genomes_of_each_class_and_ignore_the_order_of_rows():
    genomes = pd.Series(np.repeat([f"G{i}" for i in range(8)], 3))
    labels = np.repeat([0, 1], [9, 15]).astype(np.int8)
    order = np.random.default_rng(0).permutation(24)
    draws, reordered = draw_genomes(genomes, labels, 7, 50), draw_genomes(genomes[order], labels[order], 7, 50)
    assert (draws.weights == reordered.weights).all()
    assert (draws.weights[:, :3].sum(axis=1) == 3).all()
    assert (draws.weights[:, 3:].sum(axis=1) == 5).all()
    assert not (draws.weights == draw_genomes(genomes, labels, 8, 50).weights).all()


def half_width(genomes, labels):
    """Return the half width of an interval of normal draws, in their standard deviations."""
    draws = draw_genomes(pd.Series(genomes), np.asarray(labels, dtype=np.int8), 0, 10)
    ends = draws.interval(0.0, np.random.default_rng(0).normal(size=20_000))
    return (ends.high - ends.low) / 2


def test_few_genomes_or_one_that_dominates_widen_the_interval():
    many = half_width(np.arange(2000), np.arange(2000) % 2)
    few = half_width(np.arange(12), np.arange(12) % 2)
    uneven = half_width([*range(12), *[0] * 5], [*np.arange(12) % 2, *[0] * 5])
    assert many == pytest.approx(1.96, abs=0.05)
    assert few == pytest.approx(2.57 * np.sqrt(6 / 5), rel=0.05)  # t with 6 - 1 degrees of freedom
    assert uneven > few


def test_no_interval_where_a_class_has_a_single_genome():
    assert np.isnan(half_width([0, 0, 1, 2, 3], [0, 0, 1, 1, 1]))


@pytest.mark.parametrize(
    ("per_row", "repeats", "lowest", "highest"), [(False, 200, 0.91, 0.985), (True, 40, 0.2, 0.75)]
)
def test_coverage_where_rows_of_a_genome_are_alike(per_row, repeats, lowest, highest):
    """Accuracy differs by genome, so only intervals from draws of genomes have their nominal coverage."""
    rng = np.random.default_rng(11)
    covered = 0
    labels = np.repeat([0, 1], 600).astype(np.int8)
    genomes = pd.Series(np.repeat(np.arange(60), 20))
    for seed in range(repeats):
        chance = np.repeat(rng.beta(2.4, 0.8, size=60), 20)  # mean 0.75
        right = (rng.random(1200) < chance).astype(float)
        drawn = pd.Series(range(1200)) if per_row else genomes
        draws = draw_genomes(drawn, labels, seed, 300)
        ends = draws.interval(right.mean(), draws.means(right))
        covered += ends.low <= 0.75 <= ends.high
    assert lowest <= covered / repeats <= highest


def test_mcnemar_is_the_exact_sign_test():
    baseline = np.array([True] * 15 + [False] * 5 + [True] * 80)
    candidate = np.array([False] * 15 + [True] * 5 + [True] * 80)
    found = mcnemar(baseline, candidate)
    assert (found["only_baseline"], found["only_candidate"]) == (15, 5)
    assert found["p_value"] == pytest.approx(2 * sum((1, 20, 190, 1140, 4845, 15504)) / 2**20)
    assert mcnemar(baseline, baseline)["p_value"] == 1.0
