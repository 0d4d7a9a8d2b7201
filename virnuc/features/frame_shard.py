"""One shard of frames or chunks for `extract` to embed, and the names of the shards of vectors made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virnuc.sequences.frames import between_chunks, read_chunks, read_frames
from virnuc.sequences.translation import read_in_frames

COLUMNS = {"dna": "nucleotide", "protein": "protein"}


@dataclass(frozen=True)
class FrameShard:
    """One shard of frames, with the paths of its vectors."""

    source: Path
    rows: int  # vectors
    readings: tuple[str, ...] = ()  # of chunks: the frames that each is read in
    shifted: bool = False  # chunks: with those halfway between neighbours

    def read(self, kind: str) -> tuple[list[str], list[int], list[str]]:
        """Return id, label and sequence (dna or protein) of each vector."""
        if not self.readings:
            table = read_frames(self.source, ["frame_id", "label", COLUMNS[kind]])
            return table["frame_id"].to_pylist(), table["label"].to_pylist(), table[COLUMNS[kind]].to_pylist()
        table = read_chunks(self.source)
        chunks = table.to_pylist() + (between_chunks(table).to_pylist() if self.shifted else [])
        ids = [f"{chunk['chunk_id']}{name}" for chunk in chunks for name in self.readings]
        labels = [chunk["label"] for chunk in chunks for _ in self.readings]
        return ids, labels, [dna for chunk in chunks for dna in read_in_frames(chunk["nucleotide"], self.readings)]

    @property
    def half(self) -> str:
        """Path of one encoder's vectors below that encoder's directory."""
        group, _, number = self.source.stem.rpartition("-")
        return f"{group}/output_{number}.pt"

    @property
    def merged(self) -> str:
        """Path of the merged vectors below the feature set's directory."""
        group, _, number = self.source.stem.rpartition("-")
        return f"{group}_merged/output_{number}_merged.pt"
