"""A small feature set with its split."""

from types import SimpleNamespace

import pytest

from tests.shared.samples import sample_frames, write_features
from virnuc.features.feature_set import FeatureSet
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """600 frames of 60 genomes, and their split: 360 for training, 120 for validation."""
    directory = tmp_path_factory.mktemp("sample")
    ids, labels, vectors = sample_frames(genomes=60)
    features = FeatureSet.open(write_features(directory / "features", ids, labels, vectors))
    parts = split(
        SplitSettings(source=str(features.directory), out=str(directory / "split"), test_fraction=0.2, val_fraction=0.2)
    )
    return SimpleNamespace(ids=ids, labels=labels, vectors=vectors, features=features, split=parts)
