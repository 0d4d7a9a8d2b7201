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

    Whole genomes stay together by default. For any unit, what the test frames share with training is measured.
    """
    from virnuc.splits.assignment import split as split_frames

    done = split_frames(settings, begun=tracker.start)
    tracker.dataset("split", Path(settings.out), done.digest, "output")
    tracker.file(Path(settings.out) / "test_metadata.json")
    frames, genomes, leakage = (done.metadata[name] for name in ("frames", "genomes", "leakage"))
    tracker.metrics({f"split/{part}_frames": float(count) for part, count in frames.items()})
    tracker.metrics({f"split/leakage/{name}": float(count) for name, count in leakage.items() if type(count) is int})
    parts = ", ".join(f"{part} {frames[part]:,} frames of {genomes[part]:,} genomes" for part in frames)
    say(f"split      {parts} in {settings.out}")
    counted = [f"{leakage['frames_sharing_a_genome']:,} share a genome with training"]
    if "frames_with_a_similar_protein" in leakage:
        counted.append(f"{leakage['frames_with_identical_dna']:,} their DNA")
        counted.append(f"{leakage['frames_with_a_similar_protein']:,} have a similar protein there")
    say(f"split      of {frames['test']:,} test frames {', '.join(counted)} (by {leakage['method']})")
    for caveat in done.metadata["caveats"]:
        say(f"split      WARNING: {caveat}")
    return done


if __name__ == "__main__":
    split.main()
