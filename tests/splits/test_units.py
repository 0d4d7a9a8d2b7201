"""The assignment of units to parts, checked against slow and obvious statements of its promises."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc.errors import UsageError
from virnuc.settings import SplitSettings
from virnuc.splits.units import LEFT_OUT, assign

GROUPS = ("viral", "bacteria", "archaea")


def table_of(genomes, **columns):
    """Return a row for each frame; `genomes` has frames and group of each genome, `columns` other values."""
    rows = [
        {"frame_id": f"{genome}_{row}", "record": f"r{genome}", "genome": f"g{genome}", "group": group}
        | {"label": int(group == "viral"), "organism": "", "lineage": ""}
        | {name: values[genome] for name, values in columns.items()}
        for genome, (size, group) in enumerate(genomes)
        for row in range(size)
    ]
    return pd.DataFrame(rows)


strata = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(GROUPS)), min_size=12, max_size=40)


@given(genomes=strata, seed=st.integers(0, 100), fraction=st.sampled_from([0.1, 0.25]))
@settings(max_examples=40)
def test_groups_are_stratified_and_units_whole(genomes, seed, fraction):
    table = table_of(genomes)
    try:
        assign(table, SplitSettings(test_fraction=fraction, val_fraction=fraction, seed=seed))
    except UsageError:
        return  # too few units for three parts of both classes, and recorded
    assert table.groupby("genome")["part"].nunique().max() == 1
    assert set(table["part"]) == {"train", "val", "test"}
    for _, group in table.groupby("group"):
        sizes = group["genome"].value_counts()
        assert abs((group["part"] == "test").sum() - fraction * len(group)) <= sizes.max()
        if len(sizes) >= 3:
            assert set(group["part"]) == {"train", "val", "test"}
        assert "train" in set(group["part"])


@given(
    genomes=strata,
    joined=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=8),
    seed=st.integers(0, 9),
)
@settings(max_examples=40)
def test_a_unit_of_several_groups_is_never_divided(genomes, joined, seed):
    cluster = list(range(len(genomes)))
    for one, other in joined:
        cluster = [cluster[one] if name == cluster[other] else name for name in cluster]
    table = table_of(genomes, cluster=[f"c{name}" for name in cluster])
    try:
        assign(table, SplitSettings(test_fraction=0.25, val_fraction=0.25, unit="cluster", seed=seed))
    except UsageError:
        return
    assert table.groupby("cluster")["part"].nunique().max() == 1


@given(genomes=strata, seed=st.integers(0, 9), tested=st.sets(st.integers(0, 39), min_size=8))
@settings(max_examples=40)
def test_validation_and_testing_take_nothing_but_the_genomes_for_it(genomes, seed, tested):
    table = table_of(genomes, cluster=[f"c{number // 2}" for number in range(len(genomes))])
    testable = table["genome"].isin({f"g{number}" for number in tested})
    try:
        assign(table, SplitSettings(unit="cluster", seed=seed), testable=testable.to_numpy())
    except UsageError:
        return
    assert testable[table["part"] != "train"].all()
    assert testable.groupby(table["cluster"]).all()[table.loc[table["part"] != "train", "cluster"]].all()


def test_a_part_without_one_of_the_classes_is_refused():
    with pytest.raises(UsageError, match="leave the val part without viral frames"):
        assign(table_of([(30, "viral")] + [(3, "bacteria")] * 9), SplitSettings())


def test_the_order_of_the_frames_changes_nothing():
    table = table_of([(size, GROUPS[size % 3]) for size in range(1, 30)])
    shuffled = table.sample(frac=1, random_state=1)
    for frames in (table, shuffled):
        assign(frames, SplitSettings())
    assert shuffled.sort_index()["part"].tolist() == table["part"].tolist()


def lineages():
    """Return twenty viruses, half of them phages, and twenty bacteria."""
    genomes = [(3, "viral")] * 20 + [(3, "bacteria")] * 20
    taxa = ["Viruses; Caudoviricetes", "Viruses; Riboviria"] * 10 + ["Bacteria"] * 20
    return table_of(genomes, lineage=taxa, organism=[f"Thing {number}" for number in range(40)])


def test_a_clade_is_held_out_whole_and_the_other_class_by_genome():
    table = lineages()
    assign(table, SplitSettings(unit="lineage", clade="caudoviricetes", test_fraction=0.2, val_fraction=0.2))
    phages = table["lineage"].str.contains("Caudo")
    assert set(table.loc[phages, "part"]) == {"test"}
    assert set(table.loc[~phages & (table["label"] == 1), "part"]) == {"train", "val"}
    bacteria = table[table["label"] == 0]["part"].value_counts()
    assert bacteria.to_dict() == {"train": 36, "test": 12, "val": 12}
    with pytest.raises(UsageError, match="did you mean riboviria"):
        assign(lineages(), SplitSettings(unit="lineage", clade="Ribovira"))


def test_everything_after_a_date_is_held_out():
    table, dates = lineages(), {f"g{number}": f"20{number % 20 + 5:02d}-06-01" for number in range(40)}
    assign(table, SplitSettings(unit="lineage", after="2020-06-01"), dates)
    late = table["genome"].map(dates).fillna("") > "2020-06-01"
    assert (late == (table["part"] == "test")).all()
    with pytest.raises(UsageError, match="the last genome was deposited on 2024-06-01"):
        assign(lineages(), SplitSettings(unit="lineage", after="2030-01-01"), dates)
    with pytest.raises(UsageError, match="none of the genomes has a date"):
        assign(lineages(), SplitSettings(unit="lineage", after="2020-01-01"), {})


@pytest.mark.parametrize(
    "wrong", [{"unit": "lineage"}, {"clade": "X"}, {"unit": "lineage", "clade": "X", "after": "2020-01-01"}]
)
def test_a_clade_or_a_date_goes_with_unit_lineage(wrong):
    with pytest.raises(UsageError, match="--unit lineage goes with"):
        SplitSettings(**wrong)
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        SplitSettings(unit="lineage", after="June 2020")


files = st.lists(st.integers(1, 6), min_size=6, max_size=15)


@given(folders=files, straddling=st.sampled_from(["drop", "keep"]), seed=st.integers(0, 20))
@settings(max_examples=40)
def test_files_are_spread_over_folders_and_nothing_is_lost(folders, straddling, seed):
    """Each folder gives one file before any gives a second; frames of genomes on both sides leave training."""
    counts = {"viral": [20], "bacteria": folders}
    rows = []
    for group, sizes in counts.items():
        names = [f"{group}.{folder}.1_merged/{n}.pt" for folder, size in enumerate(sizes) for n in range(size)]
        for number, file in enumerate(names):  # every file shares a genome with the one before
            genomes = [f"{group}{number}"] * 8 + [f"{group}{max(number - 1, 0)}"] * 2
            rows += [
                {"frame_id": f"{file}{n}", "genome": g, "group": group, "file": file} for n, g in enumerate(genomes)
            ]
    table = pd.DataFrame(rows)
    table["label"] = (table["group"] == "viral").astype(int)
    chosen = SplitSettings(unit="file", straddling=straddling, seed=seed, test_fraction=0.2, val_fraction=0.2)
    before = len(table)
    assign(table, chosen)
    assert len(table) == before == table["part"].isin(["train", "val", "test", LEFT_OUT]).sum()
    bacteria = table[table["group"] == "bacteria"]
    tested = bacteria.loc[bacteria["part"] == "test", "file"].drop_duplicates()
    assert len(tested) == max(1, round(0.2 * sum(folders) - 1e-9))
    per_folder = tested.str.rpartition("/")[0].value_counts()
    files_left = {f"bacteria.{folder}.1_merged": size for folder, size in enumerate(folders)}
    for folder, size in files_left.items():  # no folder has two while another with files has none
        assert per_folder.get(folder, 0) >= min(per_folder.max() - 1, size)
    parts = table[table["part"] != LEFT_OUT].groupby("genome")["part"].nunique()
    if straddling == "drop":
        assert parts.max() == 1
        rank = {"train": 0, "val": 1, "test": 2, LEFT_OUT: -1}
        for _, genome in table.groupby("genome"):  # frames left out are never of the part closest to testing
            assert genome["part"].map(rank).max() >= 0
    else:
        assert LEFT_OUT not in set(table["part"])
        assert parts.max() > 1
