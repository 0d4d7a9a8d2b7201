"""Evaluation on real feature shards and a real split, with a classifier whose outputs are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as skm

from virnuc.errors import DataError
from virnuc.evaluation.calibration import fit_temperature, threshold_for, viral_probability
from virnuc.evaluation.evaluation import evaluate, metrics_of
from virnuc.evaluation.predictions import PREDICTION_COLUMNS, frame_predictions
from virnuc.evaluation.seen import encoders_of_unnamed_viruses
from virnuc.features.feature_set import FeatureSet
from virnuc.features.shards import write_shard
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split as make_split

READ = {"hexamer_tiny": {"NC_1", "GeneID.2"}, "of_bacteria": {"NC_1"}}  # by encoder
SPREAD = ("accuracy_mean", "accuracy_sd", "accuracy_low", "accuracy_high")


def write_features(directory, noise=1.0, skip=None):
    """Write features in VirNucPro's layout: 40 genomes of 2 classes, 12 frames each; column 0 is the noisy class."""
    rng = np.random.default_rng(5)
    for label, group in ((1, "viral"), (0, "bacteria")):
        ids, rows = [], []
        for genome in range(20):
            shift = rng.normal(scale=0.5)
            for frame in range(12):
                ids.append(f"{group[:1].upper()}{genome}_chunk_{frame // 2 + 1}{('F1', 'R3')[frame % 2]}")
                rows.append([2 * label - 1 + shift + noise * rng.normal(), *rng.normal(size=3)])
        keep = [row for row, name in enumerate(ids) if name != skip]
        data = torch.tensor(np.array(rows)[keep], dtype=torch.float32)
        write_shard(directory / f"{group}_merged" / "output_1_merged.pt", [ids[row] for row in keep], data, label)
    return FeatureSet.open(directory)


def score(features):
    """Classify by column 0, overconfidently."""
    return torch.stack([-2 * features[:, 0], 2 * features[:, 0]], dim=1)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("features"))


def split_of(features, out, **changed):
    given = {"test_fraction": 0.3, "val_fraction": 0.2} | changed
    return make_split(SplitSettings(source=str(features.directory), out=str(out), **given))


@pytest.fixture(scope="module")
def split(features, tmp_path_factory):
    return split_of(features, tmp_path_factory.mktemp("split") / "s")


@pytest.fixture(scope="module")
def evaluation(features, split):
    return evaluate(score, features, split, seed=1)


def test_predictions_are_in_the_order_of_the_split_with_every_column(evaluation, split):
    assert set(evaluation.predictions.columns) == {*PREDICTION_COLUMNS, "seen", "identity", "relative_label"}
    assert evaluation.predictions["frame_id"].tolist() == split.frame_ids("test")
    assert evaluation.validation["frame_id"].tolist() == split.frame_ids("val")


def test_metrics_are_those_of_scikit_learn_on_the_pooled_rows(evaluation, features, split):
    vectors = features.gather(features.locate(split.frame_ids("test")))
    scores = torch.softmax(score(vectors).double(), dim=1)[:, 1].numpy()
    labels = np.array([int(frame.startswith("V")) for frame in split.frame_ids("test")])
    expected = {
        "test/accuracy": skm.accuracy_score(labels, scores >= 0.5),
        "test/precision": skm.precision_score(labels, scores >= 0.5),
        "test/recall": skm.recall_score(labels, scores >= 0.5),
        "test/f1": skm.f1_score(labels, scores >= 0.5),
        "test/roc_auc": skm.roc_auc_score(labels, scores),
        "test/pr_auc": skm.average_precision_score(labels, scores),
        "test/mcc": skm.matthews_corrcoef(labels, scores >= 0.5),
        "test/brier": skm.brier_score_loss(labels, scores),
        "test/log_loss": skm.log_loss(labels, scores),
        "test/count/true_viral": skm.confusion_matrix(labels, scores >= 0.5)[1, 1],
    }
    assert {key: evaluation.metrics[key] for key in expected} == pytest.approx(expected)


