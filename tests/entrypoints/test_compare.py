"""`compare` on a real store of constructed models: one baseline, several candidates, and what promotion makes of it."""

import json
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from entrypoints.compare import compare
from entrypoints.promote import promote
from model_registry.evidence import AGREEMENT, PREDICTIONS
from tests.shared.constructed import side, sides
from tests.shared.verdict import breaks
from virnuc.errors import DataError, GateRefusal, UsageError
from virnuc.reports.rendering import HTML, MARKDOWN, VERDICT
from virnuc.settings import CompareSettings, PromoteSettings

POLICY = str(Path(__file__).parents[2] / "model_registry" / "policy.yaml")

SCORER = {"format_version": 1, "chunk_size": 300, "encoders": [], "trained": {"split_digest": "ab" * 32}}
SLOW, FAST, WORSE = (f"models:/virnuc-{name}/1" for name in ("slow", "fast", "worse"))


def run_of(stage, tags=(), metrics=(), params=()):
    """Log a finished run, as a stage does; return its id."""
    with mlflow.start_run(tags={"virnuc.stage": stage, **{f"virnuc.{k}": v for k, v in dict(tags).items()}}) as run:
        mlflow.log_metrics(dict(metrics))
        mlflow.log_params(dict(params))
    return run.info.run_id


def register(evidence, directory, **settings):
    """Register a constructed side as `train` does; return its URI."""
    scorer = directory / "artifacts" / "scorer" / "scorer.json"
    scorer.parent.mkdir(parents=True, exist_ok=True)
    scorer.write_text(json.dumps(SCORER))
    digests = {"split_digest": evidence.split_digest, "features_digest": f"features of {evidence.name}"}
    params = {"config/out": "data/O'Brien's models"} | {f"config/{name}": value for name, value in settings.items()}
    run = run_of("train", {"model": evidence.encoder, **digests}, params=params)
    client = MlflowClient()
    client.create_registered_model(evidence.name)
    version = client.create_model_version(evidence.name, source=str(directory), run_id=run)
    return f"models:/{evidence.name}/{version.version}"


def evaluate(evidence, uri):
    """Log what `evaluate` logs of a constructed side."""
    tags = {"model": uri, "split_digest": evidence.split_digest, "split_unit": evidence.split_unit}
    tags |= {"evaluation_version": evidence.evaluation_version}
    tags |= {"weights": ",".join(f"{name}={kind}" for name, kind in evidence.weights.items())}
    run = run_of("evaluate", tags, {k: v for k, v in evidence.metrics.items() if v == v}, {"config/model": uri})
    with tempfile.TemporaryDirectory() as directory:
        evidence.predictions.to_parquet(Path(directory) / PREDICTIONS)
        MlflowClient().log_artifact(run, str(Path(directory) / PREDICTIONS))
    MlflowClient().log_dict(run, {"checkpoint": evidence.checkpoint, "features": evidence.features}, AGREEMENT)
    return run


def benchmark(baseline, candidate, seconds, precisions=("fp32", "fp32")):
    """Log what `benchmark` logs of two encoders."""
    metrics, params = {}, {"bench/device": "cpu", "bench/sample_digest": "5a" * 32, "bench/threads": "2"}
    for name, encoder, time, precision in zip(
        ("baseline", "candidate"), (baseline, candidate), seconds, precisions, strict=True
    ):
        metrics |= {f"bench/{name}_s": time, f"bench/{name}_run1_s": time}
        facts = {"": encoder, "_frames": 1000, "_precision": precision, "_weights": "hub"}
        params |= {f"bench/{name}{key}": value for key, value in facts.items()}
    return run_of("benchmark", {"baseline": baseline, "candidate": candidate}, metrics, params)


@pytest.fixture
def models(store, tmp_path, monkeypatch):
    """Three models in a store: slow, fast (as good, 4 times as fast) and worse (9 points, 3 times as fast)."""
    monkeypatch.chdir(tmp_path)
    slow, fast = sides()
    _, worse = sides(lost=9)
    worse = side("worse", worse.predictions)
    for evidence in (slow, fast, worse):
        evaluate(evidence, register(evidence, tmp_path / evidence.name))
    return {"fast": benchmark("slow", "fast", (10, 2.5)), "worse": benchmark("slow", "worse", (12, 4))}


