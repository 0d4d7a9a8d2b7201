"""`prepare --balance`: as many frames of each class, evenly over the groups of the larger one."""

import numpy as np
import pytest

from tests.shared.preparing import run, table
from virnuc.sequences.balancing import share
from virnuc.storage.manifest import read_manifest


def test_balance_draws_the_larger_class_down_to_the_smaller(small, tmp_path):
    run(small, tmp_path / "all")
    run(small, tmp_path / "balanced", balance=True)
    run(small, tmp_path / "other", balance=True, seed=7)
    everything, balanced, other = (table(tmp_path / name) for name in ("all", "balanced", "other"))
    smaller = everything["label"].value_counts().min()
    assert balanced["label"].value_counts().to_dict() == {0: smaller, 1: smaller}
    assert set(balanced["frame_id"]) < set(everything["frame_id"])
    assert set(balanced["frame_id"]) != set(other["frame_id"])
    dropped = read_manifest(tmp_path / "balanced", "frames").counts["dropped"]["frames_balance"]
    assert dropped == len(everything) - len(balanced)


@pytest.mark.parametrize("seed", range(20))
def test_groups_share_evenly_and_small_ones_give_all_they_have(seed):
    random = np.random.default_rng(seed)
    available = {f"group{number}": int(count) for number, count in enumerate(random.integers(0, 30, 6))}
    total = int(random.integers(0, sum(available.values()) + 1))
    given = dict.fromkeys(available, 0)
    for _ in range(total):  # each from the group that gave fewest and still has some
        given[min((name for name in available if given[name] < available[name]), key=given.__getitem__)] += 1
    found = share(available, total)
    assert sorted(found.values()) == sorted(given.values())
    assert all(found[name] <= available[name] for name in available)


def test_balance_draws_evenly_from_the_groups_of_the_larger_class(small, tmp_path):
    run(small, tmp_path / "all", evidence="open")
    run(small, tmp_path / "balanced", evidence="open", balance=True)
    everything, balanced = (table(tmp_path / name) for name in ("all", "balanced"))
    merged = {"vertebrate_other": "vertebrate", "vertebrate_mammalian": "vertebrate"}
    has, kept = (found["group"].replace(merged).value_counts() for found in (everything, balanced))
    assert kept["viral"] == has["viral"]
    assert kept.drop("viral").to_dict() == share(has.drop("viral").to_dict(), has["viral"])
    parameters = read_manifest(tmp_path / "balanced", "frames").parameters
    assert parameters["balance"] == "evenly over groups"
