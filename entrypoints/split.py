"""`split`: frames or features to train, validation and test parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import SplitSettings

if TYPE_CHECKING:
    from virnuc.splits.assignment import Split
    from virnuc.tracking import Tracker


@stage(SplitSettings)
def split(settings: SplitSettings, tracker: Tracker) -> Split:
    """Decide once which frames are for training, validation and testing.

    Whole genomes stay together by default, so that no test frame comes from a genome in training.
    """
    from virnuc.splits.assignment import split as split_frames

    done = split_frames(settings)
    tracker.dataset("split", Path(settings.out), done.digest, "output")
    tracker.file(Path(settings.out) / "test_metadata.json")
    frames, genomes = done.metadata["frames"], done.metadata["genomes"]
    shared = done.metadata["test_frames_sharing_a_genome_with_training"]
    tracker.metrics({f"split/{part}_frames": float(count) for part, count in frames.items()})
    tracker.metrics({"split/test_frames_sharing_a_genome_with_training": float(shared)})
    parts = ", ".join(
        f"{part} {frames[part]:,} frames of {genomes[part]:,} genomes" for part in ("train", "val", "test")
    )
    say(f"split      {parts} in {settings.out}")
    if shared:
        say(f"split      WARNING: {shared:,} test frames share a genome with training (unit {settings.unit})")
    return done


if __name__ == "__main__":
    split.main()
