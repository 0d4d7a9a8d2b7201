"""Frames that were changed since they were written are refused by every stage that reads them."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shared.extraction import settings
from virnuc.benchmarking import benchmark
from virnuc.errors import DataError
from virnuc.features.extraction import extract
from virnuc.sequences.frames import FRAME_SCHEMA
from virnuc.sequences.sampling import sample_frames
from virnuc.settings import BenchmarkSettings, SplitSettings
from virnuc.splits.assignment import split


def reverse(directory):
    _change(directory / "viral-00000.parquet", "nucleotide", lambda value: value[::-1])


def flip(directory):
    _change(directory / "viral-00000.parquet", "label", lambda value: 1 - value)


def exchange(directory):
    one, other = directory / "viral-00000.parquet", directory / "bacteria-00000.parquet"
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def _change(path, column, change):
    table = pq.read_table(path)
    place, values = table.column_names.index(column), [change(value) for value in table[column].to_pylist()]
    pq.write_table(table.set_column(place, FRAME_SCHEMA.field(column), pa.array(values, table[column].type)), path)


@pytest.mark.parametrize("damage", [reverse, flip, exchange])
def test_no_stage_reads_frames_that_differ_from_their_manifest(frames, tmp_path, damage):
    source = shutil.copytree(frames, tmp_path / "frames")
    damage(source)
    stages = [
        lambda: extract(settings(source, tmp_path / "features", protein_encoder="dipeptide")),
        lambda: split(SplitSettings(source=str(source), out=str(tmp_path / "split"))),
        lambda: benchmark(BenchmarkSettings(frames=str(source), baseline="dipeptide", candidate="dipeptide")),
        lambda: sample_frames(source, tmp_path / "sample", 4, seed=0),
    ]
    for stage in stages:
        with pytest.raises(DataError, match="changed since it was written"):
            stage()
