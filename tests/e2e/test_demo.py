"""The results of the demo: runs, models, reports; its tests work on in one copy of it, one after another."""

import json
import re
import sys

import mlflow
import pandas as pd
import pytest

from tests.shared import PROJECT
from virnuc import benchmarking
from virnuc.prediction.chunks import ANSWERED
from virnuc.prediction.companion import METHODS
from virnuc.sequences.frames import chunk_shards, read_chunks
from virnuc.splits.assignment import Split

pytestmark = pytest.mark.e2e
SIDES = ("esm2_tiny_deep", "esm2_tiny")
DNA_CONTROLS = ("hexamer_tiny_dna", "codon_phase_dna")
COMPANION = "hexamer_tiny_chunks"
MODELS = [f"models:/virnuc-{name}" for name in ("esm2_tiny_deep/1", "esm2_tiny/1", "dipeptide/1")]
ALL_MODELS = [*MODELS, *(f"models:/virnuc-{name}/1" for name in DNA_CONTROLS)]  # as in the report: sides, then controls
EPOCH_KEYS = {
    "train/loss",
    "val/loss",
    "val/accuracy",
    "val/precision",
    "val/recall",
    "val/f1",
    "val/roc_auc",
    "lr",
    "epoch_s",
    "total_s",
    "frames_per_s",
}


def test_one_parent_run_with_a_child_run_a_stage(demo):
    (parent,) = demo.runs("main")
    for link, directory in ((demo.data.parent, demo.data), (demo.data / "reports", demo.reports)):
        assert (link / "latest").resolve() == directory.resolve()
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["virnuc.verdict"] == "PASS"
    wanted = {"accuracy/baseline", "accuracy/candidate", "drop/value", "drop/low", "drop/high", "speedup"}
    assert wanted <= parent.data.metrics.keys()
    assert "validation_report.html" in {item.path for item in demo.client.list_artifacts(parent.info.run_id)}
    expected = {
        "prepare": 1,
        "split": 1,
        "extract": 4,
        "train": 6,
        "evaluate": 5,
        "benchmark": 1,
        "compare": 1,
        "promote": 1,
    }
    for stage, count in expected.items():
        runs = demo.runs(stage)
        assert len(runs) == count
        for run in runs:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.info.status == "FINISHED"
            assert run.data.tags["virnuc.commit"]
            assert any(name.startswith("config/") for name in run.data.params)


def test_metric_keys_are_the_same_for_all_models(demo):
    for stage, wanted in (
        ("train", EPOCH_KEYS | {f"val/{status}/accuracy_{method}" for status in ANSWERED for method in METHODS}),
        ("evaluate", {"test/accuracy", "test/roc_auc", "test/mcc", "test/control/shuffled_accuracy"}),
    ):
        of_dna = {*DNA_CONTROLS, COMPANION, *ALL_MODELS[len(MODELS) :]}
        runs = [run for run in demo.runs(stage) if run.data.tags["virnuc.model"] not in of_dna]
        first, *others = [run for run in runs if stage == "evaluate" or "virnuc.companion_run" in run.data.tags]
        assert wanted <= first.data.metrics.keys()
        for other in others:
            different = other.data.metrics.keys() ^ first.data.metrics.keys()
            assert all(
                re.match("test/prevalence_.*false_discovery", name) for name in different
            )  # out of reach for one
            assert other.data.params.keys() == first.data.params.keys()


def test_the_companion_reads_all_chunks_of_the_splits_genomes(demo):
    chunks = pd.concat(read_chunks(path).to_pandas() for path in chunk_shards(demo.data / "frames"))
    without = ~chunks["genome"].isin(Split.open(demo.data / "test_set").table["genome"])
    (left_out,) = re.findall(f"{COMPANION}: WARNING: ([0-9,]+) readings of chunks are left out", demo.output)
    assert int(left_out.replace(",", "")) == 6 * without.sum() > 0  # in six frames


