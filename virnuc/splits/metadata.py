"""What `test_metadata.json` tells of a split: who is in which part, and how alike the two parts are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from virnuc.settings import SplitSettings

PARTS = ("train", "val", "test")
_MOST_CATEGORIES = 50  # listed by name; the distance is over all of them


def describe_split(
    table: pd.DataFrame, sequences: pd.DataFrame | None, genomes: pd.DataFrame | None, settings: SplitSettings
) -> dict[str, Any]:
    """Return the metadata of an assigned table, without its digest.

    `sequences` and `genomes` are None for features without frames; what needs them is then left out.
    """
    test = table["part"] == "test"
    parts = {"train": table[~test], "test": table[test]}  # here training includes validation
    known = set(parts["train"]["genome"])
    metadata: dict[str, Any] = {
        "seed": settings.seed,
        "unit": settings.unit,
        "test_fraction": settings.test_fraction,
        "val_fraction": settings.val_fraction,
        "frames": {part: int((table["part"] == part).sum()) for part in PARTS},
        "genomes": {part: int(table.loc[table["part"] == part, "genome"].nunique()) for part in PARTS},
        "train_files": _files(parts["train"]),
        "test_files": _files(parts["test"]),
        "test_frames_sharing_a_genome_with_training": int(parts["test"]["genome"].isin(known).sum()),
        "distributions": _distributions(table, test, sequences),
    }
    if genomes is not None:
        metadata["coverage"] = _coverage(genomes[genomes["genome"].isin(parts["test"]["genome"])])
    return metadata


def _files(part: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(count) for name, count in part["file"].value_counts().sort_index().items()}


def _distributions(table: pd.DataFrame, test: pd.Series, sequences: pd.DataFrame | None) -> dict[str, Any]:
    origin = "lineage" if table["lineage"].any() else "organism" if table["organism"].any() else None
    described = {name: _categories(table[name], test) for name in ("label", "group", origin) if name}
    if sequences is not None:
        lengths = sequences["nucleotide"].str.len()
        gc = sequences["nucleotide"].str.count("[GC]") / lengths
        described |= {"length": _numbers(lengths, test), "gc": _numbers(gc, test)}
    return described


def _categories(values: pd.Series, test: pd.Series) -> dict[str, Any]:
    """Return both parts' shares of each category and their total variation distance (0 alike, 1 apart)."""
    shares = pd.DataFrame(
        {
            "train": values[~test].value_counts(normalize=True),
            "test": values[test].value_counts(normalize=True),
        }
    ).fillna(0.0)
    shares = shares.sort_values(["train", "test"], ascending=False)
    listed = shares.head(_MOST_CATEGORIES)
    return {
        "categories": len(shares),
        "train": {str(name): round(float(share), 6) for name, share in listed["train"].items()},
        "test": {str(name): round(float(share), 6) for name, share in listed["test"].items()},
        "total_variation": round(float((shares["train"] - shares["test"]).abs().sum() / 2), 6),
    }


def _numbers(values: pd.Series, test: pd.Series) -> dict[str, Any]:
    """Return both parts' quartiles and their Kolmogorov-Smirnov distance (0 alike, 1 apart)."""
    parts = {"train": values[~test].to_numpy(dtype=float), "test": values[test].to_numpy(dtype=float)}
    quartiles = {
        name: [round(float(value), 6) for value in np.quantile(part, [0, 0.25, 0.5, 0.75, 1])]
        for name, part in parts.items()
    }
    distance = ks_2samp(parts["train"], parts["test"]).statistic
    return {**quartiles, "kolmogorov_smirnov": round(float(distance), 6)}


def _coverage(genomes: pd.DataFrame) -> dict[str, Any]:
    """Return how many chunks of the test genomes have a frame, over all and by group, and why the others have none."""
    groups = genomes.groupby("group")[["chunks", "covered"]].sum()
    counted = ("chunks", "covered", "no_open_frame", "no_cds_evidence", "ambiguous_bases")
    return {
        **{name: int(genomes[name].sum()) for name in counted},
        "by_group": {str(name): [int(row.chunks), int(row.covered)] for name, row in groups.iterrows()},
    }
