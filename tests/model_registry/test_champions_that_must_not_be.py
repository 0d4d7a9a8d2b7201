"""Ways to get an undeserved champion: each ends in FAIL, NO VERDICT or a refusal that names the reason."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from entrypoints.import_model import import_model
from entrypoints.promote import promote
from model_registry.gate import PROJECT_POLICY
from tests.shared.experiment import BASELINE, CANDIDATE, FAST, SLOW
from virnuc.errors import GateRefusal, UsageError
from virnuc.settings import ImportModelSettings, PromoteSettings
from virnuc.training.checkpoint import load_checkpoint, save_checkpoint


def promoted(uri=CANDIDATE, **changed):
    return promote.run(PromoteSettings(candidate=uri, **changed))


def weak_baseline(made):
    """A baseline that is hardly trained and has just become the challenger."""
    weak = made.trained(SLOW, epochs=1, lr=1e-7, out="weak", replicates=2)
    made.compared(baseline=weak)


def frames_of_training_genomes(made):
    """A split by frame, whose test frames are of training genomes."""
    made.split("by_frame", unit="frame")
    slow, fast = (made.trained(name, "by_frame", replicates=2) for name in (SLOW, FAST))
    made.compared(fast, slow)


def two_genomes_a_class(made):
    """A test set so small that the result is chance."""
    made.split("small", test_fraction=0.04)
    slow, fast = (made.trained(name, "small", replicates=2) for name in (SLOW, FAST))
    made.compared(fast, slow)


def unrecorded_training(made):
    """A foreign checkpoint without a record of its split, which may have been trained on the test frames."""
    path = next(Path(made.home).rglob(f"model_{FAST}.pth"))
    checkpoint = load_checkpoint(path)
    for key in ("split_digest", "replicates", "seed"):
        checkpoint.metadata.pop(key, None)
    save_checkpoint(Path(f"model_{FAST}.pth"), checkpoint)
    version = import_model.run(ImportModelSettings(checkpoint=f"model_{FAST}.pth"))
    uri = f"models:/{version.name}/{version.version}"
    made.evaluated(uri, FAST)
    made.compared(uri)


def one_frame_timed_once(made):
    """A benchmark of one frame in one run."""
    made.timed(runs=1, frames=1)
    made.compared()


def another_precision_timed(made):
    """Both encoders timed only in another precision than that of their features."""
    fair = made.benchmarks()[0].info.run_id
    made.timed(precision="bf16")
    MlflowClient().delete_run(fair)
    made.compared()


def trained_once(made):
    """One training for each side, as in the publication."""
    slow, fast = (made.trained(name, replicates=1, out="single") for name in (SLOW, FAST))
    made.compared(fast, slow)


ATTACKS = [
    (weak_baseline, ("The baseline is the best version", "Both sides trained with the same settings")),
    (frames_of_training_genomes, ("Test frames whose genome was in any training",)),
    (two_genomes_a_class, ("Test genomes of each class",)),
    (unrecorded_training, ("Weights and training data of both sides are known",)),
    (one_frame_timed_once, ("1 frames are too few", "1 runs are too few")),
    (another_precision_timed, ("precision bf16, but fp32 in the features",)),
    (trained_once, ("1 pairs of trainings", "is not recorded")),
]


@pytest.mark.parametrize(("attack", "reasons"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_the_gate_says_no_and_why(experiment, attack, reasons):
    with pytest.raises(GateRefusal) as caught:
        attack(experiment)
    assert all(reason in str(caught.value) for reason in reasons)


def loose_policy(made):
    """A policy with other limits."""
    text = PROJECT_POLICY.read_text().replace("accuracy_drop_below: 0.05", "accuracy_drop_below: 0.5")
    Path("loose.yaml").write_text(text)
    made.compared(policy="loose.yaml")
    promoted(policy="loose.yaml")


def loose_policy_for_the_comparison_alone(made):
    """Promotion under the project's policy, after a comparison under another."""
    Path("loose.yaml").write_text(PROJECT_POLICY.read_text().replace("speedup_at_least: 2.0", "speedup_at_least: 0.1"))
    made.compared(policy="loose.yaml")
    promoted()