def test_the_companion_has_the_weights_of_the_lowest_validation_loss(demo):
    version = demo.client.get_model_version(f"virnuc-{COMPANION}", "1")
    losses = [metric.value for metric in demo.client.get_metric_history(version.run_id, "val/loss")]
    assert float(version.tags["virnuc.replicate_val_loss"]) == pytest.approx(min(losses), abs=1e-5)
    assert min(losses) < losses[-1]


def test_every_epoch_is_logged_once(demo):
    for run in demo.runs("train"):
        history = demo.client.get_metric_history(run.info.run_id, "val/loss")
        assert [metric.step for metric in history] == list(range(1, len(history) + 1))


def test_datasets_carry_their_manifests_digests(demo):
    digests = {
        name: json.loads((demo.data / folder / "manifest.json").read_text())["digest"]
        for name, folder in (("frames", "frames"), ("features", "features/hexamer_tiny+esm2_tiny_deep"))
    }
    inputs = {item.dataset.name: item.dataset.digest for item in demo.trained(SIDES[0]).inputs.dataset_inputs}
    assert inputs["features"] == digests["features"][:36]
    assert inputs["split"] == Split.open(demo.data / "test_set").digest[:36]
    assert {i.dataset.digest for i in demo.runs("extract")[0].inputs.dataset_inputs} >= {digests["frames"][:36]}


def test_models_are_registered_and_the_champion_is_the_candidate(demo):
    names = {model.name for model in demo.client.search_registered_models()}
    assert names == {"virnuc", *(f"virnuc-{name}" for name in (*SIDES, *DNA_CONTROLS, COMPANION, "dipeptide"))}
    champion = demo.client.get_model_version_by_alias("virnuc", "champion")
    assert champion.tags["virnuc.promoted_from"] == "models:/virnuc-esm2_tiny/1"
    for side in SIDES:
        assert demo.client.get_model_version_by_alias(f"virnuc-{side}", "challenger").version in (1, "1")
    assert "accuracy" in champion.description


def test_figures_and_checkpoints_are_artifacts(demo):
    train, evaluate = demo.trained(SIDES[0]).info.run_id, demo.runs("evaluate")[0].info.run_id
    listed = lambda run, folder: {item.path for item in demo.client.list_artifacts(run, folder)}  # noqa: E731
    assert "figures/loss_curves.png" in listed(train, "figures")
    assert "checkpoints/model_esm2_tiny_deep.pth" in listed(train, "checkpoints")
    assert {"confusion_matrix.png", "roc.png", "metrics.json", "strata.json"} <= listed(evaluate, None)
    compare = demo.runs("compare")[0].info.run_id
    assert {"validation_report.html", "validation_report.md", "verdict.json"} <= listed(compare, None)


def test_the_report_holds_only_numbers_of_the_store(demo):
    verdict = json.loads((demo.reports / "verdict.json").read_text())
    evaluated = {run.data.tags["virnuc.model"]: demo.measured(run) for run in demo.runs("evaluate")}
    metrics = [evaluated[model] for model in ALL_MODELS]
    for side, logged in zip(verdict["sides"], metrics, strict=True):
        for name, interval in side["metrics"]["frames"].items():
            assert interval["value"] == pytest.approx(logged[f"test/{name}"], abs=1e-12)
    page = (demo.reports / "validation_report.md").read_text()
    for logged in metrics:
        assert f"{logged['test/accuracy']:.3f}" in page
    bench = demo.runs("benchmark")[0].data.metrics
    assert f"{bench['bench/speedup']:.2f} times as fast" in page
    (speedup,) = [rule for rule in verdict["verdicts"][0]["rules"] if rule["name"] == "speedup"]
    assert speedup["numbers"]["speedup"] == pytest.approx(bench["bench/speedup"])


