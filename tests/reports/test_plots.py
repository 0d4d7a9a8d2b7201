"""Figures show the given numbers, which are read back from matplotlib's artists."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from virnuc.reports import plots
from virnuc.reports.plots import Series

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 5000).astype(np.int8)
SCORES = np.clip(0.3 * LABELS + RNG.random(5000) * 0.7, 0, 1)
SIDE = Series("slow", plots.BASELINE, LABELS, SCORES)


def texts(drawing):
    return [text.get_text() for text in drawing.figure.axes[0].texts]


def named_lines(drawing):
    return {line.get_label(): line for line in drawing.figure.axes[0].lines if not line.get_label().startswith("_")}


def test_confusion_matrix_shows_every_count():
    labels, scores = np.array([1, 1, 1, 0, 0], np.int8), np.array([0.9, 0.5, 0.1, 0.7, 0.2])
    drawing = plots.confusion_matrix(Series("s", plots.BASELINE, labels, scores))
    shown, axes = texts(drawing), drawing.figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [text.split("\n")[0] for text in shown] == ["1", "1", "1", "2"]
    assert shown[3].endswith("66.7%")


def test_a_thinned_curve_keeps_its_ends_and_its_area():
    (line,) = named_lines(plots.roc([SIDE])).values()
    x, y = line.get_data()
    assert len(x) <= 400
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(LABELS, SCORES), abs=0.002)


def test_a_side_looks_alike_in_every_figure():
    other = Series("fast", plots.CANDIDATES[0], LABELS, SCORES)
    for draw in (plots.roc, plots.precision_recall, plots.calibration):
        lines = list(named_lines(draw([SIDE, other])).values())
        assert [line.get_color() for line in lines] == [plots.BASELINE.colour, plots.CANDIDATES[0].colour]
        assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_calibration_draws_the_observed_share_of_each_bin():
    scores = np.repeat([0.1, 0.9], 50)
    labels = np.concatenate([np.arange(50) < 10, np.arange(50) < 30]).astype(np.int8)
    (line,) = named_lines(plots.calibration([Series("s", plots.BASELINE, labels, scores)])).values()
    assert line.get_ydata() == pytest.approx([0.2, 0.6])
    assert line.get_xdata() == pytest.approx([0.1, 0.9])


def test_groups_without_a_figure_are_left_out_with_a_sentence():
    rows = [
        {"stratum": "viral", "accuracy": 0.9, "low": 0.8, "high": 0.95},
        {"stratum": "plant", "accuracy": 0.7, "low": np.nan, "high": np.nan},
        {"stratum": "vertebrate_other", "accuracy": np.nan, "low": np.nan, "high": np.nan},
    ]
    drawing = plots.group_accuracy([("slow", plots.BASELINE, rows)])
    axes = drawing.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["viral", "plant"]
    assert sorted(axes.containers[0][0].get_xdata()) == [0.7, 0.9]
    assert "viral 0.90, plant 0.70" in drawing.alt
    assert drawing.caption.endswith("Left out, with too few frames: vertebrate_other.")


def test_speed_bars_are_rates_of_the_median_run():
    drawing = plots.speed_bars([("a", plots.BASELINE, 100, (1.0, 2.0, 4.0)), ("b", plots.CANDIDATES[0], 100, (0.5,))])
    assert sorted(bar.get_width() for bar in drawing.figure.axes[0].patches) == [50, 200]
    assert drawing.alt.endswith("a 50, b 200.")


def test_epoch_curves_start_at_epoch_one():
    drawing = plots.epoch_curves([("a", plots.BASELINE, {"val/loss": [0.7, 0.6]})], ("val/loss",), "Loss", "loss")
    (line,) = named_lines(drawing).values()
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == [0.7, 0.6]


def test_one_class_still_gives_a_score_figure():
    one = Series("s", plots.BASELINE, np.ones(5, np.int8), np.full(5, 0.8))
    assert "no non-viral frames" in plots.score_distribution(one).alt
