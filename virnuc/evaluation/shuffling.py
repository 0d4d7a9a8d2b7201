"""The control with shuffled sequences: the test frames with their letters in random order, embedded as before.

A classifier can only use the composition of such frames; what it loses came from the order of the letters.
"""

from __future__ import annotations

from pathlib import Path

import dnaio
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.encoders import ENCODERS
from virnuc.errors import DataError
from virnuc.evaluation.controls import shuffle_sequences
from virnuc.features.extraction import extract
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import Progress
from virnuc.sequences.frames import FRAME_SCHEMA, SHARD_ROWS
from virnuc.settings import EvaluateSettings, ExtractSettings
from virnuc.splits.assignment import Split
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.files import atomic_path
from virnuc.storage.manifest import Manifest


def has_sequences(split: Split) -> bool:
    """Return whether the split keeps the test frames' sequences; one that was made from features does not."""
    return (split.directory / "viral" / "frames.fna").is_file()


def obstacle(settings: EvaluateSettings, features: FeatureSet, split: Split) -> str:
    """Return why the shuffled frames cannot be embedded, with the parameter that would help; empty if they can."""
    if not settings.shuffled:
        return "not asked for"
    if not has_sequences(split):
        return "the split keeps no sequences"
    for encoder in features.encoders.values():
        name = encoder["name"]
        if "weight_digest" not in encoder:
            return f"the weights of {name} are not recorded"
        if name not in ENCODERS and name not in settings.weights:
            return f"the weights of {name} came from a directory; give it with --weights {name}=DIR"
    return ""


def embed_shuffled(settings: EvaluateSettings, features: FeatureSet, split: Split, progress: Progress) -> FeatureSet:
    """Return features of the shuffled test frames, made by the encoders of `features` below `settings.out`.

    Raises:
        DataError: an encoder has other weights here than those that made `features`.
    """
    place = Path(settings.out) / f"shuffled-{split.digest[:12]}-{settings.seed}"
    write_shuffled_frames(split, place / "frames", settings.seed)
    encoders = features.encoders
    names = {kind: str(encoder["name"]) for kind, encoder in encoders.items()}
    precisions = [str(encoder["precision"]) for encoder in encoders.values() if encoder["weights"] != "none"]
    revisions = {name: encoders[kind].get("revision") for kind, name in names.items() if name not in settings.weights}
    wanted = ExtractSettings(
        frames=str(place / "frames"),
        dna_encoder=names["dna"],
        protein_encoder=names["protein"],
        precision=precisions[0] if precisions else "fp32",
        device=settings.device,
        weights=settings.weights,
        revisions={name: revision for name, revision in revisions.items() if revision},
        out=str(place / "features"),
    )
    extract(wanted, progress)
    shuffled = FeatureSet.open(place / "features" / "+".join(names.values()))
    for kind, encoder in encoders.items():
        if shuffled.encoders[kind]["weight_digest"] != encoder["weight_digest"]:
            raise DataError(f"{encoder['name']} has other weights here than in {features.directory}; give --weights")
    return shuffled


def write_shuffled_frames(split: Split, out: Path, seed: int) -> Manifest:
    """Write the shuffled test frames of a split to `out`, or return what is there already.

    Raises:
        DataError: the split's sequences and its assignments do not name the same frames.
    """
    parameters = {"shuffle_seed": seed, "chunk_size": int(split.table["length"].max())}
    output = OutputDirectory(out, "frames", parameters, {"split": split.digest})
    with output.alone() as finished:
        if finished is not None:
            return finished
        shuffled = shuffle_sequences(_test_frames(split), seed)
        written = {}
        for group, frames in shuffled.groupby("group", sort=True):
            for first in range(0, len(frames), SHARD_ROWS):
                part = frames.iloc[first : first + SHARD_ROWS]
                name = f"{group}-{first // SHARD_ROWS:05d}.parquet"
                with atomic_path(out / name) as temporary:
                    pq.write_table(pa.Table.from_pandas(part, schema=FRAME_SCHEMA, preserve_index=False), temporary)
                written[name] = len(part)
        counts = {"in": {"frames": len(shuffled)}, "out": {"frames": len(shuffled)}, "dropped": {}}
        return output.complete(written, counts)


def _test_frames(split: Split) -> pd.DataFrame:
    """Return the test frames with the columns of frames; where a chunk starts is not known here."""
    table = split.frames("test").drop(columns=["length", "part"])
    for column, suffix in (("nucleotide", "fna"), ("protein", "faa")):
        sequences: dict[str, str] = {}
        for name in ("viral", "non_viral"):
            with dnaio.open(split.directory / name / f"frames.{suffix}", fileformat="fasta") as records:
                sequences |= {record.name: record.sequence for record in records}
        table[column] = table["frame_id"].map(sequences)
        if len(sequences) != len(table) or table[column].isna().any():
            raise DataError(f"{split.directory}: its FASTA files do not hold the test frames; run split again")
    ids = table["frame_id"].str.extract(r"_chunk_(?P<index>\d+)(?P<strand>[FR])(?P<offset>[123])$")
    table["chunk_index"] = ids["index"].astype("int32")
    table["chunk_start"] = pd.array([None] * len(table), dtype="Int64")
    table["strand"] = ids["strand"].map({"F": "+", "R": "-"})
    table["offset"] = ids["offset"].astype("int8") - 1
    return table
