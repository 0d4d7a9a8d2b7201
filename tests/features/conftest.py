"""Small frames to extract features from."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shared.extraction import frame
from virnuc.sequences.frames import FRAME_SCHEMA
from virnuc.storage.manifest import Manifest, describe_shard

GROUPS = {"viral": [40, 25], "bacteria": [30], "plant": [20, 35]}


@pytest.fixture(scope="session")
def frames(tmp_path_factory):
    """Five small shards of frames, proteins of 5 to 60 residues and one of 1,100."""
    directory = tmp_path_factory.mktemp("small_frames")
    generator = random.Random(0)
    paths = []
    for group, sizes in GROUPS.items():
        for number, size in enumerate(sizes):
            rows = [frame(group, number, row, generator) for row in range(size)]
            paths.append(directory / f"{group}-{number:05d}.parquet")
            pq.write_table(pa.Table.from_pylist(rows, schema=FRAME_SCHEMA), paths[-1])
    shards = tuple(describe_shard(directory, path, pq.read_metadata(path).num_rows) for path in paths)
    Manifest("frames", {"chunk_size": 300}, {}, {}, shards).write(directory)
    return directory
