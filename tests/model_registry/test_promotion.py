"""Promotion on a real SQLite store: what is refused, what moves, and what stays when something breaks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from subprocess import PIPE

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from model_registry import promotion
from model_registry.gate import Policy
from model_registry.locking import promotion_lock
from model_registry.promotion import promote, rollback
from virnuc.errors import DataError, GateRefusal, UsageError, VirnucError
from virnuc.tracking import find_finished

POLICY = Policy(version=1, accuracy_drop_below=0.05, accuracy_drop_upper_bound_below=0.05, speedup_at_least=2.0)
RULE = {"title": "Accuracy drop", "observed": "+7.00 points", "limit": "< 5 points", "next_steps": ["Train longer."]}


@pytest.fixture
def client(store):
    return MlflowClient()


SCORER = {"format_version": 1, "chunk_size": 300, "encoders": [], "trained": {"split_digest": "s1"}}


@pytest.fixture
def files(tmp_path):
    """The files of a registered model, as far as its card needs them."""
    path = tmp_path / "model" / "artifacts" / "scorer" / "scorer.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(SCORER))
    return tmp_path / "model"


def register(client, name, files):
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, source=str(files), tags={"origin": name})
    return f"models:/{name}/{version.version}"


def run(tags, artifact=None):
    with mlflow.start_run(tags={f"virnuc.{key}": value for key, value in tags.items()}) as active:
        if artifact:
            mlflow.log_dict(artifact, "verdict.json")
    return active.info.run_id


def evaluate(uri, split="s1"):
    return run({"stage": "evaluate", "model": uri, "split_digest": split})


def newest_evaluation(uri):
    return next((found.info.run_id for found in find_finished("evaluate", {"model": uri})), None)


def compare(baseline, candidate, verdict="PASS", policy=POLICY, evaluations=None):
    evaluations = evaluations or tuple(newest_evaluation(uri) or evaluate(uri) for uri in (baseline, candidate))
    name, version = candidate.removeprefix("models:/").split("/")
    rules = [{**RULE, "passed": verdict == "PASS"}]
    tags = {
        "stage": "compare",
        "baseline": baseline,
        "candidate": candidate,
        "verdict": verdict,
        "policy_digest": policy.digest,
        "split_digest": "s1",
        "baseline_evaluation_run": evaluations[0],
        "evaluation_run": evaluations[1],
    }
    return run(tags, {"verdicts": [{"candidate": f"{name} v{version}", "rules": rules}]})


@pytest.fixture
def sides(client, files):
    return register(client, "virnuc-slow", files), register(client, "virnuc-fast", files)


def aliases(client):
    return {alias: str(version) for alias, version in client.get_registered_model("virnuc").aliases.items()}


def promote_it(uri, override="", policy=POLICY):
    return promote(uri, "champion", policy, override, "me@here")


def test_a_pass_copies_the_version_and_moves_the_alias(client, sides):
    comparison = compare(*sides)
    promoted = promote_it(sides[1])
    version = client.get_model_version_by_alias("virnuc", "champion")
    assert promoted.version == str(version.version) and promoted.changed and promoted.replaced is None
    assert version.tags["origin"] == "virnuc-fast"
    assert f"Compared with {sides[0]}: **PASS**" in version.description
    assert version.tags["virnuc.promoted_from"] == sides[1]
    assert version.tags["virnuc.comparison_run"] == comparison
    assert version.tags["virnuc.promoted_by"] == "me@here" and version.tags["virnuc.promoted_at"]
    assert version.tags["virnuc.promoted_why"] == "the gate passed"
    assert "virnuc.override" not in version.tags


def test_the_old_champion_becomes_previous_and_rollback_puts_it_back(client, sides, files):
    newer = register(client, "virnuc-fast", files)
    for uri in (sides[1], newer):
        compare(sides[0], uri)
        promote_it(uri)
    assert aliases(client) == {"champion": "2", "previous": "1"}
    back = rollback("champion", "me@here")
    assert back.version == "1" and aliases(client) == {"champion": "1", "previous": "2"}
    assert client.get_model_version("virnuc", "2").tags["virnuc.rolled_back"].endswith("by me@here")


def test_promoting_the_champion_again_changes_nothing(client, sides):
    compare(*sides)
    first, second = promote_it(sides[1]), promote_it(sides[1])
    assert not second.changed and second.version == first.version
    assert len(client.search_model_versions("name = 'virnuc'")) == 1


def test_rollback_without_a_previous_version_says_so(client, sides):
    with pytest.raises(UsageError, match="no previous version"):
        rollback("champion", "me")


def refused(uri, match, **kwargs):
    with pytest.raises(GateRefusal, match=match) as caught:
        promote_it(uri, **kwargs)
    assert caught.value.exit_code == 3


def test_a_failed_verdict_is_refused_with_its_numbers_and_next_steps(client, sides):
    compare(*sides, verdict="FAIL")
    refused(sides[1], r"Accuracy drop: \+7.00 points, not < 5 points. Train longer.")
    assert not client.search_registered_models("name = 'virnuc'")


def test_only_a_comparison_of_exactly_this_version_counts(client, sides, files):
    compare(*sides)
    refused(register(client, "virnuc-fast", files), "no comparison of models:/virnuc-fast/2")


def test_the_newest_comparison_counts(client, sides):
    compare(*sides)
    compare(*sides, verdict="FAIL")
    refused(sides[1], "Accuracy drop")
    compare(*sides)
    promote_it(sides[1])


@pytest.mark.parametrize("side", [0, 1])
def test_an_evaluation_after_the_comparison_makes_it_out_of_date(client, sides, side):
    compare(*sides)
    evaluate(sides[side])
    refused(sides[1], "was evaluated again after the comparison")


def test_an_edited_policy_makes_it_out_of_date(client, sides):
    compare(*sides)
    refused(sides[1], "policy was edited", policy=replace(POLICY, accuracy_drop_below=0.5))


def test_evaluations_on_another_split_than_stated_are_refused(client, sides):
    compare(*sides, evaluations=(evaluate(sides[0]), evaluate(sides[1], split="s2")))
    refused(sides[1], "another split")


def test_a_deleted_evaluation_is_refused(client, sides):
    evaluations = (evaluate(sides[0]), evaluate(sides[1]))
    compare(*sides, evaluations=evaluations)
    client.delete_run(evaluations[0])
    refused(sides[1], "no evaluation of the baseline")


def test_an_override_promotes_and_is_recorded_for_ever(client, sides):
    compare(*sides, verdict="FAIL")
    promoted = promote_it(sides[1], override="outbreak: the slow one cannot keep up")
    assert promoted.overridden
    tags = client.get_model_version_by_alias("virnuc", "champion").tags
    assert tags["virnuc.override"] == "outbreak: the slow one cannot keep up"
    assert "+7.00 points" in tags["virnuc.override_rules"]
    assert tags["virnuc.promoted_why"] == "override"


def test_an_override_that_is_not_needed_leaves_no_mark(client, sides):
    compare(*sides)
    assert not promote_it(sides[1], override="just in case").overridden
    assert "virnuc.override" not in client.get_model_version_by_alias("virnuc", "champion").tags


def test_an_unknown_version_is_named(client, sides):
    with pytest.raises(DataError, match="virnuc-fast has the versions 1"):
        promote_it("models:/virnuc-fast/7")


FAULTS = [
    ("create_model_version", 1),
    ("set_registered_model_alias", 1),
    ("set_registered_model_alias", 2),
    ("set_model_version_tag", 1),
]


@pytest.mark.parametrize(("fault", "calls"), FAULTS)
def test_an_error_at_any_step_leaves_everything_as_it_was(client, sides, files, monkeypatch, fault, calls):
    newer = register(client, "virnuc-fast", files)
    for uri in (sides[1], newer):
        compare(sides[0], uri)
    promote_it(sides[1])
    real, count = getattr(MlflowClient, fault), 0

    def broken(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == calls:
            raise ConnectionError("the server is gone")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, fault, broken)
        with pytest.raises(ConnectionError):
            promote_it(newer)
    assert aliases(client) == {"champion": "1"}
    assert len(client.search_model_versions("name = 'virnuc'")) == 1
    assert promote_it(newer).changed


@pytest.mark.parametrize("moved", ["nothing", "champion"])
def test_what_a_killed_promotion_left_is_repaired_by_the_next_one(client, sides, files, moved):
    newer, newest = register(client, "virnuc-fast", files), register(client, "virnuc-fast", files)
    for uri in (sides[1], newer, newest):
        compare(sides[0], uri)
    promote_it(sides[1])
    tags = {promotion.STATE: promotion.PROMOTING, promotion.PROMOTED_FROM: newer, promotion.REPLACES: "1"}
    left = client.create_model_version("virnuc", source=newer, tags=tags)
    if moved == "champion":
        client.set_registered_model_alias("virnuc", "champion", left.version)
    promote_it(newest)
    if moved == "champion":
        assert aliases(client) == {"champion": "3", "previous": "2"}
        assert client.get_model_version("virnuc", "2").tags[promotion.STATE] == promotion.DONE
    else:
        assert aliases(client) == {"champion": "3", "previous": "1"}
        assert sorted(str(v.version) for v in client.search_model_versions("name = 'virnuc'")) == ["1", "3"]


def test_a_hand_made_verdict_file_is_no_verdict(client, sides):
    compare(*sides, verdict="FAIL")
    found = client.search_runs(["1"], "tags.`virnuc.stage` = 'compare'")[0]
    client.log_text(found.info.run_id, json.dumps({"verdicts": "yes"}), "verdict.json")
    with pytest.raises(DataError, match="no verdict on"):
        promote_it(sides[1])


RACER = """
import sys
from model_registry.gate import Policy
from model_registry.locking import promotion_lock
from model_registry.promotion import promote
sys.stdin.readline()
print(promote(sys.argv[1], "champion", Policy(1, 0.05, 0.05, 2.0), "", sys.argv[2]).version)
"""


def race(uris):
    """Promote in processes of their own, started together; return what each printed."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, uri, f"racer {n}"], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True
        )
        for n, uri in enumerate(uris)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ended = [(*racer.communicate(), racer.returncode) for racer in racers]
    assert [code for _, _, code in ended] == [0, 0], ended
    return [printed.strip() for printed, _, _ in ended]


