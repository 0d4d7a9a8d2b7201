"""Controls that know nothing: permuted labels and shuffled sequences."""

import numpy as np
import pandas as pd

from tests.shared.constructed import frames_table, predicted
from virnuc.evaluation.controls import permuted_labels, shuffle_sequences


def test_permutation_p_is_large_for_a_random_model():
    table = frames_table(20, 10)
    nothing = predicted(table, np.random.default_rng(9).random(200) < 0.5)
    assert permuted_labels(nothing, seed=1)["permuted_p"] > 0.05


def test_shuffled_sequences_keep_their_letters_and_depend_on_their_frame_alone():
    frames = pd.DataFrame({"frame_id": ["a_chunk_1F1", "b_chunk_1F1"], "nucleotide": ["ACGTTTGCA" * 20] * 2})
    frames["protein"] = "MKVLAAGIT" * 10
    shuffled = shuffle_sequences(frames, seed=3)
    for column in ("nucleotide", "protein"):
        assert [sorted(text) for text in shuffled[column]] == [sorted(text) for text in frames[column]]
        assert shuffled[column][0] != shuffled[column][1] != frames[column][1]
    alone = shuffle_sequences(frames.iloc[[1]], seed=3)
    assert alone["protein"].item() == shuffled["protein"][1]
