"""The whole experiment, from a RefSeq release on a server to the verdict, with a user's own encoders.

They come from directories and from the hub's cache at a chosen revision.
"""

import contextlib
import gzip
import json
import re
import shutil

import mlflow
import pytest
from huggingface_hub import constants
from mlflow.tracking import MlflowClient

from entrypoints.compare import compare
from entrypoints.download import download
from entrypoints.evaluate import evaluate
from entrypoints.extract import extract
from entrypoints.pipeline import pipeline
from model_registry.origins import runs_before
from tests.shared import PROJECT
from tests.shared.figures import undrawn
from tests.shared.golden import CASES
from tests.shared.hub import OTHER, PINNED, fill_hub_cache
from tests.shared.mirror import mirrored
from tests.shared.samples import without_mmseqs
from virnuc import benchmarking
from virnuc.encoders import load_encoder
from virnuc.errors import DataError, GateRefusal, UsageError
from virnuc.settings import (
    CompareSettings,
    DownloadSettings,
    EvaluateSettings,
    ExtractSettings,
    FeatureSource,
    PipelineSettings,
)
from virnuc.storage.manifest import read_manifest
from virnuc.tracking import model_version, version_uri

pytestmark = pytest.mark.e2e
POLICY = str(PROJECT / "model_registry" / "policy.yaml")
DNA, PROTEIN = CASES["dnabert_s"], CASES["esm2"]
LONGEST = 1500  # bp of a genome in the sample
FIRST = "data/first"


