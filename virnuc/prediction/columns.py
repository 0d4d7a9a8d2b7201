"""The tables of a prediction by column: name, type and meaning, from which schemas and `columns.tsv` are made."""

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
    ("Prediction", _TEXT, "virus, others, or empty where there is no score"),
    ("score1", _NUMBER, "highest non-viral score of its frames, the companion's, or the mean of both (scored_by)"),
    ("score2", _NUMBER, "highest viral score of its frames, the companion's, or the mean of both"),
    ("probability", _NUMBER, "0.5 + (score2 - score1) / 2; virus from the threshold on"),
    ("status", _TEXT, "scored, no_open_frame, ambiguous or too_short"),
    (
        "scored_by",
        _TEXT,
        "frames, companion or mean, whichever suits the status; empty where there is no score",
    ),
    ("frame", _TEXT, "F1 to R3, the one with the higher of its two scores; empty if none was scored"),
    ("frames", _COUNT, "number of frames scored"),
    *_ORIGIN,
    ("chunk", _COUNT, "number of the chunk in its sequence, from 1"),
    ("start", _COUNT, "first base of the chunk, in bp from 0, on the forward strand"),
    ("end", _COUNT, "base after its last one, in bp from 0"),
)
# A row for each sequence.
SEQUENCE_COLUMNS = (
    *_ORIGIN,
    ("length", _COUNT, "bp"),
    ("call", _TEXT, "virus, contains viral regions, no virus, or empty where there is no score"),
    (
        "probability",
        _NUMBER,
        "viral probability of the whole sequence: of the mean log-odds over its chunks with a score",
    ),
    ("label", _TEXT, "what this probability says: virus, others, or empty where there is no score"),
    ("regions", _COUNT, "number of viral regions, listed in regions.tsv"),
    ("viral_bases", _COUNT, "bp inside them"),
    ("note", _TEXT, "why to trust the call less; usually empty"),
    ("status", _TEXT, "the first of scored, no_open_frame, ambiguous, too_short that any of its chunks has"),
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
    ("probability", _NUMBER, "viral probability of the region: of the mean log-odds over its chunks with a score"),
    ("evidence", _NUMBER, "sum of its chunks' log-odds over the threshold's; the limit is --region-evidence"),
    ("chunks", _COUNT, "number of its chunks"),
)
# As VirNucPro writes them: chunks that have an open frame, by its rule, whatever the threshold.
FRAME_COLUMNS = (
    ("Sequence_ID", _TEXT, "name of the sequence, _chunk_, number of the chunk, frame (F1 to R3)"),
    ("Prediction", _TEXT, "virus where score2 is the higher score, else others"),
    ("score1", _NUMBER, "non-viral score of the frame"),
    ("score2", _NUMBER, "viral score of the frame"),
)
HIGHEST_COLUMNS = (
    ("Modified_ID", _TEXT, "name of the sequence, _chunk_, number of the chunk"),
    ("Is_Virus", _TEXT, "True where the highest score2 of the chunk's frames is at least the highest score1"),
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
        ("regions.bed", "all", "BED6 without a header: start in bp from 0, end after the last base, score 0-1000")
    )
    rows.append(("viral.fna.gz", "all", "FASTA: sequences called virus whole, of others their viral regions"))
    return "".join("\t".join(row) + "\n" for row in (("file", "column", "meaning"), *rows))
