"""Strata: what is counted, and what is large enough for a metric and an interval."""

import numpy as np
import pandas as pd

from tests.shared.constructed import frames_table, predicted
from virnuc.evaluation.strata import MIN_FRAMES, strata


def test_strata_count_everything_and_judge_only_what_is_large_enough():
    table = frames_table(genomes=12, frames=40)
    wrong = (table["group"] == "fungi").to_numpy()
    small = pd.concat([table, frames_table(1, 10).replace({"genome": {"G0": "G99"}}).assign(group="protozoa")])
    small["frame_id"] = small["genome"] + small["frame_id"].str.extract(r"(_chunk_.*)", expand=False)
    small = small.reset_index(drop=True)
    tables = strata(predicted(small, np.concatenate([wrong, np.zeros(10, bool)])), seed=1)
    groups = tables["group"].set_index("stratum")
    assert groups["frames"].sum() == len(small)
    assert groups.loc["fungi", "accuracy"] == 0
    assert groups.loc["viral", ["accuracy", "low", "high"]].tolist() == [1, 1, 1]
    assert groups.loc["protozoa", "frames"] < MIN_FRAMES
    assert np.isnan(groups.loc["protozoa", "accuracy"])
    assert np.isnan(groups.loc["fungi", "low"])  # too few genomes for an interval
    assert tables["length"]["stratum"].tolist() == ["300 bp"]
    assert set(tables) == {"group", "length", "lineage", "organism"}
