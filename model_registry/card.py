"""The model card: a version's description in the registry, made from the store alone."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import mlflow
from jinja2 import Environment, FileSystemLoader
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from model_registry.evidence import PROMOTED_FROM, measured
from model_registry.history import past_comparisons
from virnuc.errors import DataError
from virnuc.prediction.scorer import CONFIG, read_choices, read_config
from virnuc.reports.rendering import HTML, escape_markdown
from virnuc.tracking import find_finished, find_runs, get_run, model_version, version_uri

SCORER = "scorer"  # name of the artifact that `packaging` logs
OVERRIDE, OVERRIDE_RULES = "virnuc.override", "virnuc.override_rules"
_VIEW = {"workflowType": "machine_learning"}  # of MLflow's two, the one that shows models
_MAX_LETTERS = 5000  # letters that a registry keeps
_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=False)  # Markdown
_TEMPLATES.filters["text"] = escape_markdown


def update_card(model_uri: str) -> str:
    """Write the card of a model version again, make it the version's description and return it.

    Call it once the version is registered, and after each evaluation, comparison and promotion of it.

    Raises:
        DataError: there is no such version, or its files are gone.
    """
    version = model_version(model_uri)
    evaluated = version.tags.get(PROMOTED_FROM, version_uri(version))
    ended_well = "metrics.`test/accuracy` >= 0 and attributes.status != 'FAILED'"  # including one that is just ending
    evaluation = next(iter(find_runs("evaluate", {"model": evaluated}, ended_well)), None)
    past = past_comparisons(evaluated)
    comparison = get_run(past[0].run_id) if past and not past[0].deleted else None
    scorer = _packed_config(version_uri(version))
    trained = scorer["trained"]
    digest = trained["split_digest"]  # None if a model from elsewhere does not record it
    client = MlflowClient()
    training = client.get_run(version.run_id).data.metrics if version.run_id else {}
    card = _TEMPLATES.get_template("model_card.md.j2").render(
        scorer=scorer,
        trained=trained,
        choices=read_choices(scorer),
        metrics=measured(evaluation) if evaluation else {},
        left_out=evaluation.data.tags.get("virnuc.no_chunks", "") if evaluation else "",
        validation=training if "val/accuracy" in training else {},
        split=next(iter(find_finished("split", {"split_digest": digest})), None) if digest else None,
        comparison=comparison.data.tags if comparison else {},
        pages=_pages(comparison) if comparison else {},
        past=[str(one) for one in past],
        override=version.tags.get(OVERRIDE, ""),
        override_rules=version.tags.get(OVERRIDE_RULES, ""),
    )
    client.update_model_version(version.name, version.version, description=card.strip()[:_MAX_LETTERS])
    return card


def _pages(comparison: Run) -> dict[str, str]:
    """Return relative links into MLflow's UI: to the report, and to the page that compares both runs."""
    experiment, tags = comparison.info.experiment_id, comparison.data.tags
    runs = [tags.get(f"virnuc.{side}") for side in ("baseline_evaluation_run", "evaluation_run")]
    query = {"runs": json.dumps([*filter(None, runs)]), "experiments": json.dumps([experiment])} | _VIEW
    return {
        "report": f"#/experiments/{experiment}/runs/{comparison.info.run_id}/artifacts/{HTML}?{urlencode(_VIEW)}",
        "runs": f"#/compare-runs?{urlencode(query, quote_via=quote)}",
    }


def _packed_config(uri: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        try:
            mlflow.artifacts.download_artifacts(f"{uri}/artifacts/{SCORER}/{CONFIG}", dst_path=directory)
        except (MlflowException, OSError) as error:
            raise DataError(f"{uri}: no scorer among its files ({error}); register the model again") from error
        return read_config(next(Path(directory).rglob(CONFIG)).parent)
