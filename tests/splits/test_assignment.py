import hashlib
import shutil

import pandas as pd
import pyarrow as pa
import pytest
import torch

from tests.shared.samples import OTHERS, without_mmseqs, write_virnucpro
from virnuc.errors import DataError, UsageError
from virnuc.features.shards import write_shard
from virnuc.sequences.frames import GENOMES, chunk_shards, read_chunks
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import Split, assignment_digest, split


def run(source, out, **changes) -> Split:
    with without_mmseqs():  # with it: test_similarity.py, and the clusters below
        return split(SplitSettings(source=str(source), out=str(out), **changes))


@pytest.fixture(scope="module")
def default(frames, tmp_path_factory) -> Split:
    return run(frames, tmp_path_factory.mktemp("split") / "split")


@pytest.fixture(scope="module")
def small(few_frames, tmp_path_factory) -> Split:
    return run(few_frames, tmp_path_factory.mktemp("small") / "split")


@pytest.fixture(scope="module")
def leaking(frames, tmp_path_factory) -> Split:
    return run(frames, tmp_path_factory.mktemp("leaking") / "split", unit="frame")


def test_no_genome_is_in_two_parts(default):
    assert default.table.groupby("genome")["part"].nunique().max() == 1
    assert default.metadata["leakage"]["frames_sharing_a_genome"] == 0


def test_records_without_frames_are_in_the_part_of_their_genome(frames, default):
    part_of = dict(zip(default.table["genome"], default.table["part"], strict=True))
    prepared = pd.read_parquet(frames / GENOMES)
    expected = {
        record: (genome, part_of[genome])
        for record, genome in zip(prepared["record"], prepared["genome"], strict=True)
        if genome in part_of
    }
    found = default.records
    assert expected == dict(zip(found.index, zip(found["genome"], found["part"], strict=True), strict=True))
    assert len(expected) > default.table["record"].nunique()


def test_parts_have_their_shares_and_both_classes(default):
    shares = default.table["part"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.1, abs=0.02)
    assert shares["val"] == pytest.approx(0.1, abs=0.02)
    assert default.table.groupby("part")["label"].nunique().to_dict() == {"test": 2, "train": 2, "val": 2}
    viral = default.table[default.table["group"] == "viral"]["part"].value_counts(normalize=True)
    assert viral["test"] == pytest.approx(0.1, abs=0.01)


def test_the_same_seed_gives_the_same_split_and_another_seed_another(few_frames, small, tmp_path):
    again = run(few_frames, tmp_path / "again")
    other = run(few_frames, tmp_path / "other", seed=7)
    assert again.digest == small.digest != other.digest


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


def test_chunks_follow_their_genomes(frames, default):
    everything = pd.concat([read_chunks(path).to_pandas() for path in chunk_shards(frames)], ignore_index=True)
    for part in ("val", "test"):
        genomes = set(default.table.loc[default.table["part"] == part, "genome"])
        wanted = everything[everything["genome"].isin(genomes)].reset_index(drop=True)
        pd.testing.assert_frame_equal(default.chunks(part), wanted)
    coverage, reasons = default.metadata["coverage"], default.chunks("test")["reason"].value_counts()
    assert {name: coverage[name] for name in reasons.index} == reasons.to_dict()
    assert coverage["chunks"] == len(default.chunks("test")) + coverage["ambiguous_bases"] > 1000


def test_a_split_without_such_chunks_says_why(leaking, tmp_path):
    with pytest.raises(DataError, match="it has unit frame"):
        leaking.chunks("test")
    for label, group in ((1, "viral"), (0, "bacteria")):
        ids = [f"{group}{row // 5}.1_chunk_{row}F1" for row in range(100)]
        write_shard(
            tmp_path / "features" / f"{group}_merged" / "output_1_merged.pt", ids, torch.zeros(100, 2048), label
        )
    with pytest.raises(DataError, match="it was made from features"):
        run(tmp_path / "features", tmp_path / "genome").chunks("test")


def test_test_frames_lie_apart_as_fasta(default):
    for label, name in ((1, "viral"), (0, "non_viral")):
        ids = default.table[(default.table["part"] == "test") & (default.table["label"] == label)]["frame_id"]
        for suffix in ("fna", "faa"):
            lines = (default.directory / name / f"frames.{suffix}").read_text().splitlines()
            assert lines[::2] == [f">{frame_id}" for frame_id in ids]


def test_unit_frame_leaks_and_says_so(leaking):
    assert leaking.metadata["leakage"]["frames_sharing_a_genome"] > 1000
    assert "test frames share a genome with training" in " ".join(leaking.metadata["caveats"])


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


def test_a_changed_assignment_is_noticed(default, tmp_path):
    copy = shutil.copytree(default.directory, tmp_path / "split")
    table = pd.read_parquet(copy / "assignments.parquet")
    table.loc[0, "part"] = "test"
    table.to_parquet(copy / "assignments.parquet")
    with pytest.raises(DataError, match="changed since it was written"):
        Split.open(copy)


def test_fractions_that_leave_nothing_to_train_on(frames, tmp_path):
    with pytest.raises(UsageError, match="leave nothing to train on"):
        run(frames, tmp_path / "none", test_fraction=0.5, val_fraction=0.5)


