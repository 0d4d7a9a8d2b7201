"""`compare` on a real store: several candidates on a page, the choice of a benchmark, changed records."""

import json
import shlex
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from entrypoints.compare import compare
from tests.shared.experiment import BASELINE, CANDIDATE, FAST
from tests.shared.verdict import violations
from virnuc.errors import DataError, GateRefusal, UsageError
from virnuc.reports.rendering import HTML, MARKDOWN, VERDICT
from virnuc.settings import CompareSettings

WEAK = CANDIDATE[:-1] + "3"


def runs_of(stage, **tags):
    wanted = {"stage": stage, **tags}
    query = " and ".join(f"tags.`virnuc.{name}` = '{value}'" for name, value in wanted.items())
    return MlflowClient().search_runs(["1"], query)


def verdict_on(*candidates, **changed):
    """Compare; return the verdict document, whatever the outcome."""
    settings = CompareSettings(baseline=BASELINE, candidate=candidates, out="reports", **changed)
    try:
        return compare.run(settings)
    except (GateRefusal, DataError) as error:
        document = json.loads(Path("reports", VERDICT).read_text())
        assert document["answer"] in str(error)
        assert error.exit_code == {"FAIL": 3, "NO VERDICT": 4}[document["outcome"]]
        return document


def test_each_of_several_candidates_has_its_own_verdict_on_one_page_and_a_run_of_its_own(experiment):
    assert experiment.trained(FAST, epochs=1, out="weak", replicates=2) == WEAK
    document = verdict_on(CANDIDATE, WEAK)
    assert violations(document) == []
    assert [verdict["outcome"] for verdict in document["verdicts"]] == ["PASS", "FAIL"]
    assert document["outcome"] == "FAIL"
    assert [len(verdict["earlier"]) for verdict in document["verdicts"]] == [1, 0]
    page, text = (Path("reports", name).read_text() for name in (HTML, MARKDOWN))
    for opening in (page[page.index("<h1>") : page.index("</header>")], text[: text.index("##")]):
        yes, no = (opening.index(f"{start}: virnuc-{FAST} v{n} may") for start, n in (("Yes", 1), ("No", 3)))
        assert opening.index("PASS") < yes < opening.index("FAIL") < no
    client = MlflowClient()
    parent = client.get_run(document["run"])
    assert "virnuc.candidate" not in parent.data.tags  # no promotion may take it for the report of a single candidate
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    told = {run.data.tags["virnuc.candidate"]: run.data.tags["virnuc.verdict"] for run in children}
    assert told == {CANDIDATE: "PASS", WEAK: "FAIL"}
    for run in children:
        assert {HTML, MARKDOWN, VERDICT} <= {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"gate/drop", "gate/speedup_low", "drop/detectable"} <= run.data.metrics.keys()
        name, version = run.data.tags["virnuc.candidate"].removeprefix("models:/").split("/")
        card = client.get_model_version(name, version).description
        assert f"/runs/{run.info.run_id}/artifacts/{HTML}" in card
        assert f"{run.data.tags['virnuc.verdict']} against {BASELINE}" in card


def test_the_newest_benchmark_counts_unless_one_is_named_and_others_are_refused(experiment):
    (first,) = runs_of("benchmark")
    experiment.timed(runs=1, frames=1)
    newest = verdict_on(CANDIDATE)
    assert newest["outcome"] == "FAIL"
    assert "1 frames are too few" in newest["answer"]
    assert verdict_on(CANDIDATE, benchmark=(first.info.run_id,))["outcome"] == "PASS"
    for wrong in (runs_of("train")[0].info.run_id, "0123"):
        with pytest.raises(DataError, match=f"{wrong} is not a finished benchmark|has no run {wrong}"):
            compare.run(CompareSettings(baseline=BASELINE, candidate=(CANDIDATE,), benchmark=(wrong,)))


def test_candidates_that_are_one_version_are_a_usage_error(experiment):
    MlflowClient().set_registered_model_alias(f"virnuc-{FAST}", "twin", "1")
    with pytest.raises(UsageError, match="the same version"):
        verdict_on(CANDIDATE, f"models:/virnuc-{FAST}@twin")


def test_a_metric_edited_in_the_store_is_refused(experiment):
    run = runs_of("evaluate", model=CANDIDATE)[0].info.run_id
    MlflowClient().log_metric(run, "test/accuracy", 0.123)
    with pytest.raises(DataError, match=r"the logged test/accuracy is 0.123.*evaluate again"):
        compare.run(CompareSettings(baseline=BASELINE, candidate=(CANDIDATE,)))


def test_commands_are_written_as_a_shell_reads_them(experiment):
    document = verdict_on(CANDIDATE)
    stages = [shlex.split(command)[2] for command in document["sides"][1]["commands"]]
    assert [name.removeprefix("entrypoints.") for name in stages] == ["train", "evaluate", "benchmark"]
    words = shlex.split(document["command"])
    assert words[:3] == ["python", "-m", "entrypoints.compare"]
    assert {f"--baseline={BASELINE}", f"--candidate={CANDIDATE}", "--out=reports"} <= set(words)
