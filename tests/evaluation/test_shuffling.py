from pathlib import Path

from tests.shared.samples import without_mmseqs
from virnuc.evaluation.shuffling import has_sequences, write_shuffled_frames
from virnuc.sequences.frames import frame_shards, read_frames
from virnuc.settings import SplitSettings
from virnuc.splits.assignment import split


def test_shuffled_frames_are_the_test_frames_with_their_letters_in_another_order(few_frames, tmp_path):
    with without_mmseqs():
        done = split(SplitSettings(source=str(few_frames), out=str(tmp_path / "split")))
    assert has_sequences(done)
    manifest = write_shuffled_frames(done, tmp_path / "shuffled", seed=1)
    assert write_shuffled_frames(done, tmp_path / "shuffled", seed=1).digest == manifest.digest
    shuffled = {row["frame_id"]: row for path in frame_shards(tmp_path / "shuffled") for row in rows(path)}
    originals = {row["frame_id"]: row for path in frame_shards(few_frames) for row in rows(path)}
    assert sorted(shuffled) == sorted(done.frame_ids("test"))
    changed = 0
    for frame_id, row in shuffled.items():
        original = originals[frame_id]
        for column in ("nucleotide", "protein"):
            assert sorted(row[column]) == sorted(original[column])
            changed += row[column] != original[column]
        for column in ("genome", "group", "label", "chunk_index", "strand", "offset"):
            assert row[column] == original[column]
    assert changed > 1.9 * len(shuffled)


def rows(path: Path) -> list[dict]:
    return read_frames(path).to_pylist()
