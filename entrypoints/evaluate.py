"""`evaluate`: a registered model and the test part to metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import EvaluateSettings

if TYPE_CHECKING:
    import pandas as pd

    from virnuc.evaluation.evaluation import Evaluation
    from virnuc.features.feature_set import FeatureSet
    from virnuc.splits.assignment import Split
    from virnuc.tracking import Tracker


@stage(EvaluateSettings)
def evaluate(settings: EvaluateSettings, tracker: Tracker) -> str:
    """Test a registered model on the test part of its split; return the run's id.

    Every prediction is kept as an artifact, row by row, so that models can be compared frame by frame.
    """
    from entrypoints.progress import bars
    from model_registry.card import update_card
    from model_registry.evidence import read_checkpoint, read_replicates
    from model_registry.records import SHOWN, log_evaluation
    from virnuc.encoders import check_encoders
    from virnuc.evaluation.evaluation import EVALUATION_VERSION
    from virnuc.evaluation.evaluation import evaluate as evaluate_model
    from virnuc.evaluation.seen import encoders_of_unnamed_viruses, pretraining_genomes
    from virnuc.features.mixture import open_features
    from virnuc.runtime import choose_device
    from virnuc.splits.assignment import Split
    from virnuc.tracking import model_version, version_uri

    version = model_version(settings.model)
    features = open_features(settings.features, bars("file"))
    split = Split.open(Path(settings.split))
    checkpoint = read_checkpoint(version)
    checkpoint.check_compatible(features, split)
    choose_device(settings.device)
    check_encoders({}, settings.weights, {})
    tracker.dataset("features", features.directory, features.digest, "testing")
    tested_on = tracker.dataset("split", split.directory, split.digest, "testing")
    shuffled = _shuffled(settings, features, split, tracker)
    chunks = _chunks(settings, version_uri(version), split, tracker)
    pretrained = pretraining_genomes([str(one["name"]) for one in features.encoders.values()], settings.weights)
    done = evaluate_model(
        checkpoint.build(),
        features,
        split,
        seed=settings.seed,
        columns=checkpoint.columns(),
        shuffled=shuffled,
        chunks=chunks,
        replicates={seed: other.build() for seed, other in read_replicates(version, checkpoint).items()},
        pretrained=pretrained,
    )
    tracker.weights(features.encoders)
    tracker.tags(
        {
            "model": version_uri(version),
            "evaluation_version": EVALUATION_VERSION,
            "split_unit": split.metadata["unit"],
            "unnamed_viruses_of": ", ".join(encoders_of_unnamed_viruses(split, pretrained)),
            "untested_groups": ", ".join(split.metadata.get("groups_without_a_test_unit", ())),
        }
    )
    log_evaluation(done, checkpoint, features, tracker)
    tracker.of_model(version, {f"test/{name}": done.metrics[f"test/{name}"] for name in SHOWN}, tested_on)
    update_card(version_uri(version))
    _tell(done, f"{version.name} version {version.version}", chunks is not None)
    return tracker.run_id


def _tell(done: Evaluation, model: str, with_chunks: bool) -> None:
    from model_registry.records import SHOWN

    figures = ", ".join(f"{name} {done.metrics[f'test/{name}']:.4f}" for name in SHOWN)
    if with_chunks:
        over_all = (done.metrics[f"test/coverage/{name}_of_all_chunks"] for name in ("accuracy", "roc_auc"))
        figures += "; over all chunks accuracy {:.4f}, ROC-AUC {:.4f}".format(*over_all)
    say(f"evaluate   {model}: {figures}")
    if (trainings := len(done.replicates.columns)) > 1:
        mean, sd = (done.metrics[f"test/replicates/accuracy_{name}"] for name in ("mean", "sd"))
        say(f"evaluate   {trainings} trainings of this side: accuracy {mean:.4f} on average, SD {sd:.4f}")
    for size, table in done.by_size.items():
        say(f"evaluate   {size} bp: {len(table):,} frames, accuracy {done.metrics[f'test/{size}bp/accuracy']:.4f}")


def _shuffled(settings: EvaluateSettings, features: FeatureSet, split: Split, tracker: Tracker) -> FeatureSet | None:
    """Return features of the shuffled test frames; None, with the reason on the terminal, if they cannot be made."""
    from entrypoints.progress import bars
    from virnuc.evaluation.shuffling import embed_shuffled, obstacle

    if reason := obstacle(settings, features, split):
        tracker.tags({"shuffled_control": f"left out: {reason}"})
        say(f"evaluate   no control with shuffled sequences: {reason}")
        return None
    return embed_shuffled(settings, features, split, bars("frame"))


def _chunks(settings: EvaluateSettings, uri: str, split: Split, tracker: Tracker) -> pd.DataFrame | None:
    """Score test chunks as `predict` does; None, with the reason on the terminal, if there are none."""
    import tempfile

    from model_registry.evidence import CHUNK_PREDICTIONS
    from model_registry.packaging import download_scorer
    from virnuc.prediction.choosing import sample_chunks, score_chunks
    from virnuc.prediction.scorer import load_scorer
    from virnuc.runtime import choose_device

    reason = split.lacks_chunks if settings.chunks else "--chunks is 0"
    if reason:
        tracker.tags({"no_chunks": reason})
        say(f"evaluate   no accuracy over all chunks: {reason}")
        return None
    with tempfile.TemporaryDirectory() as temporary:
        directory = download_scorer(uri, Path(temporary))
        scorer = load_scorer(directory, settings.weights, choose_device(settings.device).name)
    scored = score_chunks(scorer, sample_chunks(split.chunks("test"), settings.chunks, settings.seed))
    tracker.frame(scored, CHUNK_PREDICTIONS)
    return scored


if __name__ == "__main__":
    evaluate.main()
