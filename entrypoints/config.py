"""`--config experiment.yaml`: parameters by name, and sections of parameters by stage.

A parameter at the top is for every stage that has it; a stage's section overrides it. The same file
can be given to each stage and to the pipeline, which hands what is not its own on to the stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from virnuc.errors import UsageError, unknown_name
from virnuc.settings import COLLECTIONS, PIPELINE_STAGES, STAGES, Settings, plain


def read_config(path: Path, stage: str) -> dict[str, Any]:
    """Return the parameters that a file gives to a stage, as texts, lists and mappings of texts.

    Raises:
        UsageError: the file is not a YAML mapping, or a name in it is neither a parameter nor a stage.
    """
    document = _load(path)
    sections = {key: value for key, value in document.items() if isinstance(value, dict) and key in STAGES}
    top = {key: value for key, value in document.items() if key not in sections}
    anywhere = {name for settings in STAGES.values() for name in settings.__dataclass_fields__}
    for key in top:
        if key not in anywhere:
            raise unknown_name(f"parameter or stage in {path}", key, anywhere | STAGES.keys())
    for of, section in sections.items():
        for key in section:
            if key not in STAGES[of].__dataclass_fields__:
                raise unknown_name(f"parameter of {of} in {path}", key, STAGES[of].__dataclass_fields__)
    own = STAGES[stage].__dataclass_fields__
    values = _of_stage(STAGES[stage], {**top, **sections.get(stage, {})}, path)
    if "overrides" in own:
        others = {key: value for key, value in top.items() if key not in own}
        values["overrides"] = _overrides(others, sections, path) | values.get("overrides", {})
    return values


def _load(path: Path) -> dict[str, Any]:
    import yaml

    from virnuc.storage.files import read_yaml

    document = read_yaml(path, yaml.BaseLoader)  # every scalar stays a text
    if not isinstance(document or {}, dict):
        raise UsageError(f"{path}: write NAME: VALUE on each line")
    return document or {}


def _of_stage(settings: type[Settings], given: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return those of the given values that a stage has parameters for."""
    declared = settings.__dataclass_fields__
    values = {name: value for name, value in given.items() if name in declared}
    for name, value in values.items():
        if not isinstance(value, str) and declared[name].type not in COLLECTIONS:
            raise UsageError(f"{path}: {name} takes one value")
    return values


def _overrides(top: dict[str, Any], sections: dict[str, dict[str, Any]], path: Path) -> dict[str, str]:
    """Return what the stages of a pipeline are given, by `stage.name`."""
    overrides = {}
    for stage, settings in PIPELINE_STAGES.items():
        for name, value in _of_stage(settings, {**top, **sections.get(stage, {})}, path).items():
            overrides[f"{stage}.{name}"] = str(plain(tuple(value) if isinstance(value, list) else value))
    return overrides
