"""What the test part shares with training: measured, not inferred from the unit.

Training here means everything that a training uses: the training and the validation part. A table in the split's
directory has the most similar training protein of every test frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from virnuc.splits.similarity import E_VALUE, MMSEQS2, method, nearest_proteins

RELATIVES = "relatives.parquet"
_EXAMPLES = 5


def measure_leakage(table: pd.DataFrame, sequences: pd.DataFrame | None) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """Return what test frames share with training, and the most similar training frame of each test frame.

    Args:
        table: an assigned table of frames.
        sequences: `nucleotide` and `protein` of each row; None for features, where only genomes can be compared.

    Returns:
        The counts for the metadata, and a table of `frame_id`, `nearest` (frame id, empty without one), `identity`
        (0 to 1, 0 without one), `label` (of the nearest, -1 without one) and `method`, a row for each test frame.
    """
    test, training = table[table["part"] == "test"], table[table["part"].isin(["train", "val"])]
    measured: dict[str, Any] = {
        "test_frames": len(test),
        "frames_sharing_a_genome": int(test["genome"].isin(set(training["genome"])).sum()),
    }
    if sequences is None:
        return measured | {"method": "none: features hold no sequences"}, None
    for name, column in (("dna", "nucleotide"), ("protein", "protein")):
        known = set(sequences.loc[training.index, column].to_numpy(object))  # far faster than pandas' own `isin`
        tested = sequences.loc[test.index, column].to_numpy(object)
        measured[f"frames_with_identical_{name}"] = sum(letters in known for letters in tested)
    relatives = _relatives(test, training, sequences["protein"])
    related = relatives[relatives["nearest"] != ""]
    return measured | {
        "frames_with_a_similar_protein": len(related),
        "method": method(),
        "parameters": {"e_value": E_VALUE} if method() == MMSEQS2 else {},
        "examples": _examples(related, table),
    }, relatives


def _relatives(test: pd.DataFrame, training: pd.DataFrame, proteins: pd.Series) -> pd.DataFrame:
    found = nearest_proteins(proteins[test.index].tolist(), proteins[training.index].tolist())
    relatives = pd.DataFrame({"frame_id": test["frame_id"].to_numpy(), "nearest": "", "identity": 0.0, "label": -1})
    nearest = training.iloc[found["target"].to_numpy()]
    rows = found["query"].to_numpy()
    for name, values in (("nearest", nearest["frame_id"]), ("label", nearest["label"])):
        relatives.loc[rows, name] = values.to_numpy()
    relatives.loc[rows, "identity"] = found["identity"].to_numpy()
    return relatives.astype({"label": np.int8}).assign(method=method())


def _examples(related: pd.DataFrame, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the test frames with the nearest relatives, each with the organisms of both."""
    chosen = related.sort_values(["identity", "frame_id"], ascending=[False, True]).head(_EXAMPLES)
    names = [*chosen["frame_id"], *chosen["nearest"]]
    organisms = table[table["frame_id"].isin(names)].set_index("frame_id")["organism"]
    return [
        {
            "frame_id": row.frame_id,
            "organism": organisms[row.frame_id],
            "nearest": row.nearest,
            "nearest_organism": organisms[row.nearest],
            "identity": round(float(row.identity), 4),
        }
        for row in chosen.itertuples()
    ]