def compared(*candidates, **changed):
    """Compare; return the verdict document, whatever the gate says of it."""
    settings = CompareSettings(SLOW, candidates, policy=POLICY, out="reports", **changed)
    try:
        return compare.run(settings)
    except (GateRefusal, DataError) as error:
        document = json.loads(Path("reports", VERDICT).read_text())
        assert document["answer"] in str(error)
        assert error.exit_code == {"FAIL": 3, "NO VERDICT": 4}[document["outcome"]]
        return document


def speedups(document):
    rules = [rule for verdict in document["verdicts"] for rule in verdict["rules"]]
    return [rule["numbers"]["speedup"] for rule in rules if rule["name"] == "speedup"]


def test_each_of_several_candidates_has_its_own_verdict_on_one_page(models):
    document = compared(FAST, WORSE)
    assert breaks(document) == []
    assert [verdict["outcome"] for verdict in document["verdicts"]] == ["PASS", "FAIL"]
    assert document["outcome"] == "FAIL"
    page, text = (Path("reports", name).read_text() for name in (HTML, MARKDOWN))
    for opening in (page[page.index("<h1>") : page.index("</header>")], text[: text.index("##")]):
        yes, no = opening.index("Yes: virnuc-fast v1 may replace"), opening.index("No: virnuc-worse v1 may not")
        assert opening.index("PASS") < yes < opening.index("FAIL") < no
    assert all(verdict["answer"] in document["answer"] for verdict in document["verdicts"])
    assert "- Next: virnuc-worse v1, Accuracy drop" in text


def test_each_candidate_is_promoted_by_its_own_verdict(models):
    compared(FAST, WORSE)
    with pytest.raises(GateRefusal, match=r"Accuracy drop, .*\+9.00 points, not < 5 points"):
        promote.run(PromoteSettings(WORSE, policy=POLICY))
    assert promote.run(PromoteSettings(FAST, policy=POLICY)).source == FAST
    evaluate(side("worse", sides()[1].predictions), WORSE)
    with pytest.raises(GateRefusal, match=r"virnuc-worse/1 was evaluated again"):
        promote.run(PromoteSettings(WORSE, policy=POLICY))
    assert not promote.run(PromoteSettings(FAST, policy=POLICY)).changed
    evaluate(sides()[0], SLOW)
    with pytest.raises(GateRefusal, match=r"baseline models:/virnuc-slow/1 was evaluated again"):
        promote.run(PromoteSettings(FAST, policy=POLICY))


def test_the_runs_of_several_candidates_read_well_in_the_store(models):
    document = compared(FAST, WORSE)
    client = MlflowClient()
    parent = client.get_run(document["run"])
    assert parent.data.tags["virnuc.verdict"] == "FAIL"
    assert "virnuc.candidate" not in parent.data.tags  # no promotion may take it for one candidate's
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    told = {run.info.run_name: run.data.tags["virnuc.verdict"] for run in children}
    assert told == {"compare fast": "PASS", "compare worse": "FAIL"}
    for run in (parent, *children):
        assert {HTML, MARKDOWN, VERDICT} <= {item.path for item in client.list_artifacts(run.info.run_id)}
    for run in children:
        candidate = run.data.tags["virnuc.candidate"].removeprefix("models:/").split("/")
        card = client.get_model_version(*candidate).description
        assert f"/runs/{run.info.run_id}/artifacts/{HTML}" in card
        assert f"**{run.data.tags['virnuc.verdict']}**" in card
    (worse,) = [run for run in children if run.info.run_name == "compare worse"]
    assert worse.data.metrics == {"gate/drop": 0.09, "gate/upper_bound": pytest.approx(0.09), "gate/speedup": 3}
    assert "may not replace" in worse.data.tags["mlflow.note.content"]
    assert "virnuc-fast v1" not in worse.data.tags["mlflow.note.content"]


def test_speed_is_that_of_each_pairs_own_benchmark(models):
    document = compared(FAST, WORSE)
    assert speedups(document) == [4, 3]
    text = Path("reports", MARKDOWN).read_text()
    assert all(f"benchmark run {run}." in text for run in models.values())


