"""`prepare`: genomes to frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import PrepareSettings

if TYPE_CHECKING:
    from virnuc.storage.manifest import Manifest
    from virnuc.tracking import Tracker


@stage(PrepareSettings)
def prepare(settings: PrepareSettings, tracker: Tracker) -> Manifest:
    """Cut genomes into chunks and keep the reading frames that have no stop codon.

    A finished directory is left as it is; an unfinished one is completed.
    """
    from entrypoints.progress import bars
    from virnuc.sequences.preparing import prepare as prepare_frames

    manifest = prepare_frames(settings, bars("file", begun=tracker.start))
    tracker.dataset("frames", Path(settings.out), manifest.digest, "output")
    counts = {**manifest.counts["in"], **manifest.counts["out"], **manifest.counts["dropped"]}
    counts["chunks"] = manifest.counts["in"]["chunks"]
    tracker.metrics({f"frames/{name}": float(value) for name, value in counts.items()})
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.counts["dropped"].items() if count)
    say(
        f"prepare    {manifest.counts['out']['frames']:,} frames of {counts['chunks']:,} chunks "
        f"of {counts['genomes']:,} genomes ({counts['records']:,} records) in {settings.out}; "
        f"dropped: {dropped or 'nothing'}"
    )
    if alone := manifest.details["records_by_source_of_genome"].get("record"):
        say(
            f"prepare    WARNING: {alone:,} records name no assembly, BioSample, WGS project, strain or isolate; each "
            f"counts as a genome of its own. If several belong to one genome, list them in "
            f"{Path(settings.source) / 'genomes.tsv'} (columns record, genome, organism, lineage)"
        )
    return manifest


if __name__ == "__main__":
    prepare.main()
