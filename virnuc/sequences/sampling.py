"""A few frames of a finished directory, as a small directory of their own: enough to rehearse an experiment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.errors import UsageError
from virnuc.sequences.frames import FRAME_SCHEMA, GENOMES, frame_shards, read_frames
from virnuc.storage.directory import OutputDirectory
from virnuc.storage.draws import draw
from virnuc.storage.files import atomic_path
from virnuc.storage.manifest import Manifest, verified_manifest
from virnuc.storage.parquet import read_table


def sample_frames(source: Path, out: Path, rows: int, seed: int) -> Manifest:
    """Write `rows` frames of `source` to `out`, half of them viral, as many genomes as possible.

    Raises:
        UsageError: `source` has fewer frames of one class.
    """
    whole = verified_manifest(source, "frames")
    parameters = {**whole.parameters, "sample_rows": rows, "sample_seed": seed}
    output = OutputDirectory(out, "frames", parameters, {"frames": whole.digest})
    with output.alone() as finished:
        if finished is not None:
            return finished
        table = pd.concat([read_frames(path).to_pandas() for path in frame_shards(source)], ignore_index=True)
        drawn = _draw(table, rows, seed)
        genomes = read_table(source / GENOMES, "run prepare again").to_pandas()
        shards = [(f"{group}-00000.parquet", frames) for group, frames in drawn.groupby("group", sort=True)]
        for name, frames in shards:
            with atomic_path(out / name) as temporary:
                pq.write_table(pa.Table.from_pandas(frames, schema=FRAME_SCHEMA, preserve_index=False), temporary)
        with atomic_path(out / GENOMES) as temporary:
            genomes[genomes["record"].isin(drawn["record"])].to_parquet(temporary, index=False)
        counts = {"in": {"frames": len(table)}, "out": {"frames": rows}, "dropped": {"sample": len(table) - rows}}
        written = {name: len(part) for name, part in shards} | {GENOMES: drawn["record"].nunique()}
        return output.complete(written, counts)


def _draw(table: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Return half of the rows from each class: each genome's first frame by hash before any second one."""
    order = [draw(seed, frame_id) for frame_id in table["frame_id"]]
    table = table.assign(order=order).sort_values("order", ignore_index=True)
    table["turn"] = table.groupby("genome").cumcount()
    table = table.sort_values(["turn", "order"])
    parts = [table[table["label"] == label].head(rows // 2 + label * (rows % 2)) for label in (0, 1)]
    if sum(map(len, parts)) < rows:
        raise UsageError(f"{rows} frames were asked for, half of each class, but there are not as many")
    return pd.concat(parts).sort_index().drop(columns=["order", "turn"])