def test_the_newest_benchmark_counts_unless_one_is_named(models):
    slower = benchmark("slow", "fast", (10, 8))
    assert speedups(compared(FAST)) == [1.25]
    document = compared(FAST, benchmark=(models["fast"],))
    assert speedups(document) == [4]
    assert f"benchmark run {models['fast']}." in Path("reports", MARKDOWN).read_text()
    assert speedups(compared(FAST, WORSE, benchmark=(slower, models["worse"]))) == [1.25, 3]
    run = MlflowClient().search_runs(["0", "1", "2"], "tags.`virnuc.candidate` = 'models:/virnuc-worse/1'")[0]
    assert run.data.tags["virnuc.benchmark_run"] == models["worse"]


def test_a_benchmark_that_is_none_of_the_two_encoders_is_refused(models):
    for wrong in (models["worse"], MlflowClient().search_runs(["1"], "tags.`virnuc.stage` = 'train'")[0].info.run_id):
        with pytest.raises(DataError, match=f"run {wrong} is no finished benchmark of slow and fast; run benchmark"):
            compare.run(CompareSettings(SLOW, (FAST,), benchmark=(wrong,), policy=POLICY))
    with pytest.raises(DataError, match="has no run 0123"):
        compare.run(CompareSettings(SLOW, (FAST,), benchmark=("0123",), policy=POLICY))


def test_one_candidate_without_a_verdict_leaves_the_others_theirs(models):
    other = replace(side("other", sides()[1].predictions), split_digest="cd" * 32)
    uri = register(other, Path("other").absolute())
    evaluate(other, uri)
    document = compared(FAST, uri)
    assert [verdict["outcome"] for verdict in document["verdicts"]] == ["PASS", "NO VERDICT"]
    assert document["outcome"] == "NO VERDICT"
    assert promote.run(PromoteSettings(FAST, policy=POLICY)).changed
    with pytest.raises(GateRefusal, match="tested on different splits"):
        promote.run(PromoteSettings(uri, policy=POLICY))


@pytest.mark.parametrize("candidates", [(), (FAST, FAST), (FAST, "models:/virnuc-fast@challenger")])
def test_no_candidate_or_one_named_twice_is_a_usage_error(models, candidates):
    MlflowClient().set_registered_model_alias("virnuc-fast", "challenger", "1")
    with pytest.raises(UsageError, match=r"each once|the same version"):
        compare.run(CompareSettings(SLOW, candidates, policy=POLICY))


def test_a_metric_edited_in_the_store_is_refused(models):
    run = MlflowClient().search_runs(["1"], f"tags.`virnuc.model` = '{FAST}'")[0].info.run_id
    MlflowClient().log_metric(run, "test/accuracy", 0.99)
    with pytest.raises(DataError, match=r"virnuc-fast v1: the logged test/accuracy is 0.99.*evaluate again"):
        compare.run(CompareSettings(SLOW, (FAST,), policy=POLICY))


def test_commands_go_back_to_the_genomes(models):
    made = register(side("companion", sides()[1].predictions), Path("companion").absolute(), modality="dna")
    other = side("other", sides()[1].predictions)
    uri = register(other, Path("other").absolute(), companion=made)
    evaluate(other, uri)
    frames, digests = {"frames_digest": "frames of other"}, {"features_digest": f"features of {other.name}"}
    run_of("prepare", frames, params={"config/source": "genomes"})
    counts = {"split/train_frames": 8, "split/val_frames": 1}
    run_of("split", {"split_digest": other.split_digest}, counts, {"config/unit": "genome", "config/seed": 1})
    run_of("extract", frames | digests, params={"config/dna_encoder": "dnabert_s"})
    benchmark("slow", "other", (10, 2))
    commands = compared(uri)["sides"][1]["commands"]
    stages = [shlex.split(command)[2].removeprefix("entrypoints.") for command in commands]
    assert stages == ["prepare", "split", "extract", "train", "train", "evaluate", "benchmark"]
    assert "--modality=dna" in commands[3]
    assert f"--companion={made}" in commands[4]


def test_commands_are_written_as_a_shell_reads_them(models):
    document = compared(FAST)
    (train,) = [command for command in document["sides"][1]["commands"] if "entrypoints.train" in command]
    assert shlex.split(train)[-1] == "--out=data/O'Brien's models"
    words = shlex.split(document["command"])
    assert words[:3] == ["python", "-m", "entrypoints.compare"]
    assert {f"--baseline={SLOW}", f"--candidate={FAST}", "--out=reports"} <= set(words)
