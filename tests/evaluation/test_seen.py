"""What test frames share with training."""

import numpy as np
import pytest

from tests.shared.constructed import frames_table, predicted
from virnuc.evaluation.seen import relative_metrics


def test_accuracy_is_split_by_relatives_in_training_which_also_give_the_alignment_control():
    table = predicted(frames_table(4, 10), np.arange(40) < 10)  # the first genome wrong
    label = table["label"].to_numpy()
    table["relative_label"] = np.where(np.arange(40) < 20, label, -1).astype(np.int8)
    table.loc[0, "relative_label"] = 1 - label[0]
    found = relative_metrics(table)
    assert found == pytest.approx(
        {
            "frames_with_relative": 20,
            "accuracy_with_relative": 0.5,
            "accuracy_without_relative": 1.0,
            "best_hit_accuracy": 0.95,
            "best_hit_or_model_accuracy": 39 / 40,
        }
    )
