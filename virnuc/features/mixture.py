"""Feature sets of several chunk sizes, trained on as one.

The split was made from the first; the frames of the others go to the parts of their genomes, so that no genome
is on both sides. Frames of a genome that the split does not have are left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from virnuc.errors import DimensionError, IncompatibleCheckpointError, UsageError
from virnuc.features.feature_set import FeatureSet
from virnuc.features.shards import storage_of
from virnuc.runtime import Progress, silent
from virnuc.settings import FeatureSource
from virnuc.storage.manifest import Manifest


def mix(sets: Sequence[FeatureSet]) -> FeatureSet:
    """Join feature sets of the same encoders: the rows of the first, then those of the second, and so on.

    The same frame id may stand for chunks of different sizes; `locate` looks among the frames of the first set.

    Raises:
        DimensionError: their widths differ.
        IncompatibleCheckpointError: their encoders differ.
        UsageError: two of them have the same chunk size, or one's is not known.
    """
    first, sizes = sets[0], [features.chunk_size for features in sets]
    if 0 in sizes or len(set(sizes)) < len(sizes):
        named = ", ".join(f"{features.directory}@{size}" for features, size in zip(sets, sizes, strict=True))
        raise UsageError(f"--features {named}: a mixture needs different chunk sizes, given as DIR@BP if unrecorded")
    for features in sets[1:]:
        _check_alike(first, features)
    shards = tuple(
        replace(shard, path=f"{features.chunk_size}/{shard.path}")
        for features in sets
        for shard in features.manifest.shards
    )
    counts = {"in": {}, "out": {"frames": sum(map(len, sets))}, "dropped": {}}
    manifest = Manifest("features", {}, {}, counts, shards, first.manifest.details)
    return FeatureSet(first.directory, tuple(s for features in sets for s in features.shards), manifest, tuple(sets))


def open_features(sources: Sequence[FeatureSource], progress: Progress = silent) -> FeatureSet:
    """Open one feature set, or several as a mixture."""
    sets = []
    for source in sources:
        features = FeatureSet.open(Path(source.directory), progress)
        if source.chunk_size:
            details = features.manifest.details | {"chunk_size": source.chunk_size}
            features = replace(features, manifest=replace(features.manifest, details=details))
        sets.append(features)
    return sets[0] if len(sets) == 1 else mix(sets)


def _check_alike(first: FeatureSet, other: FeatureSet) -> None:
    if (first.dna_dim, first.protein_dim) != (other.dna_dim, other.protein_dim):
        raise DimensionError(
            f"{first.directory} has vectors of {first.dna_dim}+{first.protein_dim} values, but {other.directory} of "
            f"{other.dna_dim}+{other.protein_dim}"
        )
    stored = [storage_of(features.manifest.details) for features in (first, other)]
    if len(set(stored)) > 1:
        raise IncompatibleCheckpointError(
            f"{first.directory} holds {stored[0]} and {other.directory} holds {stored[1]}; extract one of them again"
        )
    for kind, encoder in first.encoders.items():
        for key in ("name", "weight_digest", "precision"):
            if encoder.get(key) != other.encoders[kind].get(key):
                raise IncompatibleCheckpointError(
                    f"the {kind} encoder of {first.directory} has {key} {encoder.get(key)}, but that of "
                    f"{other.directory} has {other.encoders[kind].get(key)}; a mixture needs one encoder"
                )
