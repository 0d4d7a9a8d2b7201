"""Promotion on a real SQLite store: aliases, records, and the state after an error."""

from __future__ import annotations

import os
import signal

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from model_registry import promotion
from model_registry.gate import Policy
from model_registry.locking import promotion_lock
from model_registry.promotion import promote, rollback
from tests.shared import experiment as experiments
from tests.shared.experiment import BASELINE, CANDIDATE
from tests.shared.figures import undrawn
from tests.shared.postgresql import postgresql
from tests.shared.processes import FORK, forked
from virnuc.errors import DataError, GateRefusal, UsageError, VirnucError

NEWER = CANDIDATE[:-1] + "2"


@pytest.fixture
def client(experiment):
    """The client of a store in which both versions of the candidate passed."""
    return MlflowClient()


def aliases(client):
    return {alias: str(version) for alias, version in client.get_registered_model("virnuc").aliases.items()}


def promote_it(uri=CANDIDATE, override=""):
    return promote(uri, "champion", Policy.read(), override, "me@here")


def test_a_pass_copies_the_version_and_moves_the_alias(client):
    promoted = promote_it()
    version = client.get_model_version_by_alias("virnuc", "champion")
    assert promoted.version == str(version.version) and promoted.changed and promoted.replaced is None
    assert f"Compared with {BASELINE}: **PASS**" in version.description
    tags = version.tags
    assert tags["virnuc.promoted_from"] == CANDIDATE and tags["virnuc.promoted_why"] == "the gate passed"
    assert client.get_run(tags["virnuc.comparison_run"]).data.tags["virnuc.candidate"] == CANDIDATE
    assert tags["virnuc.policy_digest"] == Policy.read().digest
    assert tags["virnuc.promoted_by"] == "me@here" and tags["virnuc.promoted_at"]
    assert "virnuc.override" not in tags


def test_the_old_champion_becomes_previous_and_rollback_puts_it_back(client):
    for uri in (CANDIDATE, NEWER):
        promote_it(uri)
    assert aliases(client) == {"champion": "2", "previous": "1"}
    assert not promote_it(NEWER).changed
    back = rollback("champion", "me@here")
    assert back.version == "1" and aliases(client) == {"champion": "1", "previous": "2"}
    assert client.get_model_version("virnuc", "2").tags["virnuc.rolled_back"].endswith("by me@here")


def test_rollback_without_a_previous_version_says_so(client):
    with pytest.raises(UsageError, match="no previous version"):
        rollback("champion", "me")


def test_only_a_comparison_of_exactly_this_version_counts(client):
    with pytest.raises(GateRefusal, match=f"no comparison of {BASELINE}") as caught:
        promote_it(BASELINE)
    assert caught.value.exit_code == 3


def test_a_deleted_evaluation_is_refused(client):
    (run,) = client.search_runs(["1"], f"tags.`virnuc.stage` = 'evaluate' and tags.`virnuc.model` = '{BASELINE}'")
    client.delete_run(run.info.run_id)
    with pytest.raises(GateRefusal, match="no evaluation of the baseline"):
        promote_it()


def test_an_override_promotes_and_is_recorded_for_ever(client):
    promoted = promote_it(BASELINE, override="outbreak: nothing else at hand")
    assert promoted.overridden
    tags = client.get_model_version_by_alias("virnuc", "champion").tags
    assert tags["virnuc.override"] == "outbreak: nothing else at hand"
    assert "no comparison" in tags["virnuc.override_rules"]
    assert tags["virnuc.promoted_why"] == "override"


def test_an_override_that_is_not_needed_leaves_no_mark(client):
    assert not promote_it(override="just in case").overridden
    assert "virnuc.override" not in client.get_model_version_by_alias("virnuc", "champion").tags


def test_an_unknown_version_is_named(client):
    with pytest.raises(DataError, match=r"has the versions \d, \d"):
        promote_it(CANDIDATE[:-1] + "7")


FAULTS = [
    ("create_model_version", 1),
    ("set_registered_model_alias", 1),
    ("set_registered_model_alias", 2),
    ("set_model_version_tag", 1),
]


