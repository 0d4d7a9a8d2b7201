"""Several chunk sizes are trained together; genomes stay in their part, and each size has its own metrics."""

import numpy as np
import pytest
import torch

from tests.shared.samples import quick, sample_frames, write_features
from virnuc.errors import DataError, DimensionError, IncompatibleCheckpointError, UsageError
from virnuc.features.mixture import open_features
from virnuc.settings import FeatureSource, SplitSettings, parse_features
from virnuc.splits.assignment import split
from virnuc.training.checkpoint import load_checkpoint
from virnuc.training.data import match
from virnuc.training.run import train


@pytest.fixture
def short(tmp_path):
    """Features of shorter chunks: more frames, from the sample's genomes and from four that are not in its split."""
    ids, labels, vectors = sample_frames(genomes=64, frames=16, seed=5, apart=0.5)
    write_features(tmp_path / "short", ids, labels, vectors)
    return tmp_path / "short"


def mixture(sample, short):
    return open_features(parse_features(f"{sample.features.directory}@300,{short}@150"))


def test_one_directory_is_no_mixture(sample):
    features = open_features((FeatureSource(str(sample.features.directory)),))
    assert (features.digest, features.members) == (sample.features.digest, (features,))


def test_genomes_stay_in_their_part(sample, short):
    features = mixture(sample, short)
    parts = match(features, sample.split, "merged")
    ids = features.ids.to_pylist()
    genomes = sample.split.table.groupby("part")["genome"].unique()
    for name, part in (("train", parts.train), ("val", parts.val)):
        own = {genome: 10 + 16 for genome in genomes[name]}
        found = [ids[row].rsplit("_chunk_", 1)[0] for row in part.rows]
        assert {genome: found.count(genome) for genome in set(found)} == own
        assert part.sizes == ((300, 10 * len(own)), (150, 16 * len(own)))
        vectors, labels = part.read(np.arange(len(part)))
        assert labels.tolist() == [int(genome[3:7]) % 2 == 0 for genome in found]
        assert torch.equal(vectors, torch.cat([shard.data for shard in features.shards])[part.rows])
    assert parts.left_out == 4 * 16


def test_metrics_of_each_size(sample, short, tmp_path):
    result = train(mixture(sample, short), sample.split, quick(), tmp_path / "m")
    metrics = result.history[-1].metrics
    parts = match(mixture(sample, short), sample.split, "merged")
    vectors, labels = parts.val.read(np.arange(len(parts.val)))
    right = (load_checkpoint(result.last).build()(vectors).argmax(dim=1) == labels).double()
    counts = [count for _, count in parts.val.sizes]
    for key, some in zip(("300bp/", "150bp/"), right.split(counts), strict=True):
        assert metrics[f"val/{key}accuracy"] == pytest.approx(some.mean().item())
    assert metrics["val/accuracy"] == pytest.approx(right.mean().item())
    assert load_checkpoint(result.last).metadata["chunk_sizes"] == [300, 150]
    assert result.left_out == 64


def test_shards_change_no_bit(sample, short, tmp_path):
    ids, labels, vectors = sample_frames(genomes=64, frames=16, seed=5, apart=0.5)
    again = write_features(tmp_path / "again", ids, labels, vectors, rows=7)
    one, other = (
        load_checkpoint(train(mixture(sample, directory), sample.split, quick(), tmp_path / directory.name / "m").last)
        for directory in (short, again)
    )
    assert all(torch.equal(value, other.model_state[name]) for name, value in one.model_state.items())


def test_features_that_do_not_belong_together_are_refused(sample, short, tmp_path):
    directory = sample.features.directory
    wrong = {"{},{}": "different chunk sizes", "{}@300,{}@300": "different", "{}@300,{}@short": "chunk size in bp"}
    for text, words in wrong.items():
        with pytest.raises(UsageError, match=words):
            open_features(parse_features(text.format(directory, short)))
    ids, labels, vectors = sample_frames()
    write_features(tmp_path / "wide", ids, labels, torch.cat([vectors, vectors], dim=1))
    with pytest.raises(DimensionError, match=r"4\+8 values, but .* of 4\+20"):
        open_features(parse_features(f"{directory}@300,{tmp_path / 'wide'}@150"))
    write_features(tmp_path / "deep", ids, labels, vectors, names=("tetranucleotide", "esm2_tiny_deep"))
    with pytest.raises(IncompatibleCheckpointError, match="protein encoder"):
        open_features(parse_features(f"{directory}@300,{tmp_path / 'deep'}@150"))


def test_split_must_keep_genomes_together(sample, short, tmp_path):
    by_frame = split(SplitSettings(source=str(sample.features.directory), out=str(tmp_path / "s"), unit="frame"))
    with pytest.raises(DataError, match="needs a split that keeps genomes together"):
        train(mixture(sample, short), by_frame, quick(), tmp_path / "m")
