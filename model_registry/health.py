"""Whether the model in production can be used here: the registry's part of `doctor`, and descriptions of a champion."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from model_registry.card import OVERRIDE, OVERRIDE_RULES
from model_registry.evidence import PROMOTED_FROM
from model_registry.packaging import download_scorer
from model_registry.promotion import NAMED, PRODUCTION, production_version
from virnuc.errors import DataError, VirnucError
from virnuc.prediction.scorer import check_probe, load_scorer, read_config
from virnuc.prediction.summary import About
from virnuc.reports.verdict import weight_caveats
from virnuc.tracking import version_uri

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


@dataclass(frozen=True)
class Check:
    """One line of doctor's table."""

    name: str
    outcome: str  # PASS, WARN or FAIL
    detail: str


def check_champion(alias: str = "champion", weights: Mapping[str, str] | None = None) -> list[Check]:
    """Check that the champion exists, was promoted by the gate, loads here, and scores as it did when registered.

    Args:
        alias: of the registered model `virnuc`.
        weights: directories of weights that the model does not contain, by encoder name.
    """
    version = production_version(alias)
    if version is None:
        return [Check(alias, WARN, f"the registry has no {PRODUCTION}@{alias}; promote a model to have one")]
    checks = [Check(alias, WARN if version.tags.get(OVERRIDE) else PASS, describe_version(version))]
    if moved := moved_by_hand(alias, version):
        checks = [Check(alias, FAIL, moved)]
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = download_scorer(version_uri(version), Path(directory))
            scorer = load_scorer(path, weights)
            names = " + ".join(encoder.name for encoder in scorer.encoders)
            checks.append(Check(f"{alias} loads", PASS, f"{names}, weights as in training"))
            distance = check_probe(scorer, path)
    except (VirnucError, MlflowException, OSError) as error:
        return [*checks, Check(f"{alias} scores", FAIL, " ".join(str(error).split()))]
    if distance is None:
        return [*checks, Check(f"{alias} scores", WARN, "not checked: its weights were missing when it was registered")]
    return [*checks, Check(f"{alias} scores", PASS, f"the probe differs by {distance:.1g} from its recorded value")]


def moved_by_hand(alias: str, version: ModelVersion) -> str:
    """Return what is wrong if an alias names another version than the last promotion or rollback gave it."""
    given = MlflowClient().get_registered_model(version.name).tags.get(NAMED + alias)
    if given is None and PROMOTED_FROM in version.tags:  # promoted before this was recorded
        return ""
    if given == str(version.version):
        return ""
    return (
        f"{version.name}@{alias} was moved by hand to version {version.version}, "
        f"but {f'version {given}' if given else 'none'} was promoted; promote or roll back again"
    )


def check_alias(uri: str, version: ModelVersion) -> None:
    """Raise a DataError if `uri` names the version in production by an alias that was moved by hand."""
    name, _, alias = uri.removeprefix("models:/").partition("@")
    if name == PRODUCTION and alias and (moved := moved_by_hand(alias, version)):
        raise DataError(moved)


def describe_version(version: ModelVersion) -> str:
    """Return one line on a production version: its origin, who promoted it, and an override if there was one."""
    tags = version.tags
    line = f"{version.name} version {version.version} from {tags.get(PROMOTED_FROM, 'elsewhere')}"
    if "virnuc.promoted_by" in tags:
        line += f", promoted by {tags['virnuc.promoted_by']} at {tags['virnuc.promoted_at']}"
    overridden = describe_override(version)
    return f"{line}, {overridden}" if overridden else line


def describe_override(version: ModelVersion) -> str:
    """Return why a version was promoted against the gate, and the rules that did not hold; usually empty."""
    tags = version.tags
    return f"AGAINST THE GATE: {tags[OVERRIDE]} ({tags.get(OVERRIDE_RULES, '')})" if tags.get(OVERRIDE) else ""


def about_version(version: ModelVersion, scorer: Path) -> About:
    """Return what the summary of a prediction says about its model, whose scorer is in the directory `scorer`."""
    tags, name = version.tags, f"{version.name} version {version.version}"
    config = read_config(scorer)
    weights = {encoder["name"]: encoder["weights"] for encoder in config["encoders"]}
    facts = {"Registered model": name, "Encoders": " + ".join(weights)}
    if PROMOTED_FROM in tags:
        facts["Promoted from"] = tags[PROMOTED_FROM]
        facts["Promoted by"] = f"{tags['virnuc.promoted_by']} at {tags['virnuc.promoted_at']}"
    overridden = describe_override(version)
    caveats = [f"{name} was promoted {overridden}."] if overridden else []
    caveats += weight_caveats(weights, name)
    return About(facts, tuple(caveats), config["chunk_size"])