def promote_unjudged(uri=CANDIDATE):
    """Promote under limits of one's own, by an override: the gate, which takes most of a promotion, is not asked."""
    policy = Policy({**Policy.read().limits, "speedup_at_least": 1.0})
    return promote(uri, "champion", policy, "the steps are what is tested", "me@here")


@pytest.mark.parametrize(("fault", "calls"), FAULTS)
def test_an_error_at_any_step_leaves_everything_as_it_was(client, monkeypatch, fault, calls):
    promote_unjudged()
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
            promote_unjudged(NEWER)
    assert aliases(client) == {"champion": "1"}
    assert len(client.search_model_versions("name = 'virnuc'")) == 1
    assert promote_unjudged(NEWER).changed


@pytest.mark.parametrize("moved", ["nothing", "champion"])
def test_what_a_killed_promotion_left_is_repaired_by_the_next_one(client, moved):
    promote_unjudged()
    tags = {promotion.STATE: promotion.PROMOTING, promotion.PROMOTED_FROM: "models:/another/1", promotion.REPLACES: "1"}
    left = client.create_model_version("virnuc", source=CANDIDATE, tags=tags)
    if moved == "champion":
        client.set_registered_model_alias("virnuc", "champion", left.version)
    promote_unjudged(NEWER)
    assert aliases(client) == {"champion": "3", "previous": "2"}
    assert client.get_model_version("virnuc", "2").tags[promotion.STATE] == promotion.DONE


def race(uris, override=""):
    """Promote in several processes at once; return the version that each has made."""
    together, made = FORK.Barrier(len(uris)), FORK.SimpleQueue()

    def promoted(uri, who):
        together.wait()
        made.put(promote(uri, "champion", Policy.read(), override, who).version)

    racers = [forked(promoted, uri, f"racer {n}") for n, uri in enumerate(uris)]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    return [made.get() for _ in racers]


def test_racing_promotions_end_as_if_one_had_followed_the_other(client):
    rivals = [CANDIDATE, NEWER]
    assert sorted(race(rivals)) == ["1", "2"]
    assert aliases(client) == {"champion": "2", "previous": "1"}
    tags = [client.get_model_version("virnuc", version).tags for version in ("1", "2")]
    assert [tag[promotion.STATE] for tag in tags] == [promotion.DONE] * 2
    assert [tag.get(promotion.REPLACES) for tag in tags] == ["", "1"]
    assert sorted(tag[promotion.PROMOTED_FROM] for tag in tags) == sorted(rivals)
    assert promotion.PRODUCTION in [model.name for model in client.search_registered_models()]
    assert "virnuc-promotion-lock" not in [model.name for model in client.search_registered_models()]


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
    def hold_and_die():
        with promotion_lock(MlflowClient(), "x"):
            os.kill(os.getpid(), signal.SIGKILL)

    holder = forked(hold_and_die)
    holder.join()
    assert holder.exitcode == -signal.SIGKILL
    assert client.get_registered_model("virnuc-promotion-lock").tags["who"] == "x"
    with promotion_lock(client, "me", wait=1) as lock:
        lock.still_held()
        client.set_registered_model_tag("virnuc-promotion-lock", "token", "another's")
        with pytest.raises(VirnucError, match="took over the promotion lock"):
            lock.still_held()


@pytest.mark.e2e
def test_one_full_cycle_on_postgresql(tmp_path, monkeypatch):
    undrawn(monkeypatch)
    with postgresql() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.chdir(tmp_path)
        experiments.copy_policy(tmp_path)
        made = experiments.Experiment(tmp_path)
        experiments.begin(made, uri, genomes=60)
        for protein in (experiments.SLOW, experiments.FAST):
            made.trained(protein, replicates=1)
        client = MlflowClient()
        with pytest.raises(GateRefusal, match="may not replace"):
            made.compared()
        with pytest.raises(GateRefusal, match="is not promoted"):
            promote_it()
        assert sorted(race([CANDIDATE, BASELINE], override="the store is what is tested")) == ["1", "2"]
        assert aliases(client) == {"champion": "2", "previous": "1"}
        assert rollback("champion", "me").version == "1"
        mlflow.set_tracking_uri(None)
