"""The contents of `test_metadata.json`: the parts of the split, and how similar their frames are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from virnuc.settings import SplitSettings
from virnuc.splits.similarity import method
from virnuc.splits.sources import Source, parts_of_records, records_alone
from virnuc.splits.units import LEFT_OUT, PARTS

_MAX_CATEGORIES = 50  # listed by name; the distance is over all of them
_LARGE_CLUSTER = 0.1  # a cluster with a larger share of the frames is mentioned


def describe_split(source: Source, settings: SplitSettings, leakage: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of an assigned table, without its digest.

    Entries that need sequences or chunks are left out for features.
    """
    table = source.table
    test = table["part"] == "test"
    known = ~test & (table["part"] != LEFT_OUT)  # here training includes validation
    metadata: dict[str, Any] = {
        "seed": settings.seed,
        "unit": settings.unit,
        "test_fraction": settings.test_fraction,
        "val_fraction": settings.val_fraction,
        "frames": {part: int((table["part"] == part).sum()) for part in PARTS},
        "genomes": {part: int(table.loc[table["part"] == part, "genome"].nunique()) for part in PARTS},
        "left_out": int((table["part"] == LEFT_OUT).sum()),
        "train_files": _files(table[known]),
        "test_files": _files(table[test]),
        "groups_without_a_test_unit": sorted(set(table["group"]) - set(table.loc[test, "group"])),
        "records_by_source_of_genome": {name: int(count) for name, count in source.found_in.items()},
        "leakage": leakage,
        "distributions": _distributions(table[test | known], test[test | known], source.sequences),
    }
    if settings.unit == "cluster":
        metadata["clusters"] = _clusters(table, settings)
    if settings.unit == "lineage":
        metadata["held_out"] = {"clade": settings.clade} if settings.clade else {"after": settings.after}
    if source.records is not None:
        tested = parts_of_records(table, source.records) == "test"
        metadata["coverage"] = _coverage(source.records[tested])
    metadata["caveats"] = _caveats(metadata, records_alone(source))
    return metadata


def _clusters(table: pd.DataFrame, settings: SplitSettings) -> dict[str, Any]:
    """Return how the clusters were made and how large they are."""
    sizes = table["cluster"].value_counts()
    genomes = table.groupby("cluster")["genome"].nunique()
    return {
        "method": method(),
        "identity": settings.identity,
        "coverage": settings.coverage,
        "shared": settings.shared,
        "clusters": len(sizes),
        "genomes": int(genomes.sum()),
        "genomes_of_the_largest": int(genomes.max()),
        "frames_of_the_largest": int(sizes.max()),
    }


def _caveats(metadata: dict[str, Any], alone: int) -> list[str]:
    """Return the caveats of the split, a sentence each."""
    found = []
    if alone:
        found.append(
            f"{alone:,} records do not say which genome they belong to, so each counts as one, and parts of one genome "
            "may be on both sides. A table of genomes (--genomes) can correct that."
        )
    if groups := metadata["groups_without_a_test_unit"]:
        found.append(f"No test frame comes from {', '.join(groups)}: too few units there (unit {metadata['unit']}).")
    if shared := metadata["leakage"]["frames_sharing_a_genome"]:
        found.append(f"{shared:,} test frames share a genome with training; accuracies on them are too high.")
    if left := metadata["left_out"]:
        found.append(f"{left:,} frames were left out of training because their genome is also in a test file.")
    clusters, frames = metadata.get("clusters"), sum(metadata["frames"].values())
    if clusters and clusters["frames_of_the_largest"] > _LARGE_CLUSTER * frames:
        share = clusters["frames_of_the_largest"] / frames
        found.append(f"One cluster holds {share:.0%} of the frames; a higher --identity or --shared splits it.")
    return found


def _files(part: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(count) for name, count in part["file"].value_counts().sort_index().items()}


def _distributions(table: pd.DataFrame, test: pd.Series, sequences: pd.DataFrame | None) -> dict[str, Any]:
    origin = "lineage" if table["lineage"].any() else "organism" if table["organism"].any() else None
    described = {name: _categories(table[name], test) for name in ("label", "group", origin) if name}
    if sequences is not None:
        dna = sequences.loc[table.index, "nucleotide"]
        lengths, gc = dna.str.len(), dna.str.count("[GC]") / dna.str.len()
        described |= {"length": _numbers(lengths, test), "gc": _numbers(gc, test)}
    return described


def _categories(values: pd.Series, test: pd.Series) -> dict[str, Any]:
    """Return both parts' shares of each category and their total variation distance (0 identical, 1 disjoint)."""
    shares = pd.DataFrame(
        {
            "train": values[~test].value_counts(normalize=True),
            "test": values[test].value_counts(normalize=True),
        }
    ).fillna(0.0)
    shares = shares.sort_values(["train", "test"], ascending=False)
    listed = shares.head(_MAX_CATEGORIES)
    return {
        "categories": len(shares),
        "train": {str(name): round(float(share), 6) for name, share in listed["train"].items()},
        "test": {str(name): round(float(share), 6) for name, share in listed["test"].items()},
        "total_variation": round(float((shares["train"] - shares["test"]).abs().sum() / 2), 6),
    }


def _numbers(values: pd.Series, test: pd.Series) -> dict[str, Any]:
    """Return both parts' quartiles and their Kolmogorov-Smirnov distance (0 identical, 1 disjoint)."""
    from scipy.stats import ks_2samp  # takes a second to import, and trainings only read what is described here

    parts = {"train": values[~test].to_numpy(dtype=float), "test": values[test].to_numpy(dtype=float)}
    quartiles = {
        name: [round(float(value), 6) for value in np.quantile(part, [0, 0.25, 0.5, 0.75, 1])]
        for name, part in parts.items()
    }
    distance = ks_2samp(parts["train"], parts["test"]).statistic
    return {**quartiles, "kolmogorov_smirnov": round(float(distance), 6)}


def _coverage(records: pd.DataFrame) -> dict[str, Any]:
    """Return how many chunks of the test genomes have a frame, over all and by group, and why the others have none."""
    groups = records.groupby("group")[["chunks", "covered"]].sum()
    counted = ("chunks", "covered", "no_open_frame", "no_cds_evidence", "ambiguous_bases")
    return {
        **{name: int(records[name].sum()) for name in counted},
        "by_group": {str(name): [int(row.chunks), int(row.covered)] for name, row in groups.iterrows()},
    }
