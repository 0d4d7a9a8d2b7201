"""`main`: the pipeline on the embedded genomes and encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entrypoints.command import stage
from entrypoints.pipeline import run_experiment
from virnuc.settings import MainSettings

if TYPE_CHECKING:
    from virnuc.tracking import Tracker


@stage(MainSettings)
def main(settings: MainSettings, tracker: Tracker) -> dict[str, Any]:
    """Run the whole experiment on the genomes and the two small encoders that come with virnuc.

    These encoders are stand-ins: what is measured of them says nothing about the published ones.
    """
    return run_experiment(settings, tracker)


if __name__ == "__main__":
    main.main()
