"""Runs of `prepare`, and what they wrote."""

import pandas as pd

from virnuc.sequences.frames import frame_shards, read_frames
from virnuc.sequences.preparing import prepare
from virnuc.settings import PrepareSettings


def run(source, out, **settings):
    return prepare(PrepareSettings(source=str(source), out=str(out), **settings))


def table(directory):
    return pd.concat([read_frames(path).to_pandas() for path in frame_shards(directory)], ignore_index=True)
