"""`extract`: frames to features."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import ExtractSettings

if TYPE_CHECKING:
    from virnuc.storage.manifest import Manifest
    from virnuc.tracking import Tracker


@stage(ExtractSettings)
def extract(settings: ExtractSettings, tracker: Tracker) -> Manifest:
    """Embed every frame: its DNA with one encoder, its protein with another, and join the two vectors.

    Finished shards are skipped, so a stopped extraction can resume, and several processes can share the work: one for
    each GPU, or --workers of them on a CPU. Each encoder's vectors are computed once and shared by all feature sets.
    With --frames FRAMES/chunks the DNA of all chunks is embedded, both strands, for a companion.
    """
    from entrypoints.progress import bars
    from virnuc.features.workers import extract_together
    from virnuc.storage.manifest import read_manifest

    frames = read_manifest(Path(settings.frames), "frames", "chunks")
    begun = cache(partial(tracker.dataset, "frames", Path(settings.frames), frames.digest, "input"))  # at most one call
    manifest = extract_together(settings, bars("frame", begun=begun))
    begun()  # there was no progress if everything was finished
    out = Path(settings.out) / f"{manifest.details['dna']['name']}+{manifest.details['protein']['name']}"
    tracker.dataset("features", out, manifest.digest, "output")
    encoders = {kind: manifest.details[kind] for kind in ("dna", "protein")}
    for kind, facts in encoders.items():
        tracker.parameters({f"{kind}/{key}": str(value)[:500] for key, value in facts.items()})
    tracker.weights(encoders)
    tracker.tags({"encoders": out.name})
    dims = f"{manifest.details['dna_dim']} + {manifest.details['protein_dim']}"
    random = [encoder["name"] for encoder in encoders.values() if encoder["weights"] == "random"]
    say(f"extract    {manifest.rows:,} vectors of {dims} values in {out}")
    if random:
        say(f"extract    WARNING: random weights in {', '.join(random)}: for timing only, accuracies are meaningless")
    return manifest


if __name__ == "__main__":
    extract.main()