def test_racing_promotions_end_as_if_one_had_followed_the_other(client, sides, files):
    rivals = [sides[1], register(client, "virnuc-fast", files)]
    for uri in rivals:
        compare(sides[0], uri)
    assert sorted(race(rivals)) == ["1", "2"]
    assert aliases(client) == {"champion": "2", "previous": "1"}
    tags = [client.get_model_version("virnuc", version).tags for version in ("1", "2")]
    assert [tag[promotion.STATE] for tag in tags] == [promotion.DONE] * 2
    assert [tag.get(promotion.REPLACES) for tag in tags] == ["", "1"]
    assert sorted(tag[promotion.PROMOTED_FROM] for tag in tags) == sorted(rivals)
    assert [model.name for model in client.search_registered_models()] == ["virnuc", "virnuc-fast", "virnuc-slow"]


def test_a_lock_that_is_held_is_waited_for_and_then_named(client):
    held = promotion_lock(client, "somebody")
    with (
        held,
        pytest.raises(VirnucError, match="somebody is promoting just now"),
        promotion_lock(client, "me", wait=0.3),
    ):
        pass
    with promotion_lock(client, "me", wait=0):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(client):
    code = (
        "import os, mlflow; from model_registry.locking import promotion_lock; "
        "promotion_lock(mlflow.MlflowClient(), 'x').__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with promotion_lock(client, "me", wait=1) as lock:
        lock.still_held()
        client.set_registered_model_tag("virnuc-promotion-lock", "token", "another's")
        with pytest.raises(VirnucError, match="took the promotion lock over"):
            lock.still_held()


def test_one_full_cycle_on_postgresql(tmp_path, monkeypatch, files):
    with postgresql() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("tests", artifact_location=str(tmp_path / "pg")))
        client = MlflowClient()
        slow, fast, newer = (register(client, name, files) for name in ("virnuc-slow", "virnuc-fast", "virnuc-fast"))
        refused(fast, "no comparison")
        for uri in (fast, newer):
            compare(slow, uri)
        assert sorted(race([fast, newer])) == ["1", "2"]
        assert aliases(client) == {"champion": "2", "previous": "1"}
        assert rollback("champion", "me").version == "1"
        mlflow.set_tracking_uri(None)


@contextmanager
def postgresql():
    """Run a PostgreSQL server of our own for the time of a block and yield the URI of its database."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if not (initdb and server):
        pytest.skip("no PostgreSQL server program on this machine")
    pytest.importorskip("psycopg2", reason="no PostgreSQL driver (psycopg2) installed")
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # PostgreSQL does not run as root
    with tempfile.TemporaryDirectory() as home:
        if user:
            shutil.chown(home, "nobody")
        made = subprocess.run([initdb, "-D", f"{home}/data", "-U", "virnuc", "-A", "trust"], stderr=PIPE, **user)
        if made.returncode:
            pytest.skip(f"initdb: {made.stderr.decode().strip().splitlines()[0]}")
        port = str(free_port())
        command = [server, "-D", f"{home}/data", "-p", port, "-k", home]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, **user) as process:
            try:
                wait_for(port)
                yield f"postgresql+psycopg2://virnuc@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGINT)  # disconnects whoever is left


def wait_for(port):
    import psycopg2

    for _ in range(100):
        try:
            return psycopg2.connect(host="127.0.0.1", port=port, user="virnuc", dbname="postgres").close()
        except psycopg2.OperationalError:
            time.sleep(0.1)
    pytest.skip("the PostgreSQL server does not start here")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
