"""The model card: a version's description in the registry, and `model_card.md` among its files.

What is known at training is written once; the results are added, and replaced, as evaluations and comparisons of the
version finish.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from mlflow.tracking import MlflowClient

from virnuc.tracking import find_finished, model_version, version_uri

_RESULTS = "\n\n### Results\n"
_LONGEST = 5000  # letters that a registry keeps
_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=False)  # Markdown


def render_card(
    training: Mapping[str, Any], validation: Mapping[str, float], split: Mapping[str, Any], chunk_size: int
) -> str:
    """Return what is known of a model once it is trained, as Markdown.

    Args:
        training: metadata of the checkpoint.
        validation: validation metrics of the kept weights, by MLflow key.
        split: contents of test_metadata.json.
        chunk_size: bp of the training chunks.
    """
    kinds = ("dna", "protein") if training["modality"] == "merged" else (training["modality"],)
    return _render(
        "model_card.md.j2",
        training=training,
        validation=validation,
        split=split,
        chunk_size=chunk_size,
        encoders=[training["encoders"][kind] for kind in kinds],
    )


def update_card(model_uri: str) -> str:
    """Bring the description of a model version up to date with the store, and return it.

    Call it after each evaluation, comparison and promotion of the version.

    Raises:
        DataError: there is no such version.
    """
    version = model_version(model_uri)
    evaluated = version.tags.get("virnuc.promoted_from", version_uri(version))
    evaluation = next(iter(find_finished("evaluate", {"model": evaluated})), None)
    results = _render(
        "model_card_results.md.j2",
        metrics=evaluation.data.metrics if evaluation else {},
        comparison=next(iter(find_finished("compare", {"candidate": evaluated})), None),
        override=version.tags.get("virnuc.override", ""),
        override_rules=version.tags.get("virnuc.override_rules", ""),
    )
    training = (version.description or "").partition(_RESULTS)[0]
    card = f"{training}\n\n{results}"[:_LONGEST]
    MlflowClient().update_model_version(version.name, version.version, description=card)
    return card


def _render(template: str, **values: Any) -> str:
    return _TEMPLATES.get_template(template).render(values).strip()
