"""Registered models and their versions, by URI."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from virnuc.errors import DataError, UsageError
from virnuc.tracking.store import raise_if_away, store_uri, where

TRAINING_TAG = "virnuc.training"  # of a version: the name of its training's directory, the same for an identical one
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def model_version(uri: str) -> ModelVersion:
    """Return the registered version that a URI names.

    Raises:
        UsageError: the URI is not models:/NAME@ALIAS or models:/NAME/VERSION.
        DataError: no model has that name, or it has no such alias or version.
    """
    match = _MODEL_URI.fullmatch(uri)
    if not match:
        raise UsageError(f"{uri!r} names no model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    client, name = MlflowClient(), match["name"]
    try:
        if match["alias"]:
            return client.get_model_version_by_alias(name, match["alias"])
        return client.get_model_version(name, match["version"])
    except MlflowException as error:
        raise_if_away(error)
        raise DataError(f"{uri}: {_what_is_missing(client, name)}") from error


def _what_is_missing(client: MlflowClient, name: str) -> str:
    """Return why the store has no version of a model that a URI names, and which names or versions it has."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        raise_if_away(error)
        nearest = difflib.get_close_matches(name, [model.name for model in client.search_registered_models()], n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "run train first"
        return f"no model of that name is registered in {store_uri()}; {hint}"
    versions = ", ".join(str(version.version) for version in versions_of(name))
    return f"no such alias or version; {name} has the versions {versions or 'none'}"


def version_uri(version: ModelVersion) -> str:
    """Return models:/NAME/VERSION, which never moves."""
    return f"models:/{version.name}/{version.version}"


def versions_of(name: str) -> list[ModelVersion]:
    """Return the versions of one registered model."""
    found = MlflowClient().search_model_versions(where({"name": name}))
    return [version for version in found if version.name == name]


def tag_version(version: ModelVersion, values: Mapping[str, Any]) -> None:
    """Set tags `virnuc.<name>` of a model version."""
    for name, value in values.items():
        MlflowClient().set_model_version_tag(version.name, version.version, f"virnuc.{name}", str(value))


def ensure_registered(name: str, description: str = "") -> None:
    """Make the registered model `name` if there is none."""
    try:
        MlflowClient().create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
