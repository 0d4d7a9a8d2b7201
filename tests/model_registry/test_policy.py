"""The gate's policy file: its limits, its digest, and what is no policy."""

import pytest

from model_registry.gate import PROJECT_POLICY, Policy
from virnuc.errors import UsageError

POLICY = Policy.read()


def test_the_shipped_policy_has_the_published_limits():
    assert POLICY.limits == {
        "seen_frames_at_most": 0.01,
        "test_genomes_a_class_at_least": 20,
        "effective_genomes_at_least": 10,
        "replicates_at_least": 5,
        "control_gain": "warn",
        "accuracy_drop_below": 0.05,
        "accuracy_drop_upper_bound_below": 0.05,
        "speedup_at_least": 2.0,
        "benchmark_frames_at_least": 500,
        "benchmark_runs_at_least": 5,
    }


def test_digest_follows_the_values_and_not_the_comments(tmp_path):
    text = PROJECT_POLICY.read_text(encoding="utf-8")
    (tmp_path / "commented.yaml").write_text("# more\n" + text)
    (tmp_path / "softer.yaml").write_text(text.replace("speedup_at_least: 2.0", "speedup_at_least: 1.5"))
    assert Policy.read(tmp_path / "commented.yaml").digest == POLICY.digest
    assert Policy.read(tmp_path / "softer.yaml").digest != POLICY.digest


@pytest.mark.parametrize(
    "edit",
    [
        ("version: 2", "version: 3"),
        ("speedup_at_least: 2.0", "speedup_at_least: fast"),
        ("speedup_at_least: 2.0", "speedup_at_least: yes"),
        ("speedup_at_least: 2.0", "speedup_at_least: .nan"),
        ("speedup_at_least: 2.0", "speedup: 2.0"),
        ("speedup_at_least: 2.0", ""),
        ("accuracy_drop_below: 0.05", "accuracy_drop_below: 5"),
        ("accuracy_drop_below: 0.05", "accuracy_drop_below: [0.05"),
        ("control_gain: warn", "control_gain: never"),
        ("replicates_at_least: 5", "replicates_at_least: 1"),
    ],
)
def test_a_policy_with_an_unknown_key_or_a_wrong_value_is_refused(edit, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(PROJECT_POLICY.read_text(encoding="utf-8").replace(*edit))
    with pytest.raises(UsageError, match=r"policy\.yaml"):
        Policy.read(path)


def test_a_missing_policy_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Policy.read(tmp_path / "none.yaml")
