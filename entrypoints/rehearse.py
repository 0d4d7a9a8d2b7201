"""`rehearse`: the real architectures with random weights on a few real frames, before days of GPU time are spent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entrypoints.benchmark import benchmark
from entrypoints.command import say, stage
from entrypoints.experiment import Experiment
from entrypoints.pipeline import check_inputs
from entrypoints.prepare import prepare
from virnuc.settings import CONTROLS, BenchmarkSettings, PipelineSettings, PrepareSettings, RehearseSettings

if TYPE_CHECKING:
    from virnuc.tracking import Tracker

EPOCHS = 3
# On a GPU few frames would time the launches alone; on a CPU a 3B model takes hours for a thousand, so a run takes 30 s
# there, and at least one batch.
TIMING: dict[str, dict[str, Any]] = {
    "cpu": {"sample": 1000, "runs": 1, "warmup": 1, "overrides": {"benchmark.seconds": "30"}},
    "cuda": {"sample": 2000, "runs": 3, "warmup": 10},
}


@stage(RehearseSettings)
def rehearse(settings: RehearseSettings, tracker: Tracker) -> dict[str, Any]:
    """Run the whole pipeline with true architectures and random weights on a few real frames.

    It shows that everything fits and estimates what the full run will take. It ends with exit code 3, because the gate
    refuses random weights: that refusal means that the rehearsal succeeded.
    """
    from virnuc.sequences.sampling import sample_frames

    pipeline = _pipeline(settings)
    check_inputs(pipeline)
    tracker.start()
    experiment = Experiment(pipeline, tracker)
    data = experiment.settings.home
    prepare.run(PrepareSettings(settings.source, settings.chunk_size, seed=settings.seed, out=str(data / "all_frames")))
    sample_frames(data / "all_frames", data / "frames", settings.rows, settings.seed)
    models = experiment.models()
    timing = replace(experiment.benchmark_settings, frames=str(data / "all_frames"))
    _estimate(settings, timing, experiment)
    return experiment.judge(models, "")


def _pipeline(settings: RehearseSettings) -> PipelineSettings:
    from virnuc.runtime import choose_device

    pipeline = PipelineSettings(
        source=settings.source,
        chunk_size=settings.chunk_size,
        test_fraction=0.25,
        val_fraction=0.25,
        dna_encoder=settings.dna_encoder,
        baseline=settings.baseline,
        candidate=settings.candidate,
        precision=settings.precision,
        device=settings.device,
        weights=dict.fromkeys((settings.dna_encoder, settings.baseline, settings.candidate), "random"),
        epochs=EPOCHS,
        seed=settings.seed,
        data=settings.data,
        experiment=settings.experiment,
        **TIMING[choose_device(settings.device).name.partition(":")[0]],
    )
    return (
        pipeline if settings.experiment else replace(pipeline, experiment=f"{pipeline.home.name}-{settings.rows}rows")
    )


def _estimate(settings: RehearseSettings, timing: BenchmarkSettings, experiment: Experiment) -> None:
    """Time the encoders and estimate what extracting the frames of the real run will take."""
    from virnuc.benchmarking import estimate_cost
    from virnuc.reports.content import gib

    proteins, place = benchmark.run(timing), f"{experiment.reports}/dna"
    wanted = replace(timing, baseline=settings.dna_encoder, candidate=CONTROLS[0][0], out=place)
    dna = benchmark.run(wanted, "benchmark dna").sides.get("baseline")
    if dna is None:
        say(f"rehearse   {settings.dna_encoder} could not be timed, so there is no estimate; see the benchmark above")
        return
    for side, reason in proteins.failures.items():
        say(f"rehearse   {proteins.names[side]}: {reason}")
    for side, protein in proteins.sides.items():
        both = {"dna": dna, "protein": protein}
        speeds = {kind: timed.frames / timed.seconds for kind, timed in both.items()}
        cost = estimate_cost(
            settings.frames, speeds, {kind: timed.provenance["dimension"] for kind, timed in both.items()}
        )
        experiment.tracker.metrics({f"rehearse/{side}_hours": cost.hours, f"rehearse/{side}_disk_gb": cost.disk_gb})
        say(
            f"rehearse   {proteins.names[side]}: {settings.frames:,} frames take {cost.hours:,.1f} h on this device "
            f"({speeds['protein']:.2f} proteins/s, {speeds['dna']:.2f} DNA/s), {cost.disk_gb:,.0f} GB of disk and "
            f"{gib(protein.peak_memory_gb)} GiB of memory"
        )


if __name__ == "__main__":
    rehearse.main()
