"""Registering a trained classifier as a self-contained model that scores sequences."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

import virnuc
from model_registry.card import SCORER
from model_registry.evidence import read_checkpoint
from virnuc.errors import DataError
from virnuc.prediction.calls import THRESHOLD
from virnuc.prediction.chunks import STATUSES
from virnuc.prediction.companion import CompanionSource
from virnuc.prediction.scorer import CONFIG, DIGEST_TAG, PROBE, read_config, scorer_digest
from virnuc.prediction.scoring import BATCH_TOKENS
from virnuc.sequences.frames import CHUNK_SCHEMA
from virnuc.splits.assignment import Split
from virnuc.tracking import TRAINING_TAG, model_version, version_uri, versions_of

REQUIREMENTS = (
    *("mlflow", "torch", "tokenizers", "safetensors", "huggingface-hub"),
    *("numpy", "scipy", "pandas", "pyarrow", "dnaio", "gb-io", "isal"),
)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "sequence"), ColSpec("string", "id", required=False)]),
    outputs=Schema(
        [
            ColSpec("string", "id"),
            ColSpec("double", "probability"),
            *(ColSpec("string", name) for name in ("label", "status")),
            *(ColSpec("long", name) for name in ("chunks", *STATUSES, "strongest_chunk")),
            *(ColSpec("string", name) for name in ("frame", "error")),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("threshold", "double", THRESHOLD),
            ParamSpec("chunk_size", "long", 0),
            ParamSpec("batch_tokens", "long", BATCH_TOKENS),
        ]
    ),
)
_CODE = Path(__file__).with_name("scoring_model.py")


def log_scoring_model(
    scorer: Path, registered_name: str, training: str = "", described: Mapping[str, Any] | None = None
) -> ModelVersion:
    """Log a scorer to the active run as a scoring model and register it as a new version of `registered_name`.

    Args:
        scorer: its directory, as `save_scorer` wrote it.
        registered_name: usually `virnuc-<protein encoder>`.
        training: identifies the settings and data of the training; an existing version of the same training with the
            same scorer is returned instead of a second one.
        described: tags `virnuc.<name>` of a new version, which has them all from the start.
    """
    digest = scorer_digest(scorer)
    same = {DIGEST_TAG: digest, TRAINING_TAG: training}
    if known := [one for one in versions_of(registered_name) if training and same.items() <= one.tags.items()]:
        return known[0]
    # MLflow scores the example at once, for which it would fetch gigabytes of missing weights.
    scorable = read_config(scorer)["probe"]["probability"] is not None
    model = mlflow.pyfunc.log_model(
        name=registered_name,
        python_model=str(_CODE),
        artifacts={SCORER: str(scorer)},
        code_paths=[str(Path(virnuc.__file__).parent)],
        signature=SIGNATURE,
        input_example=pd.DataFrame({"sequence": [PROBE], "id": ["probe"]}) if scorable else None,
        pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS],
        tags={DIGEST_TAG: digest},  # read where the model is served
    )
    tags = {f"virnuc.{name}": str(value) for name, value in (described or {}).items()}
    return mlflow.register_model(model.model_uri, registered_name, tags=tags | same)


def companion_source(uri: str, split: Split) -> CompanionSource:
    """Return the companion that `uri` names, with the validation chunks of `split` to test it on."""
    version = model_version(uri)
    chunks = pd.DataFrame(columns=CHUNK_SCHEMA.names) if split.lacks_chunks else split.chunks("val")
    return CompanionSource(read_checkpoint(version), version_uri(version), chunks, split.lacks_chunks)


def download_scorer(model_uri: str, directory: Path) -> Path:
    """Copy the scorer of a registered model into `directory` and return where it is.

    Raises:
        DataError: it is not the one that was registered.
    """
    path = Path(mlflow.artifacts.download_artifacts(f"{model_uri}/artifacts/{SCORER}", dst_path=str(directory)))
    check_digest(model_uri, path, model_version(model_uri).tags)
    return path


def check_digest(name: str, scorer: Path, tags: Mapping[str, str]) -> None:
    """Raise a DataError unless a scorer is the one that was registered; older versions have no digest."""
    digest = scorer_digest(scorer)
    if tags.get(DIGEST_TAG, digest) != digest:
        raise DataError(f"{name}: its {CONFIG} is not the one that was registered; register the model again")