def test_each_interval_holds_its_metric_and_has_some_width(evaluation):
    for name in ("accuracy", "recall", "f1", "mcc", "roc_auc", "log_loss"):
        for section, interval in (("test", "test/interval"), ("test/chunk", "test/chunk_interval")):
            low, high = (evaluation.metrics[f"{interval}/{name}_{end}"] for end in ("low", "high"))
            assert low < evaluation.metrics[f"{section}/{name}"] < high


def test_metrics_are_reproduced_from_stored_predictions(evaluation, tmp_path):
    evaluation.predictions.to_parquet(tmp_path / "predictions.parquet")
    again = metrics_of(pd.read_parquet(tmp_path / "predictions.parquet"))
    assert again == {key: evaluation.metrics[key] for key in again}


def test_the_same_seed_gives_the_same_figures_to_the_last_digit(evaluation, features, split):
    assert evaluate(score, features, split, seed=1).metrics == evaluation.metrics


def test_replicates_are_scored_row_by_row_and_their_spread_is_reported(features, split, evaluation):
    scorers = {7: score, 8: lambda x: score(x + 0.5), 9: lambda x: score(x - 1.0)}
    found = evaluate(score, features, split, seed=1, replicates=scorers)
    right = []
    for seed, scorer in scorers.items():
        alone = frame_predictions(scorer, features, split, "test")
        assert found.replicates[f"seed_{seed}"].tolist() == alone["score"].tolist()
        right.append(skm.accuracy_score(alone["label"], alone["score"] >= 0.5))
    assert list(found.replicates) == ["seed_7", "seed_8", "seed_9"] and len(set(right)) == 3
    counted = {name: found.metrics[f"test/replicates/{name}"] for name in ("count", *SPREAD)}
    expected = [3, np.mean(right), np.std(right, ddof=1), min(right), max(right)]
    assert list(counted.values()) == pytest.approx(expected)
    assert found.metrics["test/accuracy"] == evaluation.metrics["test/accuracy"]
    one = evaluate(score, features, split, seed=1, replicates={7: score}).metrics
    assert one["test/replicates/count"] == 1 and "test/replicates/accuracy_sd" not in one


def test_batches_do_not_change_predictions(evaluation, features, split):
    rows = features.locate(split.frame_ids("test"))
    single = torch.cat([score(features.gather(rows[i : i + 1])) for i in range(len(rows))])
    assert evaluation.predictions["logit_viral"].tolist() == single[:, 1].tolist()


def test_a_missing_frame_a_wrong_label_and_an_infinite_logit_are_refused(features, split, tmp_path):
    first = split.frame_ids("test")[0]
    with pytest.raises(DataError, match=first):
        frame_predictions(score, write_features(tmp_path / "short", skip=first), split, "test")
    with pytest.raises(DataError, match="not finite"):
        frame_predictions(lambda x: score(x) / 0, features, split, "test")
    swapped = split.table.assign(label=1 - split.table["label"])
    with pytest.raises(DataError, match="another label"):
        frame_predictions(score, features, type(split)(split.directory, swapped, split.metadata), "test")


def test_temperature_and_threshold_come_from_validation_alone(evaluation, features, split):
    """Inverting the labels of the test part changes test metrics, but neither the temperature nor the threshold."""
    table = evaluation.predictions
    assert evaluation.temperature == pytest.approx(
        fit_temperature(
            evaluation.validation["label"].to_numpy(),
            (evaluation.validation["logit_viral"] - evaluation.validation["logit_nonviral"]).to_numpy(),
        )
    )
    other = evaluate(lambda x: -score(x) if len(x) == len(table) else score(x), features, split, seed=1)
    assert other.metrics["test/accuracy"] < 0.5 < evaluation.metrics["test/accuracy"]
    for key in ("test/calibrated/temperature", "test/prevalence_05/threshold/value"):
        assert other.metrics[key] == evaluation.metrics[key]


