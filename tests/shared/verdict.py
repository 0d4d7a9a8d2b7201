"""The published schema of verdict.json."""

from typing import Any

from jsonschema import Draft202012Validator

from model_registry.gate import verdict_schema

_SCHEMA = verdict_schema()
Draft202012Validator.check_schema(_SCHEMA)


def violations(document: Any) -> list[str]:
    """Return all violations of the schema in a verdict, with their places."""
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(_SCHEMA).iter_errors(document)]
