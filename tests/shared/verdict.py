"""The published schema of verdict.json, with the rules and limits of the gate."""

import json
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator

from model_registry.rules import RULES


def _schema() -> dict[str, Any]:
    path = resources.files("virnuc.reports").joinpath("verdict.schema.json")
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    schema["$defs"]["rule"]["properties"]["name"] = {"enum": [rule.name for rule in RULES]}
    policy = schema["properties"]["policy"]
    for limit in (limit for rule in RULES for limit in rule.limits):
        policy["properties"][limit.name] = {"enum": [*limit.choices]} if limit.choices else {"type": "number"}
    policy["required"] = list(policy["properties"])
    Draft202012Validator.check_schema(schema)
    return schema


_VALIDATOR = Draft202012Validator(_schema())


def violations(document: Any) -> list[str]:
    """Return all violations of the schema in a verdict, with their places."""
    return [f"{error.json_path}: {error.message}" for error in _VALIDATOR.iter_errors(document)]