def test_calibration_lowers_the_loss_and_changes_no_call(evaluation):
    assert evaluation.metrics["test/calibrated/log_loss"] < evaluation.metrics["test/log_loss"]
    table = evaluation.predictions
    assert ((table["score"] >= 0.5) == (table["calibrated"] >= 0.5)).all()


def test_temperature_is_found_where_it_is_known():
    rng = np.random.default_rng(0)
    true = rng.normal(scale=2, size=20_000)
    labels = (rng.random(20_000) < viral_probability(true)).astype(np.int8)
    assert fit_temperature(labels, 2.5 * true) == pytest.approx(2.5, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=30), st.floats(0, 0.6))
def test_threshold_is_the_lowest_that_keeps_the_rate_at_a_prevalence(rows, rate):
    labels, scores = np.array([r[0] for r in rows], np.int8), np.array([r[1] for r in rows]) / 20
    if len(set(labels)) < 2:
        return
    called = [[(scores >= s)[labels == label].mean() for label in (1, 0)] for s in scores]
    wrong = [0.95 * other / (0.05 * viral + 0.95 * other) for viral, other in called]
    allowed = [s for s, share in zip(scores, wrong, strict=True) if share <= rate]
    found = threshold_for(labels, scores, 0.05, rate)
    assert found == min(allowed) if allowed else np.isnan(found)


def test_what_a_threshold_gives_at_a_prevalence_has_an_interval_over_genomes(evaluation):
    metrics, table = evaluation.metrics, evaluation.predictions
    for section, share in (("prevalence_05", 0.05), ("prevalence_01", 0.01)):
        place = f"test/{section}/threshold"
        called = (table["score"] >= metrics[f"{place}/value"]).to_numpy()
        viral = (table["label"] == 1).to_numpy()
        recall, fall_out = called[viral].mean(), called[~viral].mean()
        assert metrics[f"{place}/recall"] == pytest.approx(recall)
        discoveries = (1 - share) * fall_out / (share * recall + (1 - share) * fall_out)
        assert metrics[f"{place}/false_discovery_rate"] == pytest.approx(discoveries)
        assert metrics[f"{place}/recall_low"] <= recall <= metrics[f"{place}/recall_high"]


def test_perfect_calibration_has_an_error_of_its_own_and_the_interval_holds_the_value(evaluation):
    metrics = evaluation.metrics
    assert 0 < metrics["test/calibration/ece_if_perfect"] < 0.1
    assert metrics["test/calibration/ece_low"] <= metrics["test/ece"] <= metrics["test/calibration/ece_high"]


def test_macro_averages_and_concentration_are_counted_by_genome(evaluation):
    table, metrics = evaluation.predictions, evaluation.metrics
    right = (table["score"] >= 0.5) == (table["label"] == 1)
    by_genome = [right[table["genome"] == name].mean() for name in set(table["genome"])]
    assert metrics["test/macro/accuracy_by_genome"] == pytest.approx(np.mean(by_genome))
    sizes = table["genome"].value_counts()
    assert metrics["test/count/largest_genome_share"] == pytest.approx(sizes.max() / len(table))


def test_frames_whose_genome_an_encoder_was_trained_on_are_counted(features, split, evaluation):
    known = evaluation.predictions["genome"].iloc[0]
    found = evaluate(score, features, split, seed=1, pretrained={"esm2_tiny": {known, "elsewhere"}})
    assert set(found.predictions["seen"]) == {"", "esm2_tiny"}
    frames = (evaluation.predictions["genome"] == known).sum()
    assert found.metrics["test/leak/frames_in_pretraining"] == frames
    assert found.metrics["test/leak/frames_sharing_a_genome"] == 0


