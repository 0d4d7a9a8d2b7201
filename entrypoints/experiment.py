"""An experiment: the stages that follow `prepare`, for a baseline, a candidate and the controls.

What a stage is given is decided by `PipelineSettings`; what is finished already is found in the store and left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrypoints.benchmark import benchmark
from entrypoints.command import say
from entrypoints.compare import compare
from entrypoints.evaluate import evaluate
from entrypoints.extract import extract
from entrypoints.promote import promote
from entrypoints.split import split
from entrypoints.train import train
from virnuc.errors import GateRefusal
from virnuc.settings import (
    LATEST,
    BenchmarkSettings,
    CompareSettings,
    EvaluateSettings,
    ExtractSettings,
    FeatureSource,
    PipelineSettings,
    PromoteSettings,
    SplitSettings,
    TrainSettings,
)

if TYPE_CHECKING:
    from virnuc.tracking import Tracker


@dataclass(frozen=True)
class _Extracted:
    """A feature set, with its encoders' recorded names."""

    directory: str
    digest: str
    dna: str
    protein: str
    weights: Mapping[str, str]  # those of the settings, and the directories of encoders named after their digest


@dataclass(frozen=True)
class Experiment:
    """The stages after `prepare`."""

    settings: PipelineSettings
    tracker: Tracker

    def place(self, name: str) -> str:
        """Return the path of a file or directory of the experiment."""
        return str(self.settings.home / name)

    @property
    def reports(self) -> str:
        """Directory of this run's reports."""
        return self.place(f"reports/{self.tracker.run_id}")

    def models(self) -> list[str]:
        """Split, extract, train and evaluate; return the URIs of baseline, candidate and controls.

        The controls are the pairs of encoders that read composition, and a classifier of each DNA side alone, which
        shows what a protein encoder adds. The companion reads the DNA of all chunks, by the encoder of both sides.
        """
        split.run(self.settings.of_stage(SplitSettings, source=self.place("frames"), out=self.place("test_set")))
        extracted = [self._extract(*side) for side in self.settings.sides]
        companions = {extracted[0].dna: self._companion(extracted[0])}
        found = {features.dna: features for features in extracted}
        alone = {name: self._train(features, modality="dna") for name, features in found.items()}
        models = [self._train(features, companion=companions.get(features.dna, "")) for features in extracted]
        models += alone.values()
        for uri, features in zip(models, [*extracted, *found.values()], strict=True):
            self._evaluate(uri, features)
        return models

    @cached_property
    def benchmark_settings(self) -> BenchmarkSettings:
        """How the two protein encoders are timed."""
        return self.settings.of_stage(
            BenchmarkSettings,
            baseline=self.settings.baseline,
            candidate=self.settings.candidate,
            frames=self.place("frames"),
            out=self.reports,
        )

    def timed(self) -> str:
        """Time both protein encoders, if that was not done already; return the id of the run that did."""
        from virnuc.reports.speed import SPEED
        from virnuc.storage.manifest import read_manifest
        from virnuc.tracking import download, get_run

        frames = read_manifest(Path(self.place("frames")), "frames").digest
        same = {"key": self.benchmark_settings.key, "frames_digest": frames}
        if known := _finished("benchmark", same, "metrics.`bench/speedup` > 0"):
            say(f"benchmark  {self.settings.baseline} and {self.settings.candidate} were timed already: run {known}")
            self.tracker.tags({"reused.benchmark": known})
            run = get_run(known)
            for suffix in ("html", "md"):
                download(run, f"{SPEED}.{suffix}", Path(self.reports))
            return known
        benchmark.run(self.benchmark_settings)
        return _finished("benchmark", same)

    def judge(self, models: list[str], timed: str) -> dict[str, Any]:
        """Compare the models and, if asked to, promote the candidate; return the verdict document.

        Raises:
            GateRefusal: the candidate may not replace the baseline.
        """
        baseline, candidate, *controls = models
        wanted = self.settings.of_stage(
            CompareSettings,
            baseline=baseline,
            candidate=(candidate,),
            controls=tuple(controls),
            benchmark=(timed,) if timed else (),
            out=self.reports,
        )
        try:
            document = compare.run(wanted)
        except GateRefusal:
            self._conclude()
            raise
        self._conclude()
        if self.settings.promote:
            promote.run(self.settings.of_stage(PromoteSettings, candidate=candidate))
        else:
            say(f"promote    not requested: read the report, then run virnuc promote --candidate {candidate}")
        return document

    def _extract(self, dna: str, protein: str) -> _Extracted:
        """Extract the features of one pair of encoders."""
        out = self.place("features")
        manifest = extract.run(
            self.settings.of_stage(
                ExtractSettings, frames=self.place("frames"), dna_encoder=dna, protein_encoder=protein, out=out
            ),
            f"{protein} extract, {dna}",
        )
        names = manifest.details["dna"]["name"], manifest.details["protein"]["name"]
        directories = {
            name: asked.partition(":")[2] for asked, name in zip((dna, protein), names, strict=True) if ":" in asked
        }
        weights = {**self.settings.weights, **directories}
        return _Extracted(str(Path(out) / "+".join(names)), manifest.digest, *names, weights)

    def _evaluate(self, uri: str, features: _Extracted) -> None:
        """Evaluate a model version on one feature set, unless that was done already."""
        from virnuc.evaluation.evaluation import EVALUATION_VERSION

        wanted = {"model": uri, "features_digest": features.digest, "evaluation_version": EVALUATION_VERSION}
        if known := _finished("evaluate", wanted):
            say(f"evaluate   {uri} was tested already: run {known}")
            self.tracker.tags({f"reused.evaluate_{uri.split('/')[1]}": known})
            return
        random = "random" in features.weights.values()
        evaluate.run(
            self.settings.of_stage(
                EvaluateSettings,
                model=uri,
                features=(FeatureSource(features.directory),),
                split=self.place("test_set"),
                weights=features.weights,
                out=self.place("evaluations"),
                **({"shuffled": False, "chunks": 0} if random else {}),
            ),
            f"{uri.removeprefix('models:/virnuc-')} evaluate",
        )

    def _companion(self, side: _Extracted) -> str:
        """Train a classifier of the DNA of all chunks; return the URI of its version, empty if there are no chunks."""
        from virnuc.sequences.frames import CHUNKS
        from virnuc.splits.assignment import Split

        if Split.open(Path(self.place("test_set"))).lacks_chunks:
            return ""
        source, out, dna = Path(self.place("frames")) / CHUNKS, self.place("chunk_features"), self.settings.dna_encoder
        wanted = self.settings.of_stage(ExtractSettings, frames=str(source), dna_encoder=dna, out=out)
        manifest = extract.run(wanted, f"chunks extract, {dna}")
        directory = Path(out) / f"{side.dna}+{manifest.details['protein']['name']}"
        # It is compared with nothing, so it may stop early, at the lowest validation loss.
        return self._train(replace(side, directory=str(directory)), modality="dna", replicates=1, checkpoint="best")

    def _train(self, features: _Extracted, modality: str = "merged", companion: str = "", **changed: Any) -> str:
        """Train and register a classifier, some settings `changed`; return the URI of its version."""
        from virnuc.tracking import version_uri

        version = train.run(
            self.settings.of_stage(
                TrainSettings,
                features=(FeatureSource(features.directory),),
                split=self.place("test_set"),
                modality=modality,
                companion=companion,
                weights=features.weights,
                out=self.place("models"),
                **changed,
            )
        )
        assert version is not None  # registered, as TrainSettings.register says
        return version_uri(version)

    def _conclude(self) -> None:
        """Log verdict, figures and report to the parent run, and print where everything is."""
        from virnuc.reports.rendering import HTML, MARKDOWN, VERDICT
        from virnuc.reports.speed import SPEED
        from virnuc.reports.verdict import headline
        from virnuc.storage.files import link_latest
        from virnuc.tracking import ui_address

        settings, reports = self.settings, Path(self.reports)
        document = json.loads((reports / VERDICT).read_text(encoding="utf-8"))
        (verdict,) = document["verdicts"]
        sides = {"baseline": settings.baseline, "candidate": settings.candidate, "dna_encoder": settings.dna_encoder}
        place = {"chunk_size": settings.chunk_size, "experiment": settings.home.name}
        self.tracker.tags({"verdict": verdict["outcome"], **sides, **place})
        self.tracker.metrics(headline(document, verdict))
        for name in (HTML, MARKDOWN, VERDICT):
            self.tracker.file(reports / name)
        self.tracker.describe(document["answer"])
        say("")
        for directory in (reports, settings.home):
            link_latest(directory, LATEST)
        latest = reports.parent / LATEST
        say(f"report     {latest / HTML} (and .md); speed in {latest / SPEED}.html")
        say(f"runs       make ui, then open {ui_address()}/{self.tracker.ui_path}")


def _finished(stage_name: str, tags: dict[str, str], condition: str = "") -> str:
    """Return the id of the newest finished run of a stage with these tags; empty if there is none."""
    from virnuc.tracking import find_finished

    return next((str(run.info.run_id) for run in find_finished(stage_name, tags, condition)), "")
