"""`rehearse`: the real architectures with random weights on a few real frames, before days of GPU time are spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.benchmark import benchmark
from entrypoints.command import say, stage
from entrypoints.pipeline import CONTROL, run_on_frames
from entrypoints.prepare import prepare
from virnuc.errors import GateRefusal
from virnuc.settings import BenchmarkSettings, PipelineSettings, PrepareSettings, RehearseSettings

if TYPE_CHECKING:
    from virnuc.tracking import Tracker

EPOCHS = 3
FEW = 8  # frames in the benchmark's sample: a 3B model takes minutes for more on a CPU


@stage(RehearseSettings)
def rehearse(settings: RehearseSettings, tracker: Tracker) -> dict[str, Any]:
    """Run the whole pipeline with true architectures and random weights on a few real frames.

    It shows that everything fits and estimates what the full run will take. It ends with exit code 3, because the gate
    refuses random weights: that refusal means that the rehearsal succeeded.
    """
    from virnuc.sequences.sampling import sample_frames

    data = Path(settings.data)
    prepare.run(PrepareSettings(settings.source, settings.chunk_size, seed=settings.seed, out=str(data / "all_frames")))
    sample_frames(data / "all_frames", data / "frames", settings.rows, settings.seed)
    refusal = None
    document: dict[str, Any] = {}
    try:
        document = run_on_frames(_pipeline(settings), tracker)
    except GateRefusal as error:
        refusal = error
    _estimate(settings, tracker)
    if refusal:
        raise refusal
    return document


def _pipeline(settings: RehearseSettings) -> PipelineSettings:
    return PipelineSettings(
        chunk_size=settings.chunk_size,
        test_fraction=0.25,
        val_fraction=0.25,
        dna_encoder=settings.dna_encoder,
        baseline=settings.baseline,
        candidate=settings.candidate,
        precision=settings.precision,
        device=settings.device,
        weights=_random(settings),
        epochs=EPOCHS,
        sample=FEW,
        runs=1,
        warmup=1,
        seed=settings.seed,
        data=settings.data,
        out=settings.out,
    )


def _random(settings: RehearseSettings) -> dict[str, str]:
    return dict.fromkeys((settings.dna_encoder, settings.baseline, settings.candidate), "random")


def _estimate(settings: RehearseSettings, tracker: Tracker) -> None:
    """Estimate, from what was measured here, what extracting the frames of the real run will take."""
    from virnuc.benchmarking import estimate_cost
    from virnuc.tracking import find_finished, get_run

    dna = benchmark.run(
        BenchmarkSettings(
            baseline=settings.dna_encoder,
            candidate=CONTROL[0],
            frames=str(Path(settings.data) / "frames"),
            sample=FEW,
            runs=1,
            warmup=1,
            precision=(settings.precision,),
            device=settings.device,
            weights={settings.dna_encoder: "random"},
            out=str(Path(settings.out) / "dna"),
        ),
        "benchmark dna",
    ).sides.get("baseline")
    if dna is None:
        say(f"rehearse   {settings.dna_encoder} could not be timed, so there is no estimate; see the benchmark above")
        return
    timed = get_run(find_finished("benchmark", {"baseline": settings.baseline})[0].info.run_id).data
    for side, name in (("baseline", settings.baseline), ("candidate", settings.candidate)):
        if f"bench/{side}_s" not in timed.metrics:
            say(f"rehearse   {name}: {timed.params[f'bench/{side}_failure']}")
            continue
        speeds = {"dna": dna.frames / dna.seconds, "protein": timed.metrics[f"bench/{side}_frames_per_s"]}
        widths = {"dna": dna.provenance["dimension"], "protein": int(timed.params[f"bench/{side}_dimension"])}
        cost = estimate_cost(settings.frames, speeds, widths)
        memory = timed.metrics[f"bench/{side}_peak_memory_gb"]
        tracker.metrics({f"rehearse/{side}_hours": cost.hours, f"rehearse/{side}_disk_gb": cost.disk_gb})
        say(
            f"rehearse   {name}: {settings.frames:,} frames take {cost.hours:,.1f} h on this device "
            f"({speeds['protein']:.2f} proteins/s, {speeds['dna']:.2f} DNA/s), {cost.disk_gb:,.0f} GB of disk and "
            f"{memory:.1f} GB of memory"
        )


if __name__ == "__main__":
    rehearse.main()
