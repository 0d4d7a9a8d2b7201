"""The columns of a prediction's tables: name, type and meaning, from which schemas and `columns.tsv` are made."""

from __future__ import annotations

import pyarrow as pa

from virnuc.prediction.chunks import STATUSES

_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int64()
_ORIGIN = (
    ("record", _COUNT, "number of the sequence over all files, from 1"),
    ("sequence", _TEXT, "its name"),
    ("file", _TEXT, "its file"),
)

# A row for each chunk. The first four columns have VirNucPro's names.
CALL_COLUMNS = (
    ("Sequence_ID", _TEXT, "name of the sequence, _chunk_, number of the chunk"),
    ("Prediction", _TEXT, "virus, others, or empty if there is no score"),
    ("score1", _NUMBER, "highest non-viral score of its frames, the companion's, or the mean of both (scored_by)"),
    ("score2", _NUMBER, "highest viral score of its frames, the companion's, or the mean of both"),
    ("probability", _NUMBER, "0.5 + (score2 - score1) / 2; virus if it reaches the threshold"),
    ("status", _TEXT, "scored, no_open_frame, ambiguous or too_short"),
    (
        "scored_by",
        _TEXT,
        "frames, companion or mean: where the score comes from; empty if there is no score",
    ),
    ("frame", _TEXT, "F1 to R3: the frame with the highest score of either class; empty if none was scored"),
    ("frames", _COUNT, "number of frames scored"),
    *_ORIGIN,
    ("chunk", _COUNT, "number of the chunk in its sequence, from 1"),
    ("start", _COUNT, "first base of the chunk, counted from 0, on the forward strand"),
    ("end", _COUNT, "base after its last one, counted from 0"),
)
# A row for each sequence.
SEQUENCE_COLUMNS = (
    *_ORIGIN,
    ("length", _COUNT, "bp"),
    ("call", _TEXT, "virus, contains viral regions, no virus, or empty if there is no score"),
    (
        "probability",
        _NUMBER,
        "viral probability of the whole sequence, from the mean log-odds of its scored chunks",
    ),
    ("label", _TEXT, "virus or others, by this probability alone; empty if there is no score"),
    ("regions", _COUNT, "number of viral regions, listed in regions.tsv"),
    ("viral_bases", _COUNT, "bp inside them"),
    ("note", _TEXT, "why the call is less reliable; usually empty"),
    ("status", _TEXT, "the first of scored, no_open_frame, ambiguous, too_short that applies to any of its chunks"),
    ("chunks", _COUNT, "number of its chunks"),
    *((status, _COUNT, "number of its chunks with this status") for status in STATUSES),
    ("strongest_chunk", _COUNT, "number of the chunk with the highest viral probability"),
    ("frame", _TEXT, "frame of that chunk"),
)
# A row for each viral region.
REGION_COLUMNS = (
    ("region", _TEXT, "name of the sequence, |, start-end"),
    *_ORIGIN,
    ("start", _COUNT, "first base of the region, counted from 1"),
    ("end", _COUNT, "its last base, counted from 1"),
    ("length", _COUNT, "bp"),
    ("probability", _NUMBER, "viral probability of the region, from the mean log-odds of its scored chunks"),
    ("evidence", _NUMBER, "sum of its chunks' log-odds, each minus the threshold's; at least --region-evidence"),
    ("chunks", _COUNT, "number of its chunks"),
)
# VirNucPro's files: chunks that have an open frame, called by its rule whatever the threshold.
FRAME_COLUMNS = (
    ("Sequence_ID", _TEXT, "name of the sequence, _chunk_, number of the chunk, frame (F1 to R3)"),
    ("Prediction", _TEXT, "virus if score2 is the higher score, else others"),
    ("score1", _NUMBER, "non-viral score of the frame"),
    ("score2", _NUMBER, "viral score of the frame"),
)
HIGHEST_COLUMNS = (
    ("Modified_ID", _TEXT, "name of the sequence, _chunk_, number of the chunk"),
    ("Is_Virus", _TEXT, "True if the highest score2 of the chunk's frames is at least the highest score1"),
)


def schema(columns: tuple[tuple[str, pa.DataType, str], ...]) -> pa.Schema:
    """Return the Arrow schema of a table."""
    return pa.schema([(name, kind) for name, kind, _ in columns])


CALLS, SEQUENCES, REGIONS = schema(CALL_COLUMNS), schema(SEQUENCE_COLUMNS), schema(REGION_COLUMNS)
FRAMES_TXT, HIGHEST_CSV = "prediction_results.txt", "prediction_results_highestscore.csv"  # VirNucPro's names
_EXPLAINED = {
    "sequences.tsv, sequences.parquet": SEQUENCE_COLUMNS,
    "regions.tsv": REGION_COLUMNS,
    "calls.tsv, calls.parquet": CALL_COLUMNS,
    FRAMES_TXT: FRAME_COLUMNS,
    HIGHEST_CSV: HIGHEST_COLUMNS,
}


def explanation() -> str:
    """Return the contents of `columns.tsv`: file, column and meaning."""
    rows = [(file, name, meaning) for file, columns in _EXPLAINED.items() for name, _, meaning in columns]
    rows.append(
        ("regions.bed", "all", "BED6 without a header: start counted from 0, end after the last base, score 0-1000")
    )
    rows.append(("viral.fna.gz", "all", "FASTA: whole sequences called virus, and the viral regions of the others"))
    return "".join("\t".join(row) + "\n" for row in (("file", "column", "meaning"), *rows))
