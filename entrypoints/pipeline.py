"""`pipeline`: genomes to verdict, each stage a child run of one parent run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.command import stage
from entrypoints.experiment import Experiment
from entrypoints.prepare import prepare
from virnuc.errors import DataError
from virnuc.settings import PipelineSettings, PrepareSettings

if TYPE_CHECKING:
    from virnuc.tracking import Tracker

_OUT = "--out"


@stage(PipelineSettings)
def pipeline(settings: PipelineSettings, tracker: Tracker) -> dict[str, Any]:
    """Run all stages: prepare, split, extract, train, evaluate, benchmark, compare and, with --promote yes, promote.

    What is finished is reused, so a stopped pipeline resumes where it was. Exit code 3 means that the gate said no.
    """
    return run_experiment(settings, tracker)


def run_experiment(settings: PipelineSettings, tracker: Tracker) -> dict[str, Any]:
    """Run all stages; return the verdict document.

    Raises:
        GateRefusal: the candidate may not replace the baseline.
    """
    check_inputs(settings)
    experiment = Experiment(settings, tracker)
    tracker.rename(f"{settings.candidate} vs {settings.baseline}, {settings.chunk_size} bp, {settings.unit}")
    try:
        prepare.run(settings.of_stage(PrepareSettings, source=settings.source, out=experiment.place("frames")))
        models = experiment.models()
        return experiment.judge(models, experiment.timed())
    except DataError as error:
        if _OUT not in str(error):
            raise
        raise DataError(str(error).replace(_OUT, "--experiment")) from error  # where the stages' --out lies


def check_inputs(settings: PipelineSettings) -> None:
    """Raise a UsageError for mistakes that would otherwise be found hours later, by a late stage."""
    from model_registry.gate import Policy
    from virnuc.encoders import check_encoders
    from virnuc.runtime import choose_device
    from virnuc.sequences.sources import find_sources

    find_sources(Path(settings.source))
    encoders = {settings.dna_encoder: "dna", settings.baseline: "protein", settings.candidate: "protein"}
    choose_device(settings.device)
    check_encoders(encoders, settings.weights, settings.revisions)
    Policy.read(Path(settings.policy))


if __name__ == "__main__":
    pipeline.main()