def test_relatives_are_of_the_test_frames_and_of_training(default):
    relatives = default.relatives()
    assert relatives["frame_id"].tolist() == default.frame_ids("test")
    related = relatives[relatives["nearest"] != ""]
    assert len(related) == default.metadata["leakage"]["frames_with_a_similar_protein"] > 50
    trained = default.table[default.table["part"].isin(["train", "val"])].set_index("frame_id")
    assert (trained.loc[related["nearest"], "label"].to_numpy() == related["label"].to_numpy()).all()
    assert related["identity"].between(0, 1).all()


@pytest.mark.e2e
def test_a_cluster_is_never_divided(few_frames, tmp_path):
    out = str(tmp_path / "clustered")
    clustered = split(SplitSettings(source=str(few_frames), out=out, unit="cluster", identity=0.9))
    described = clustered.metadata["clusters"]
    assert clustered.table.groupby("genome")["part"].nunique().max() == 1
    assert described["clusters"] < described["genomes"] == clustered.table["genome"].nunique()
    assert clustered.metadata["leakage"]["frames_with_identical_protein"] == 0
    with pytest.raises(DataError, match=r"identity=0\.9, not 0\.5"):
        run(few_frames, tmp_path / "clustered", unit="cluster")


def test_a_table_of_genomes_joins_records_of_frames(few_frames, small, tmp_path):
    """A table joins two phages into one genome; the other records keep their own."""
    one, other = (small.table.loc[small.table["part"] == part, "record"].iloc[-1] for part in ("train", "test"))
    (tmp_path / "genomes.tsv").write_text(f"record\tgenome\tlineage\n{one}\tjoined\tMade up\n{other}\tjoined\t\n")
    joined = run(few_frames, tmp_path / "split", genomes=str(tmp_path / "genomes.tsv"))
    mine = joined.table[joined.table["record"].isin([one, other])]
    assert set(mine["genome"]) == {"joined"}
    assert mine["part"].nunique() == 1
    assert set(mine.loc[mine["record"] == one, "lineage"]) == {"Made up"}
    rest = joined.table["record"].isin([one, other])
    assert (joined.table.loc[~rest, "genome"].to_numpy() == small.table.loc[~rest, "genome"].to_numpy()).all()
    assert joined.metadata["records_by_source_of_genome"]["table"] == 2


def test_genomes_that_are_not_listed_are_for_training(few_frames, small, tmp_path):
    listed = small.table.loc[small.table["genome"].str.len() % 2 == 0, ["record", "genome"]].drop_duplicates()
    listed.iloc[::2].to_csv(tmp_path / "tested.tsv", sep="\t", index=False)
    made = run(few_frames, tmp_path / "split", test_genomes=str(tmp_path / "tested.tsv"))
    tested = set(made.table.loc[made.table["part"] != "train", "record"])
    assert tested
    assert tested <= set(listed["record"].iloc[::2])
    (tmp_path / "tested.tsv").write_text("record\tgenome\nnone\tnone\n")
    with pytest.raises(UsageError, match="lists none of the records"):
        run(few_frames, tmp_path / "another", test_genomes=str(tmp_path / "tested.tsv"))


@pytest.fixture(scope="module")
def virnucpro(tmp_path_factory):
    return write_virnucpro(tmp_path_factory.mktemp("virnucpro") / "data_merge")


def test_virnucpros_features_are_split_by_file_as_virnucpro_does(virnucpro, tmp_path):
    by_file = run(virnucpro, tmp_path / "file", unit="file")
    groups = by_file.table.groupby("group", observed=True)["label"].first().to_dict()
    assert groups == {"viral": 1} | dict.fromkeys(OTHERS, 0)
    tested = by_file.metadata["test_files"]
    folders = [name.split("/")[0] for name in tested]
    assert folders.count("viral.1.1_merged") == 10
    others = [folder for folder in folders if not folder.startswith("viral")]
    assert len(others) == len(set(others)) >= 7  # of every group, each from a folder of its own
    assert by_file.metadata["groups_without_a_test_unit"] == []
    links = [path for name in ("viral", "non_viral") for path in (by_file.directory / name).iterdir()]
    assert len(links) == len(tested)
    assert all(link.is_symlink() and link.resolve().is_file() for link in links)
    assert {path.parent.name == "viral" for path in links} == {True, False}


def test_frames_of_genomes_on_both_sides_leave_training_and_are_counted(virnucpro, tmp_path):
    dropped, kept = (run(virnucpro, tmp_path / how, unit="file", straddling=how) for how in ("drop", "keep"))
    assert len(dropped.table) == len(kept.table) == 2100
    assert (dropped.table["part"] == "left_out").sum() == dropped.metadata["left_out"] > 10
    assert sum(dropped.metadata["frames"].values()) + dropped.metadata["left_out"] == 2100
    assert dropped.metadata["leakage"]["frames_sharing_a_genome"] == 0
    assert kept.metadata["leakage"]["frames_sharing_a_genome"] > 10
    assert (dropped.table["part"] == "test").tolist() == (kept.table["part"] == "test").tolist()


def test_virnucpros_features_are_split_by_genome(virnucpro, tmp_path):
    by_genome = run(virnucpro, tmp_path / "genome")
    assert by_genome.table.groupby("genome", observed=True)["part"].nunique().max() == 1
    alone = by_genome.table["record"].nunique()
    assert f"{alone:,} records do not say which genome they belong to" in by_genome.metadata["caveats"][0]
    assert "method" in by_genome.metadata["leakage"]
    assert by_genome.relatives() is None
    with pytest.raises(DataError, match="hold no sequences to cluster"):
        run(virnucpro, tmp_path / "cluster", unit="cluster")
