"""`download`: a RefSeq release to files, and encoders to the hub's cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import DownloadSettings

if TYPE_CHECKING:
    from virnuc.tracking import Tracker


@stage(DownloadSettings)
def download(settings: DownloadSettings, tracker: Tracker) -> None:
    """Fetch RefSeq files, a seeded sample of each division, and the weights of encoders.

    A stopped download resumes where it was; every file is checked against the release's MD5. Encoders go to the
    hub's cache at their pinned revisions, where all other stages find them.
    """
    from entrypoints.progress import bars
    from virnuc.sequences.downloading import download as download_files

    if settings.encoders:
        from virnuc.encoders.table import fetch_encoder, find_encoder  # which import torch
    for name in settings.encoders:
        find_encoder(name)
    if settings.divisions:
        manifest = download_files(settings, bars("file", begun=tracker.start))
        tracker.dataset("refseq", Path(settings.out), manifest.digest, "output")
        fetched = manifest.counts["out"]
        say(
            f"download   {fetched['files']:,} of {manifest.counts['in']['files']:,} files of RefSeq release "
            f"{manifest.details['release']}, {fetched['bytes'] / 1e9:.1f} GB, in {settings.out}"
        )
    for name in settings.encoders:
        say(f"download   {name}: {fetch_encoder(name, settings.revisions)}")


if __name__ == "__main__":
    download.main()
