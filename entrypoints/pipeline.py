"""`pipeline`: genomes to verdict, each stage a child run of one parent run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from entrypoints.benchmark import benchmark
from entrypoints.command import say, stage
from entrypoints.compare import compare
from entrypoints.evaluate import evaluate
from entrypoints.extract import extract
from entrypoints.prepare import prepare
from entrypoints.promote import promote
from entrypoints.split import split
from entrypoints.train import train
from virnuc.errors import GateRefusal, UsageError
from virnuc.settings import (
    BenchmarkSettings,
    CompareSettings,
    EvaluateSettings,
    ExtractSettings,
    FeatureSource,
    PipelineSettings,
    PrepareSettings,
    PromoteSettings,
    SplitSettings,
    TrainSettings,
)

if TYPE_CHECKING:
    from virnuc.tracking import Tracker

S = TypeVar("S")
CONTROL = ("tetranucleotide", "dipeptide")  # what a classifier can do with no language model


@dataclass(frozen=True)
class _Directories:
    """Where the stages leave what they make."""

    frames: str
    split: str
    features: str
    models: str
    evaluations: str

    @classmethod
    def below(cls, data: str) -> _Directories:
        """Return the layout below one directory."""
        return cls(*(str(Path(data) / name) for name in ("frames", "test_set", "features", "models", "evaluations")))


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
    _check_before_hours_are_spent(settings)
    prepare.run(_of(PrepareSettings, settings, out=_Directories.below(settings.data).frames))
    return run_on_frames(settings, tracker)


def run_on_frames(settings: PipelineSettings, tracker: Tracker) -> dict[str, Any]:
    """Run what comes after `prepare`, for baseline, candidate and the composition control.

    Raises:
        GateRefusal: the candidate may not replace the baseline.
    """
    places = _Directories.below(settings.data)
    split.run(_of(SplitSettings, settings, source=places.frames, out=places.split))
    sides = ((settings.dna_encoder, settings.baseline), (settings.dna_encoder, settings.candidate), CONTROL)
    companions: dict[str, str] = {}
    models = [_model_of(*side, settings, places, companions, tracker) for side in dict.fromkeys(sides)]
    timed = _benchmark(settings, places, tracker)
    baseline, candidate, *control = models
    refusal = None
    document: dict[str, Any] = {}
    try:
        document = compare.run(
            CompareSettings(
                baseline, (candidate,), tuple(control), (timed,), settings.policy, settings.seed, settings.out
            )
        )
        if settings.promote:
            promote.run(PromoteSettings(candidate=candidate, policy=settings.policy))
    except GateRefusal as error:
        refusal = error
    tracker.tags({"verdict": "PASS" if document else "FAIL"})
    tracker.describe(document["answer"] if document else str(refusal))
    _say_where(settings, candidate, tracker, refused=refusal is not None)
    if refusal:
        raise refusal
    return document


def _check_before_hours_are_spent(settings: PipelineSettings) -> None:
    """Raise a UsageError for mistakes that would otherwise be found hours later, by a late stage."""
    from model_registry.gate import Policy
    from virnuc.encoders import check_sources, find_encoder

    check_sources(settings.weights, settings.revisions)
    for name, kind in ((settings.dna_encoder, "dna"), (settings.baseline, "protein"), (settings.candidate, "protein")):
        if find_encoder(name).kind != kind:
            raise UsageError(f"{name} does not read {kind}; give an encoder that does")
    Policy.read(Path(settings.policy))
    for later in (SplitSettings, ExtractSettings, TrainSettings):
        _of(later, settings)


def _of(stage_settings: Callable[..., S], settings: PipelineSettings, **own: Any) -> S:
    """Return a stage's settings: `own`, and the pipeline's where a stage has one of that name."""
    shared = {declared.name for declared in fields(stage_settings)} & set(vars(settings))  # type: ignore[arg-type]
    return stage_settings(**{name: getattr(settings, name) for name in shared} | own)


def _model_of(
    dna: str,
    protein: str,
    settings: PipelineSettings,
    places: _Directories,
    companions: dict[str, str],
    tracker: Tracker,
) -> str:
    """Extract, train and evaluate one pair of encoders; return the URI of its model version.

    `companions` has the URI of each DNA encoder's companion; one that is missing is trained and put there.
    """
    from virnuc.evaluation.evaluation import EVALUATION_VERSION

    manifest = extract.run(
        _of(
            ExtractSettings,
            settings,
            frames=places.frames,
            dna_encoder=dna,
            protein_encoder=protein,
            out=places.features,
        ),
        f"extract {protein}",
    )
    names = (manifest.details["dna"]["name"], manifest.details["protein"]["name"])
    features = str(Path(places.features) / "+".join(names))
    settings = _with_directories(settings, {dna: names[0], protein: names[1]})
    if dna not in companions:
        companions[dna] = _train(settings, places, features, modality="dna")
    uri = _train(settings, places, features, companion=companions[dna])
    wanted = {"model": uri, "features_digest": manifest.digest, "evaluation_version": EVALUATION_VERSION}
    known = _finished("evaluate", wanted)
    random = "random" in settings.weights.values()
    if known:
        say(f"evaluate   {uri} was tested already: run {known}")
        tracker.tags({f"reused.evaluate_{names[1]}": known})
    else:
        evaluate.run(
            _of(
                EvaluateSettings,
                settings,
                model=uri,
                features=(FeatureSource(features),),
                split=places.split,
                shuffled=not random,
                uncovered=0 if random else EvaluateSettings.uncovered,
                out=places.evaluations,
            ),
            f"evaluate {names[1]}",
        )
    return uri


def _train(
    settings: PipelineSettings, places: _Directories, features: str, modality: str = "merged", companion: str = ""
) -> str:
    """Train and register a classifier; return the URI of its version."""
    from virnuc.tracking import version_uri

    version = train.run(
        _of(
            TrainSettings,
            settings,
            features=(FeatureSource(features),),
            split=places.split,
            modality=modality,
            companion=companion,
            out=places.models,
            # A companion is no side of the comparison.
            replicates=settings.replicates if modality == "merged" else 1,
        )
    )
    assert version is not None  # registered, as TrainSettings.register says
    return version_uri(version)


def _with_directories(settings: PipelineSettings, recorded: dict[str, str]) -> PipelineSettings:
    """Return settings that know where `esm:DIR` and its like are under the names that they are recorded by."""
    directories = {name: asked.partition(":")[2] for asked, name in recorded.items() if ":" in asked}
    return replace(settings, weights={**settings.weights, **directories})


def _benchmark(settings: PipelineSettings, places: _Directories, tracker: Tracker) -> str:
    """Time both protein encoders, if that was not done already; return the id of the run that did."""
    from virnuc.storage.manifest import read_manifest

    wanted = _of(BenchmarkSettings, settings, frames=places.frames, precision=(settings.precision,))
    same = {"key": wanted.key, "frames_digest": read_manifest(Path(places.frames), "frames").digest}
    known = _finished("benchmark", same, "metrics.`bench/speedup` > 0")
    if known:
        say(f"benchmark  {settings.baseline} and {settings.candidate} were timed already: run {known}")
        tracker.tags({"reused.benchmark": known})
        return known
    benchmark.run(wanted)
    return _finished("benchmark", same) or ""


def _finished(stage_name: str, tags: dict[str, str], condition: str = "") -> str | None:
    """Return the id of the newest finished run of a stage with these tags."""
    from virnuc.tracking import find_finished

    runs = find_finished(stage_name, tags, condition)
    return str(runs[0].info.run_id) if runs else None


def _say_where(settings: PipelineSettings, candidate: str, tracker: Tracker, *, refused: bool) -> None:
    report = Path(settings.out) / "validation_report.html"
    say("")
    say(f"report     {report} (and .md); speed in {Path(settings.out) / 'speed_benchmark.md'}")
    if not refused and not settings.promote:
        say(f"promote    not told to: read the report, then python -m entrypoints.promote --candidate {candidate}")
    say(f"runs       make ui, then open http://127.0.0.1:5000/{tracker.ui_path}")


if __name__ == "__main__":
    pipeline.main()