@contextlib.contextmanager
def working_in(directory):
    """Change into a directory with its own store and its own cache of the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(constants, "HF_HUB_CACHE", str(directory / "hub"))
        patch.setenv("HF_HUB_CACHE", str(directory / "hub"))  # for the process that measures memory
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
        with without_mmseqs():
            yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def finished_pipeline(tmp_path_factory, genomes, empty_store):
    """A pipeline on the shortest genomes; the baseline is from a directory, the candidate at another revision."""
    directory = tmp_path_factory.mktemp("directories")
    shutil.copy(empty_store, directory / "mlflow.db")
    release = {}
    for group in ("viral", "bacteria", "archaea"):
        name = f"{group}.1.genomic.gbff.gz"
        records = re.split(r"(?<=\n//\n)", gzip.decompress((genomes / name).read_bytes()).decode())
        short = [
            text for text in records if (length := re.match(r"LOCUS +\S+ +(\d+)", text)) and int(length[1]) <= LONGEST
        ]
        release[name] = gzip.compress("".join(short[:14]).encode())
    fill_hub_cache(directory / "hub", "esm2_8m", {PINNED: 1, OTHER: 2})
    with working_in(directory):
        with mirrored(release) as mirror:
            divisions = tuple(name.split(".")[0] for name in release)
            download.run(DownloadSettings(mirror=mirror.url, divisions=divisions, out="genomes"))
            assert all(mirror.sent[f"{name.split('.')[0]}/{name}"] == len(data) for name, data in release.items())
        run_pipeline(experiment="first", dna_encoder=DNA.encoder, candidate="esm2_8m", revisions={"esm2_8m": OTHER})
    return directory


def run_pipeline(**options):
    usual = {"test_fraction": 0.3, "val_fraction": 0.2, "epochs": 2, "replicates": 2, "sample": 20, "runs": 1}
    usual |= {"source": "genomes", "baseline": PROTEIN.encoder, "warmup": 1, "policy": POLICY}
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(GateRefusal):
        undrawn(patch)
        patch.setattr(benchmarking, "gemm_peak", lambda *given: 1e11)  # no test here needs the machine's peak
        pipeline.run(PipelineSettings(**usual | options))  # the verdict depends on this machine's speed


@pytest.fixture
def experiment(finished_pipeline):
    with working_in(finished_pipeline):
        yield finished_pipeline


def runs_of(stage):
    client = MlflowClient()
    experiments = [found.experiment_id for found in client.search_experiments()]
    return client.search_runs(experiments, f"tags.`virnuc.stage` = '{stage}'", order_by=["attributes.start_time ASC"])


def test_it_runs_from_the_release_to_the_verdict(experiment):
    (fetched,), (compared,) = runs_of("download"), runs_of("compare")
    frames = read_manifest(experiment / FIRST / "frames", "frames")
    files = read_manifest(experiment / "genomes", "download").details["files"]
    assert frames.inputs.keys() == files.keys() and fetched.info.status == "FINISHED"
    assert compared.data.tags["virnuc.verdict"] in ("PASS", "FAIL")


def test_the_parent_run_has_the_main_results(experiment):
    (parent,), (compared,) = runs_of("pipeline"), runs_of("compare")
    assert parent.info.status == "FINISHED" and parent.info.run_name.startswith("esm2_8m vs ")
    assert parent.data.tags["virnuc.verdict"] == compared.data.tags["virnuc.verdict"]
    assert parent.data.metrics.get("speedup") == compared.data.metrics.get("gate/speedup")
    sides = [parent.data.metrics[f"accuracy/{side}"] for side in ("baseline", "candidate")]
    evaluated = {run.data.metrics["test/accuracy"] for run in runs_of("evaluate")}
    assert set(sides) <= evaluated
    assert parent.data.metrics["drop/value"] == compared.data.metrics["gate/drop"]
    logged = {item.path for item in MlflowClient().list_artifacts(parent.info.run_id)}
    assert {"validation_report.html", "validation_report.md", "verdict.json"} <= logged
    (version,) = MlflowClient().search_model_versions("name = 'virnuc-esm2_8m'")
    assert version.tags["virnuc.verdict"] == compared.data.tags["virnuc.verdict"]


def test_provenance_goes_back_to_the_frames_when_an_extraction_is_given_again(experiment, tmp_path, monkeypatch):
    uri = f"sqlite:///{shutil.copy(experiment / 'mlflow.db', tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    training = next(run for run in runs_of("train") if run.data.tags["virnuc.model"] == "esm2_8m")
    stages = lambda: [run.data.tags["virnuc.stage"] for run in runs_before(training)]  # noqa: E731
    before = stages()
    assert before[:3] == ["prepare", "split", "extract"]
    place = f"{FIRST}/features"
    chosen = {"dna_encoder": DNA.encoder, "protein_encoder": "esm2_8m", "revisions": {"esm2_8m": OTHER}, "out": place}
    extract.run(ExtractSettings(frames=f"{FIRST}/frames", **chosen))
    assert stages() == before


def test_every_model_has_its_control_of_shuffled_sequences(experiment):
    for evaluated in runs_of("evaluate"):
        assert "test/control/shuffled_accuracy" in evaluated.data.metrics


def test_the_revision_is_recorded_by_features_and_benchmark(experiment):
    (features,) = (experiment / FIRST / "features").glob("*+esm2_8m")
    assert read_manifest(features, "features").details["protein"]["revision"] == OTHER
    (timed,) = runs_of("benchmark")
    assert timed.data.params["bench/candidate_revision"] == OTHER


def test_another_revision_never_finishes_or_reuses_these_features(experiment):
    chosen = {"dna_encoder": "tetranucleotide", "protein_encoder": "esm2_8m", "revisions": {"esm2_8m": PINNED}}
    chosen |= {"frames": f"{FIRST}/frames", "out": f"{FIRST}/features"}
    with pytest.raises(DataError, match=f"made with revision={OTHER}"):
        extract.run(ExtractSettings(**chosen))


def test_the_benchmark_knows_the_encoder_by_its_recorded_name(experiment):
    (timed,) = runs_of("benchmark")
    assert timed.data.tags["virnuc.baseline"] == load_encoder(PROTEIN.encoder).name


def test_evaluate_alone_says_which_directory_it_wants(experiment, capsys):
    dna, protein = load_encoder(DNA.encoder).name, load_encoder(PROTEIN.encoder).name
    options = {
        "model": f"models:/virnuc-{protein}@challenger",
        "features": (FeatureSource(f"{FIRST}/features/{dna}+{protein}"),),
        "split": f"{FIRST}/test_set",
        "out": "elsewhere",
    }
    with pytest.raises(UsageError, match=f"give it with --weights {dna}=DIR$"):
        evaluate.run(EvaluateSettings(**options))
    asked = evaluate.run(EvaluateSettings(**options, chunks=0))
    message = f"the weights of {dna} came from a directory; give it with --weights {dna}=DIR"
    assert message in capsys.readouterr().out
    given = {dna: str(DNA.directory), protein: str(PROTEIN.directory)}
    answered = evaluate.run(EvaluateSettings(**options, weights=given))
    assert "no control with" not in capsys.readouterr().out
    client = MlflowClient()
    assert "test/control/shuffled_accuracy" not in client.get_run(asked).data.metrics
    assert "test/control/shuffled_accuracy" in client.get_run(answered).data.metrics


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def versions_there():
    found = MlflowClient().search_model_versions()
    return {version_uri(one): (one.run_id, one.source, one.description, repr(one.tags)) for one in found}


def test_a_second_experiment_never_touches_the_first(experiment, tmp_path, monkeypatch):
    uri = f"sqlite:///{shutil.copy(experiment / 'mlflow.db', tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    (first,), place = runs_of("pipeline"), experiment / FIRST
    side = f"virnuc-{load_encoder(PROTEIN.encoder).name}"
    kept, versions = contents(place), versions_there()
    assert (place.parent / "latest").resolve() == place.resolve()
    assert (place / "reports" / "latest").resolve() == (place / "reports" / first.info.run_id).resolve()
    run_pipeline(chunk_size=500, unit="cluster", dna_encoder="codon_phase", candidate="dipeptide")
    second = (experiment / "data" / "latest").resolve()
    assert second.name.startswith("genomes-500bp-cds-cluster-seed42")
    assert contents(place) == kept
    assert versions.items() <= versions_there().items()
    reports = (place / "reports" / "latest", second / "reports" / "latest")
    verdicts = [json.loads((report / "verdict.json").read_text()) for report in reports]
    for compared, told, chunk_size in zip(runs_of("compare"), verdicts, ("300", "500"), strict=True):
        sides = [model_version(compared.data.tags[f"virnuc.{role}"]).tags for role in ("baseline", "candidate")]
        assert {tags["virnuc.chunk_size"] for tags in sides} == {chunk_size}
        assert len({tags["virnuc.split_digest"] for tags in sides}) == 1
        assert told["verdicts"][0]["problems"] == []
    pair = {"baseline": f"models:/{side}@challenger", "candidate": ("models:/virnuc-esm2_8m@challenger",)}
    with pytest.raises(DataError, match=f"--baseline models:/{side}/1 --candidate models:/virnuc-esm2_8m/1"):
        compare.run(CompareSettings(**pair, policy=POLICY, out=str(tmp_path)))