def test_permuted_labels_are_at_chance_and_true_ones_are_not(evaluation):
    found = evaluation.metrics
    assert found["test/control/permuted_roc_auc"] == pytest.approx(0.5, abs=0.02)
    assert found["test/control/permuted_balanced_accuracy"] == pytest.approx(0.5, abs=0.02)
    assert found["test/control/permuted_roc_auc_low"] < 0.5 < found["test/control/permuted_roc_auc_high"]
    assert found["test/control/permuted_p"] < 0.05


def test_a_control_with_shuffled_features_is_logged_beside_the_rest(features, split, evaluation, tmp_path):
    noisy = write_features(tmp_path / "noisy", noise=50.0)
    found = evaluate(score, features, split, seed=1, shuffled=noisy).metrics
    assert found["test/control/shuffled_roc_auc"] < found["test/roc_auc"] - 0.1
    assert found["test/accuracy"] == evaluation.metrics["test/accuracy"]


def test_a_leaking_split_is_counted(features, evaluation, tmp_path):
    leaking = split_of(features, tmp_path / "leaking", unit="frame")
    found = evaluate(score, features, leaking, seed=1).metrics
    assert evaluation.metrics["test/leak/frames_sharing_a_genome"] == 0
    assert found["test/leak/frames_sharing_a_genome"] == len(leaking.frame_ids("test"))


COVERAGE = {"covered": 60, "no_open_frame": 30, "no_cds_evidence": 10, "ambiguous_bases": 5, "chunks": 105}


def with_coverage(split):
    return type(split)(split.directory, split.table, split.metadata | {"coverage": COVERAGE | {"by_group": {}}})


def test_all_chunks_count_as_predict_scores_them(features, split, evaluation):
    """Right calls: 5 of 8 without an open frame (one has no answer), 1 of 2 outside a CDS, 4 of 4 with a frame."""
    chunks = pd.DataFrame(
        {
            "label": [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0],
            "probability": [0.9, 0.5, 0.7, 0.49, 0.1, 0.2, 0.8, np.nan, 0.6, 0.6, 0.95, 0.9, 0.05, 0.15],
            "reason": ["no_open_frame"] * 8 + ["no_cds_evidence"] * 2 + ["covered"] * 4,
        }
    )
    found = evaluate(score, features, with_coverage(split), seed=1, chunks=chunks).metrics
    known = chunks.fillna(0.5)
    viral, other = (known.loc[known["label"] == label, "probability"] for label in (1, 0))
    wanted = {
        "accuracy_of_covered_chunks": 1,
        "accuracy_of_uncovered_chunks": 6 / 10,
        "accuracy_of_no_open_frame_chunks": 5 / 8,
        "accuracy_of_no_cds_evidence_chunks": 1 / 2,
        "accuracy_of_all_chunks": 10 / 14,
        "roc_auc_of_all_chunks": np.mean([(v > n) + (v == n) / 2 for v in viral for n in other]),
        "chunks_scored": 14,
        **COVERAGE,
    }
    assert {key.removeprefix("test/coverage/"): found[key] for key in found if "coverage" in key} == pytest.approx(
        wanted
    )
    gate = {key: value for key, value in found.items() if "coverage" not in key}
    assert gate == evaluation.metrics


def test_without_chunks_at_hand_there_is_no_accuracy_over_all(features, split):
    found = evaluate(score, features, with_coverage(split), seed=1).metrics
    assert {key.removeprefix("test/coverage/") for key in found if "coverage" in key} == COVERAGE.keys()


@pytest.mark.parametrize(
    ("virus", "readers"),
    [("NC_045512", ["hexamer_tiny"]), ("GeneID.7", []), ("AZAJ01000001", [])],  # the last is one of the example genomes
)
def test_an_encoder_that_may_have_read_a_virus_of_the_test_part_under_another_name(split, virus, readers):
    table = split.table.astype({"genome": str})
    renamed = table.assign(genome=table["genome"].mask(table["label"] == 1, virus).mask(table["label"] == 0, "NC_1"))
    assert encoders_of_unnamed_viruses(replace(split, table=renamed), READ) == readers
