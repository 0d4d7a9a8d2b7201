import hashlib

import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc.errors import DataError, UsageError
from virnuc.features.shards import write_shard
from virnuc.sequences.frames import read_chunks, uncovered_shards
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import Split, assign, assignment_digest, split


def run(source, out, **changes) -> Split:
    return split(SplitSettings(source=str(source), out=str(out), **changes))


@pytest.fixture(scope="module")
def default(frames, tmp_path_factory) -> Split:
    return run(frames, tmp_path_factory.mktemp("split") / "split")


def test_no_genome_is_in_two_parts(default):
    assert default.table.groupby("genome")["part"].nunique().max() == 1
    assert default.metadata["test_frames_sharing_a_genome_with_training"] == 0


def test_parts_have_their_shares_and_both_classes(default):
    shares = default.table["part"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.1, abs=0.02)
    assert shares["val"] == pytest.approx(0.1, abs=0.02)
    assert default.table.groupby("part")["label"].nunique().to_dict() == {"test": 2, "train": 2, "val": 2}
    viral = default.table[default.table["group"] == "viral"]["part"].value_counts(normalize=True)
    assert viral["test"] == pytest.approx(0.1, abs=0.01)


def test_the_same_seed_gives_the_same_split_and_another_seed_another(frames, default, tmp_path):
    again = run(frames, tmp_path / "again")
    other = run(frames, tmp_path / "other", seed=7)
    assert again.digest == default.digest != other.digest


def test_metadata_tells_files_distributions_and_coverage(frames, default):
    metadata = default.metadata
    test = default.table[default.table["part"] == "test"]
    assert sum(metadata["test_files"].values()) == len(test)
    assert sum(metadata["train_files"].values()) == len(default.table) - len(test)
    genomes = pd.read_parquet(frames / "genomes.parquet")
    tested = genomes[genomes["genome"].isin(test["genome"])]
    assert metadata["coverage"]["chunks"] == tested["chunks"].sum()
    assert metadata["coverage"]["covered"] == tested["covered"].sum()
    groups = metadata["distributions"]["group"]
    naive = test["group"].value_counts(normalize=True)
    assert groups["test"]["viral"] == pytest.approx(naive["viral"], abs=1e-6)
    rest = default.table[default.table["part"] != "test"]["group"].value_counts(normalize=True)
    distance = sum(abs(naive.get(name, 0) - rest.get(name, 0)) for name in rest.index.union(naive.index)) / 2
    assert groups["total_variation"] == pytest.approx(distance, abs=1e-6)
    assert 0 < metadata["distributions"]["gc"]["kolmogorov_smirnov"] < 1


def test_chunks_without_a_frame_follow_their_genomes(frames, default):
    everything = pd.concat([read_chunks(path).to_pandas() for path in uncovered_shards(frames)], ignore_index=True)
    for part in ("val", "test"):
        genomes = set(default.table.loc[default.table["part"] == part, "genome"])
        wanted = everything[everything["genome"].isin(genomes)].reset_index(drop=True)
        pd.testing.assert_frame_equal(default.uncovered(part), wanted)
    coverage = default.metadata["coverage"]
    assert coverage["no_open_frame"] + coverage["no_cds_evidence"] == len(default.uncovered("test")) > 1000
    assert coverage["chunks"] == len(default.uncovered("test")) + coverage["covered"] + coverage["ambiguous_bases"]


def test_a_split_without_such_chunks_says_why(frames, tmp_path):
    with pytest.raises(DataError, match="it has unit frame"):
        run(frames, tmp_path / "frame", unit="frame").uncovered("test")
    for label, group in ((1, "viral"), (0, "bacteria")):
        ids = [f"{group}{row // 5}.1_chunk_{row}F1" for row in range(100)]
        write_shard(
            tmp_path / "features" / f"{group}_merged" / "output_1_merged.pt", ids, torch.zeros(100, 2048), label
        )
    with pytest.raises(DataError, match="it was made from features"):
        run(tmp_path / "features", tmp_path / "genome").uncovered("test")


def test_test_frames_lie_apart_as_fasta(default):
    for label, name in ((1, "viral"), (0, "non_viral")):
        ids = default.table[(default.table["part"] == "test") & (default.table["label"] == label)]["frame_id"]
        for suffix in ("fna", "faa"):
            lines = (default.directory / name / f"frames.{suffix}").read_text().splitlines()
            assert lines[::2] == [f">{frame_id}" for frame_id in ids]