def test_the_terminal_ends_with_a_summary(demo):
    for shown in (
        "esm2_tiny_deep (baseline)",
        "esm2_tiny (candidate)",
        "dipeptide (control)",
        "Accuracy",
        "make ui",
    ):
        assert shown in demo.output
    assert re.search(r"virnuc@champion is version 1, from models:/virnuc-esm2_tiny/1", demo.output)
    assert "validation_report.html" in demo.output


@pytest.fixture
def no_peaks(monkeypatch):
    """Peaks are not measured again, as the demo measures them and that takes seconds."""
    for measured in ("gemm_peak", "peak_in_fresh_process"):
        monkeypatch.setattr(benchmarking, measured, lambda *given: 1.0)


@pytest.mark.usefixtures("no_peaks")
def test_the_slow_side_as_candidate_is_refused(demo):
    passed = (demo.reports / "verdict.json").read_bytes()
    done = demo.run("main", "--baseline=esm2_tiny", "--candidate=esm2_tiny_deep", "--sample=50", "--runs=2")
    assert (demo.reports / "verdict.json").read_bytes() == passed
    assert json.loads((demo.data / "reports" / "latest" / "verdict.json").read_text())["outcome"] == "FAIL"
    assert done.returncode == 3
    assert "virnuc-esm2_tiny version 1; delete" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("main: ")]
    assert "virnuc-esm2_tiny_deep v1 may not replace virnuc-esm2_tiny v1" in line
    assert "FAIL  Embedding speed-up" in done.stdout
    champion = demo.client.get_model_version_by_alias("virnuc", "champion")
    assert champion.tags["virnuc.promoted_from"] == "models:/virnuc-esm2_tiny/1"
    refused = demo.run("promote", "--candidate", "models:/virnuc-esm2_tiny_deep/1")
    assert refused.returncode == 3
    assert "speed-up" in refused.stderr


def test_the_same_again_reuses_what_is_done(demo):
    before = {stage: len(demo.runs(stage)) for stage in ("train", "evaluate", "benchmark")}
    done = demo.run("main")
    assert done.returncode == 0, done.stderr
    assert {stage: len(demo.runs(stage)) for stage in before} == before
    assert "virnuc@champion is version 1, from models:/virnuc-esm2_tiny/1, as before" in done.stdout


def test_the_notebook_runs_on_what_the_demo_left(demo, monkeypatch):
    monkeypatch.chdir(demo.directory)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a loaded model's copy of the code comes first in it
    found = {}
    for cell in json.loads((PROJECT / "examples" / "explore.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), found)
    found["plt"].close()
    mlflow.set_tracking_uri(None)
    assert sorted(found["runs"]) == ["models:/virnuc-esm2_tiny/1", "models:/virnuc-esm2_tiny_deep/1"]
    assert found["answer"]["status"].tolist() == ["scored", "too_short"]
    assert len(found["first"]) > 3


@pytest.mark.usefixtures("no_peaks")
def test_each_stage_runs_alone_on_what_the_stage_before_wrote(demo):
    features, frames, test_set = (
        str(demo.data / name) for name in ("features/hexamer_tiny+esm2_tiny", "frames", "test_set")
    )
    for stage, parameters in (
        ("split", {"source": features, "out": "data/split_of_features"}),
        ("train", {"features": features, "split": test_set, "epochs": "2", "lr": "1e-3"}),
        (
            "evaluate",
            {"model": "models:/virnuc-esm2_tiny/2", "features": features, "split": test_set, "chunks": "200"},
        ),
        (
            "benchmark",
            {"baseline": "esm2_tiny_deep", "candidate": "esm2_tiny", "frames": frames, "sample": "50", "runs": "2"},
        ),
    ):
        options = [f"--{name}={value}" for name, value in parameters.items()]
        done = demo.mlflow(stage, **parameters) if stage == "train" else demo.run(stage, *options)  # mlflow adds 6 s
        assert done.returncode == 0, done.stdout + done.stderr
    assert demo.client.get_model_version("virnuc-esm2_tiny", "2")
