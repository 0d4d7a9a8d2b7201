"""The published schema of verdict.json."""

import json
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator

_SCHEMA = json.loads(resources.files("virnuc.reports").joinpath("verdict.schema.json").read_text(encoding="utf-8"))
Draft202012Validator.check_schema(_SCHEMA)


def breaks(document: Any) -> list[str]:
    """Return what in a verdict breaks its schema, with the place of each."""
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(_SCHEMA).iter_errors(document)]