def test_unit_frame_leaks_and_says_so(frames, tmp_path):
    leaking = run(frames, tmp_path / "leaking", unit="frame")
    assert leaking.metadata["test_frames_sharing_a_genome_with_training"] > 1000


def test_a_finished_split_is_reused_and_other_parameters_are_refused(frames, default):
    assert run(frames, default.directory).digest == default.digest
    with pytest.raises(DataError, match="seed=42, not 7"):
        run(frames, default.directory, seed=7)


def test_the_digest_is_that_of_sorted_lines(default):
    table = pd.read_parquet(default.directory / "assignments.parquet")
    lines = sorted(f"{frame_id}\t{part}" for frame_id, part in zip(table["frame_id"], table["part"], strict=True))
    assert default.digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    odd = pd.DataFrame({"frame_id": ["b", "ä", "a\t", "a", "\U0001f9a0", "\uffff"], "part": list("xyzxyz")})
    lines = sorted(f"{frame_id}\t{part}" for frame_id, part in zip(odd["frame_id"], odd["part"], strict=True))
    assert assignment_digest(pa.Table.from_pandas(odd)) == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_frames_of_a_part_are_rows_of_the_written_table(default):
    table = pd.read_parquet(default.directory / "assignments.parquet")
    for part in ("train", "val", "test"):
        pd.testing.assert_frame_equal(default.frames(part), table[table["part"] == part].reset_index(drop=True))


def test_a_changed_assignment_is_noticed(frames, tmp_path):
    done = run(frames, tmp_path / "split")
    table = pd.read_parquet(done.directory / "assignments.parquet")
    table.loc[0, "part"] = "test"
    table.to_parquet(done.directory / "assignments.parquet")
    with pytest.raises(DataError, match="changed since it was written"):
        Split.open(done.directory)


def test_fractions_that_leave_a_part_empty(frames, tmp_path):
    with pytest.raises(UsageError, match="leave the test part without"):
        run(frames, tmp_path / "empty", test_fraction=0.00001)
    with pytest.raises(UsageError, match="leave nothing to train on"):
        run(frames, tmp_path / "none", test_fraction=0.5, val_fraction=0.5)


def test_virnucpros_features_are_split_by_genome_and_by_file(tmp_path):
    """Without a manifest, as VirNucPro left them; a label is in the tensor file, never in a directory's name."""
    source = tmp_path / "features"
    generator = torch.Generator().manual_seed(1)
    for group, label in (("viral", 1), ("non_viral", 0)):
        for file in range(12):
            ids = [f"{group}{file}.{row // 5}_chunk_{row}F1" for row in range(20)]
            data = torch.randn(20, 2048, generator=generator)
            write_shard(source / f"{group}_merged" / f"output_{file}_merged.pt", ids, data, label)
    by_genome = run(source, tmp_path / "genome")
    assert by_genome.table.groupby("genome")["part"].nunique().max() == 1
    assert by_genome.table.groupby("group")["label"].first().to_dict() == {"viral": 1, "non_viral": 0}
    by_file = run(source, tmp_path / "file", unit="file")
    links = sorted(path for name in ("viral", "non_viral") for path in (by_file.directory / name).iterdir())
    assert len(links) == len(by_file.metadata["test_files"]) > 1
    assert all(link.is_symlink() and link.resolve().is_file() for link in links)
    assert {path.parent.name == "viral" for path in links} == {True, False}


@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["a", "b"])), min_size=12, max_size=40),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_each_group_comes_as_near_to_its_share_as_its_units_let_it(sizes, seed):
    rows = [
        {"frame_id": f"{unit}_{row}", "genome": str(unit), "group": group, "label": int(group == "a"), "file": "x"}
        for unit, (size, group) in enumerate(sizes)
        for row in range(size)
    ]
    table = pd.DataFrame(rows)
    try:
        assign(table, SplitSettings(test_fraction=0.25, val_fraction=0.25, seed=seed))
    except UsageError:
        return  # too few units for three parts of both classes, and said so
    assert table.groupby("genome")["part"].nunique().max() == 1
    for _, group in table.groupby("group"):
        largest = group["genome"].value_counts().max()
        assert abs((group["part"] == "test").sum() - 0.25 * len(group)) <= largest
