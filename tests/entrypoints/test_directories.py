"""The whole experiment with encoders of one's own: from directories, and from the hub's cache at a chosen revision."""

import gzip
import os
import re
import subprocess
import sys

import pytest
from mlflow.tracking import MlflowClient

from tests.shared import PROJECT
from tests.shared.golden import CASES
from tests.shared.hub import OTHER, PINNED, fill_hub_cache
from virnuc.encoders import load_encoder
from virnuc.storage.manifest import read_manifest

DNA, PROTEIN = CASES["dnabert_s"], CASES["esm2"]
LONGEST = 4000  # bp of a genome in the sample


def run(directory, stage, **options):
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return subprocess.run(
        [sys.executable, "-m", f"entrypoints.{stage}", *given],
        cwd=directory,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
            "HF_HUB_CACHE": str(directory / "hub"),
            "HF_HUB_OFFLINE": "1",
        },
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, genomes):
    """A pipeline on the shortest genomes, its baseline from a directory, its candidate at another revision."""
    directory = tmp_path_factory.mktemp("directories")
    (directory / "genomes").mkdir()
    for group in ("viral", "bacteria", "archaea"):
        name = f"{group}.1.genomic.gbff.gz"
        records = re.split(r"(?<=\n//\n)", gzip.decompress((genomes / name).read_bytes()).decode())
        short = [
            text for text in records if (length := re.match(r"LOCUS +\S+ +(\d+)", text)) and int(length[1]) <= LONGEST
        ]
        (directory / "genomes" / name).write_bytes(gzip.compress("".join(short[:14]).encode()))
    fill_hub_cache(directory / "hub", "esm2_8m", {PINNED: 1, OTHER: 2})
    done = run(
        directory,
        "pipeline",
        source="genomes",
        dna_encoder=DNA.encoder,
        baseline=PROTEIN.encoder,
        candidate="esm2_8m",
        revisions=f"esm2_8m={OTHER}",
        test_fraction=0.3,
        val_fraction=0.2,
        epochs=2,
        replicates=2,
        sample=20,
        runs=1,
        warmup=1,
        policy=PROJECT / "model_registry" / "policy.yaml",
    )
    return directory, done


def runs_of(directory, stage):
    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, f"tags.`virnuc.stage` = '{stage}'", order_by=["attributes.start_time ASC"])


def test_it_runs_to_the_verdict(experiment):
    directory, done = experiment
    assert done.returncode in (0, 3), done.stderr  # which of the two depends on how fast this machine is
    (compared,) = runs_of(directory, "compare")
    assert compared.data.tags["virnuc.verdict"] in ("PASS", "FAIL")


def test_every_model_has_its_control_of_shuffled_sequences(experiment):
    directory, _ = experiment
    for evaluated in runs_of(directory, "evaluate"):
        assert "test/control/shuffled_accuracy" in evaluated.data.metrics


def test_the_revision_is_recorded_by_features_and_benchmark(experiment):
    directory, _ = experiment
    (features,) = (directory / "data" / "features").glob("*+esm2_8m")
    assert read_manifest(features, "features").details["protein"]["revision"] == OTHER
    (timed,) = runs_of(directory, "benchmark")
    assert timed.data.params["bench/candidate_revision"] == OTHER


def test_another_revision_never_finishes_or_reuses_these_features(experiment):
    directory, _ = experiment
    chosen = {"dna_encoder": "tetranucleotide", "protein_encoder": "esm2_8m", "revisions": f"esm2_8m={PINNED}"}
    done = run(directory, "extract", **chosen)
    assert (done.returncode, f"made with revision={OTHER}" in done.stderr) == (4, True), done.stderr


def test_the_benchmark_knows_the_encoder_by_its_recorded_name(experiment):
    directory, _ = experiment
    (timed,) = runs_of(directory, "benchmark")
    assert timed.data.tags["virnuc.baseline"] == load_encoder(PROTEIN.encoder).name


def test_evaluate_alone_says_which_directory_it_wants(experiment):
    directory, _ = experiment
    dna, protein = load_encoder(DNA.encoder).name, load_encoder(PROTEIN.encoder).name
    options = {
        "model": f"models:/virnuc-{protein}@challenger",
        "features": f"data/features/{dna}+{protein}",
        "out": "elsewhere",
    }
    assert run(directory, "evaluate", **options).stderr.endswith(f"give it with --weights {dna}=DIR\n")
    without = run(directory, "evaluate", **options, uncovered=0)
    assert f"the weights of {dna} came from a directory; give it with --weights {dna}=DIR" in without.stdout
    given = f"{dna}={DNA.directory},{protein}={PROTEIN.directory}"
    assert "no control of" not in run(directory, "evaluate", **options, weights=given).stdout
    asked, answered = runs_of(directory, "evaluate")[-2:]
    assert "test/control/shuffled_accuracy" not in asked.data.metrics
    assert "test/control/shuffled_accuracy" in answered.data.metrics
