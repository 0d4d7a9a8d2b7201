"""A feature set is opened only if all its files match, and rows are read as they were written."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.shared.samples import DNA_DIM, sample_frames, write_features
from virnuc.errors import DataError, DimensionError, UsageError
from virnuc.features.feature_set import FeatureSet
from virnuc.features.shards import read_shard, write_shard
from virnuc.storage.manifest import read_manifest


@pytest.fixture
def sample(tmp_path):
    ids, labels, vectors = sample_frames()
    return write_features(tmp_path / "features", ids, labels, vectors), ids, labels, vectors


def shard_paths(directory):
    return sorted(directory.rglob("*.pt"))


@pytest.mark.parametrize("manifest", [True, False])
def test_rows_come_out_as_they_went_in(tmp_path, manifest):
    ids, labels, vectors = sample_frames()
    features = FeatureSet.open(write_features(tmp_path, ids, labels, vectors, rows=7, manifest=manifest))
    shuffled = np.random.default_rng(1).permutation(len(ids))
    rows = features.locate([ids[i] for i in shuffled])
    assert torch.equal(features.gather(rows), vectors[shuffled])
    assert torch.equal(features.gather(rows, slice(2, 5)), vectors[shuffled, 2:5])
    assert features.labels[rows].tolist() == labels[shuffled].tolist()
    assert features.ids.to_pylist() == [i for shard in features.shards for i in shard.ids]
    assert len(features) == len(ids)


def test_repeated_and_no_rows(sample):
    features = FeatureSet.open(sample[0])
    first = features.shards[0].data
    assert torch.equal(features.gather(np.array([3, 0, 3])), first[[3, 0, 3]])
    assert features.gather(np.array([], dtype=np.int64)).shape == (0, features.dimension)


def test_modalities_are_the_two_halves(sample):
    features = FeatureSet.open(sample[0])
    assert features.columns("dna") == slice(0, DNA_DIM)
    assert features.columns("protein") == slice(DNA_DIM, features.dimension)
    assert features.columns("merged") == slice(0, features.dimension)


@pytest.mark.parametrize(("width", "protein"), [(2048, "fastesm650"), (3328, "esm2_3b")])
def test_virnucpro_directory_is_taken_as_it_is(tmp_path, width, protein):
    ids, labels, _ = sample_frames(genomes=4, frames=3)
    write_features(tmp_path, ids, labels, torch.randn(len(ids), width), rows=1, manifest=False)
    before = {path: path.read_bytes() for path in shard_paths(tmp_path)}
    features = FeatureSet.open(tmp_path)
    assert (features.dna_dim, features.protein_dim) == (768, width - 768)
    assert (features.encoders["dna"]["name"], features.encoders["protein"]["name"]) == ("dnabert_s", protein)
    assert {path: path.read_bytes() for path in shard_paths(tmp_path)} == before
    assert FeatureSet.open(tmp_path).digest == features.digest


def test_label_is_the_files_not_the_directorys(tmp_path):
    write_shard(tmp_path / "non_viral_merged" / "output_1_merged.pt", ["A_chunk_1F1"], torch.ones(1, 6), 0)
    write_shard(tmp_path / "host" / "output_1_merged.pt", ["B_chunk_1F1"], torch.ones(1, 6), 1)
    features = FeatureSet.open(tmp_path)
    assert dict(zip(features.ids.to_pylist(), features.labels.tolist(), strict=True)) == {
        "A_chunk_1F1": 0,
        "B_chunk_1F1": 1,
    }


def test_files_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1, 2):
        write_shard(tmp_path / f"output_{number}_merged.pt", [f"A_chunk_{number}F1"], torch.ones(1, 6), 0)
    assert [shard.path.name for shard in FeatureSet.open(tmp_path).shards] == [
        f"output_{number}_merged.pt" for number in (1, 2, 9, 10)
    ]


def test_digest_follows_content(sample):
    directory, ids, labels, vectors = sample
    digest = FeatureSet.open(directory).digest
    other = write_features(directory.parent / "other", ids, labels, vectors + 1)
    assert FeatureSet.open(other).digest != digest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_value_that_is_not_finite_is_named(tmp_path, value, manifest):
    ids, labels, vectors = sample_frames()
    vectors[ids.index("NC_0005.1_chunk_3F1"), 7] = value
    directory = write_features(tmp_path, ids, labels, vectors, rows=20, manifest=manifest)
    with pytest.raises(DataError) as caught:
        FeatureSet.open(directory)
    bad = next(path for path in shard_paths(directory) if not read_shard(path).data.isfinite().all())
    row = read_shard(bad).ids.index("NC_0005.1_chunk_3F1")
    assert f"{bad}, row {row}: {value} at column 7 (frame NC_0005.1_chunk_3F1)" in str(caught.value)


def test_nan_in_row_7123_of_the_40th_file(tmp_path):
    for number in range(1, 42):
        rows = 10_000 if number == 40 else 3
        data = torch.zeros(rows, 4)
        if number == 40:
            data[7123, 2] = float("nan")
        name = f"viral.1.1_merged/output_{number}_merged.pt"
        write_shard(tmp_path / name, [f"NC_{number}_chunk_{row + 1}F1" for row in range(rows)], data, 1)
    with pytest.raises(
        DataError, match=r"output_40_merged\.pt, row 7123: nan at column 2 \(frame NC_40_chunk_7124F1\)"
    ):
        FeatureSet.open(tmp_path)


def test_a_flipped_bit_under_the_old_time_is_found_after_the_set_was_opened_once(sample):
    FeatureSet.open(sample[0])
    path = shard_paths(sample[0])[1]
    times, content = path.stat(), bytearray(path.read_bytes())
    vectors = read_shard(path).data
    place = content.index(vectors.numpy().tobytes()[:64])
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match="changed since it was written"):
        FeatureSet.open(sample[0])


def test_duplicate_id_in_two_files(tmp_path):
    write_shard(tmp_path / "a.pt", ["A_chunk_1F1", "A_chunk_2F1"], torch.ones(2, 6), 0)
    write_shard(tmp_path / "b.pt", ["B_chunk_1F1", "A_chunk_2F1"], torch.ones(2, 6), 1)
    with pytest.raises(DataError) as caught:
        FeatureSet.open(tmp_path)
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    assert str(caught.value) == f"{second}, row 1: the id A_chunk_2F1 is already that of {first}, row 1"


def test_widths_that_differ(tmp_path):
    write_shard(tmp_path / "a.pt", ["A_chunk_1F1"], torch.ones(1, 2048), 0)
    write_shard(tmp_path / "b.pt", ["B_chunk_1F1"], torch.ones(1, 3328), 1)
    with pytest.raises(DimensionError, match=r"b\.pt: vectors of 3328 values, but .*a\.pt has 2048"):
        FeatureSet.open(tmp_path)


def test_a_manifest_whose_dimensions_were_swapped_is_refused(sample):
    details = read_manifest(sample[0], "features").details
    swapped = details | {"dna_dim": details["protein_dim"], "protein_dim": details["dna_dim"]}
    replace(read_manifest(sample[0], "features"), details=swapped).write(sample[0])
    with pytest.raises(DimensionError, match="the dna encoder gives 4 values, not 8"):
        FeatureSet.open(sample[0])


def test_shard_cut_short(sample):
    path = shard_paths(sample[0])[1]
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="cut short") as caught:
        FeatureSet.open(sample[0])
    assert str(path) in str(caught.value)


def test_shard_missing(sample):
    path = shard_paths(sample[0])[1]
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        FeatureSet.open(sample[0])


def test_unfinished_extraction_is_not_taken_for_virnucpros(sample):
    (sample[0] / "manifest.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        FeatureSet.open(sample[0])


def test_no_directory_and_an_empty_one(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        FeatureSet.open(tmp_path / "nothing")
    with pytest.raises(DataError, match="empty"):
        FeatureSet.open(tmp_path)


def test_frames_that_are_missing_are_counted_and_named(sample):
    features = FeatureSet.open(sample[0])
    with pytest.raises(DataError, match=r"2 of 3 frames are missing, the first is X_chunk_1F1"):
        features.locate([sample[1][0], "X_chunk_1F1", "Y_chunk_1F1"])