def deleted_failure(made):
    """The newest comparison failed and was deleted, which leaves an older pass as the newest."""
    made.timed(runs=1, frames=1)
    with pytest.raises(GateRefusal):
        made.compared()
    runs = MlflowClient().search_runs(["1"], "tags.`virnuc.verdict` = 'FAIL'")
    MlflowClient().delete_run(runs[0].info.run_id)
    promoted()


def better_baseline_since(made):
    """After the comparison, a better baseline was trained."""
    made.trained(SLOW, epochs=12, out="longer", replicates=2)
    promoted()


def timed_again_since(made):
    """After the comparison, the encoders were timed again."""
    made.timed()
    promoted()


def evaluated_again_since(made):
    """After the comparison, a side was evaluated again."""
    made.evaluated(BASELINE, SLOW)
    promoted()


def edited_verdict(made):
    """The verdict's file and tag say PASS although rules do not hold."""
    made.timed(runs=1, frames=1)
    with pytest.raises(GateRefusal):
        made.compared()
    client = MlflowClient()
    run = client.search_runs(["1"], "tags.`virnuc.verdict` = 'FAIL'")[0]
    client.set_tag(run.info.run_id, "virnuc.verdict", "PASS")
    client.log_text(run.info.run_id, json.dumps({"outcome": "PASS"}), "verdict.json")
    promoted()


REFUSALS = [
    (loose_policy, "the policy given is not the project's own"),
    (loose_policy_for_the_comparison_alone, "the policy is not that of the comparison"),
    (deleted_failure, "was deleted; compare again"),
    (better_baseline_since, "The baseline is the best version"),
    (timed_again_since, "timed again after the comparison"),
    (evaluated_again_since, "evaluated again after the comparison"),
    (edited_verdict, "1 frames are too few"),
]


@pytest.mark.parametrize(("attack", "reason"), REFUSALS, ids=[attack.__name__ for attack, _ in REFUSALS])
def test_promotion_is_refused_and_says_why(experiment, attack, reason):
    with pytest.raises(GateRefusal, match=reason):
        attack(experiment)
    assert not MlflowClient().search_registered_models("name = 'virnuc'")


def test_nobody_chooses_the_draws_of_the_bootstrap(experiment):
    with pytest.raises(TypeError, match="seed"):
        experiment.compared(seed=0)
    first = json.loads((experiment.home / "reports" / "verdict.json").read_text())  # of version 2, which was last
    again = experiment.compared(f"models:/virnuc-{FAST}/2")
    assert again["verdicts"][0]["drop"] == first["verdicts"][0]["drop"]


def test_a_fair_pass_is_promoted_with_all_its_comparisons_on_the_card(experiment):
    with pytest.raises(UsageError):
        promoted("")
    experiment.timed(precision="bf16")  # the newest benchmark that fits the features is still the same
    done = promoted()
    version = MlflowClient().get_model_version("virnuc", done.version)
    assert version.tags["virnuc.promoted_why"] == "the gate passed"
    assert f"PASS against {BASELINE}" in version.description


def test_another_policy_with_an_override_marks_the_version_for_ever(experiment):
    Path("loose.yaml").write_text(PROJECT_POLICY.read_text().replace("speedup_at_least: 2.0", "speedup_at_least: 0.1"))
    experiment.compared(policy="loose.yaml")
    done = promoted(policy="loose.yaml", override="tried on purpose")
    version = MlflowClient().get_model_version("virnuc", done.version)
    assert "the policy given is not the project's own" in version.tags["virnuc.override_rules"]
    assert "Promoted against the gate: tried on purpose" in version.description
    assert "under another policy" in version.description
