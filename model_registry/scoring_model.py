"""The registered model: DNA in, viral probabilities out. MLflow loads this file as code, so no pickle is needed.

A request whose columns or types are wrong is refused as a whole (HTTP 400). A row that cannot be scored (no
sequence, an empty one, letters that are not DNA, more than 10 million letters) gets the status `invalid` and an
`error`, and the other rows are scored; a request in which no row can be scored is refused too, row by row.

All requests are scored in one thread, one after the other. A server answers each in a thread of a pool, and every
thread that computes has its own caches of torch and its own freed memory, so that memory would grow for thousands of
requests. A request uses all cores as it is; for more requests at once a server has more processes (`--workers`).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.tracking import MlflowClient

from virnuc.errors import DataError, ParseError
from virnuc.prediction.calls import THRESHOLD
from virnuc.prediction.chunks import MIN_CHUNK_SIZE
from virnuc.prediction.scorer import DIGEST_TAG, load_scorer, scorer_digest
from virnuc.prediction.scoring import BATCH_TOKENS, Scorer
from virnuc.prediction.sequences import score_sequences
from virnuc.runtime import choose_device
from virnuc.sequences.reading import checked_dna
from virnuc.settings import parse_pairs

MAX_LETTERS = 10_000_000  # letters of one sequence
INVALID = "invalid"
_ERRORS_SHOWN = 5


class ScoringModel(PythonModel):
    """Scores the column `sequence`; the column `id`, or else the row's number, identifies rows in the answer."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the scorer. VIRNUC_WEIGHTS (NAME=DIR,...) names directories of weights that are not in the model."""
        device = choose_device(os.environ.get("VIRNUC_DEVICE", "auto")).name
        weights = parse_pairs(os.environ.get("VIRNUC_WEIGHTS", ""))
        directory = Path(context.artifacts["scorer"])
        _check_registered(directory)
        self.scorer: Scorer = load_scorer(directory, weights, device)
        self.scoring = ThreadPoolExecutor(max_workers=1)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a row for each row of `model_input`: probability, label, status, counts, strongest chunk, frame.

        Args:
            context: of MLflow, not used.
            model_input: `sequence`, and `id` if wanted.
            params: `threshold`, `chunk_size` (bp; 0 takes the model's own) and `batch_tokens`.

        Raises:
            MlflowException: with INVALID_PARAMETER_VALUE, which is HTTP 400, if nothing can be scored.
        """
        threshold, chunk_size, batch_tokens = _checked_params(params or {})
        scorer = replace(self.scorer, chunk_size=chunk_size) if chunk_size else self.scorer
        given = model_input["id"] if "id" in model_input else [None] * len(model_input)
        ids = [str(number) if pd.isna(name) else str(name) for number, name in enumerate(given)]
        rows = [_checked(sequence, name) for sequence, name in zip(model_input["sequence"], ids, strict=True)]
        good = [number for number, (_, error) in enumerate(rows) if not error]
        if not good:
            _refuse([error for _, error in rows] or ["the request has no rows"])
        sequences = [rows[number][0] for number in good]
        called = self.scoring.submit(score_sequences, scorer, sequences, threshold, batch_tokens).result()
        table = called.drop(columns="record").set_axis(good).reindex(range(len(rows)))
        table["status"] = table["status"].fillna(INVALID)
        table.insert(0, "id", ids)
        table["error"] = [error for _, error in rows]
        return _plain(table)


def _check_registered(scorer: Path) -> None:
    """Compare the scorer with its digest in the store; without MLFLOW_TRACKING_URI a server has no store.

    Raises:
        DataError: it is not the one that was registered.
    """
    model_id = Model.load(scorer.parents[1]).model_id
    if model_id and "MLFLOW_TRACKING_URI" in os.environ:
        tags, digest = MlflowClient().get_logged_model(model_id).tags, scorer_digest(scorer)
        if tags.get(DIGEST_TAG, digest) != digest:
            raise DataError(f"{scorer}: not the scorer that was registered; register the model again")


def _checked_params(params: dict[str, Any]) -> tuple[float, int, int]:
    threshold = float(params.get("threshold", THRESHOLD))
    chunk_size, batch_tokens = int(params.get("chunk_size", 0)), int(params.get("batch_tokens", BATCH_TOKENS))
    if not 0 <= threshold <= 1:
        _refuse([f"threshold {threshold}: use a number from 0 to 1"])
    if chunk_size and not MIN_CHUNK_SIZE <= chunk_size <= MAX_LETTERS:
        _refuse([f"chunk_size {chunk_size}: use 0 for the model's own, or at least {MIN_CHUNK_SIZE}"])
    if batch_tokens < 1:
        _refuse([f"batch_tokens {batch_tokens}: use at least 1"])
    return threshold, chunk_size, batch_tokens


def _checked(sequence: Any, name: str) -> tuple[str, str]:
    """Return the sequence in upper case and an empty text, or an empty sequence and the error."""
    if not isinstance(sequence, str):
        return "", f"row {name}: sequence is {'null' if pd.isna(sequence) else 'no text'}"
    if not sequence.strip():
        return "", f"row {name}: sequence is empty"
    if len(sequence) > MAX_LETTERS:
        return "", f"row {name}: {len(sequence):,} letters, the limit is {MAX_LETTERS:,}; use predict for whole genomes"
    try:
        return checked_dna(sequence.strip(), Path("request"), name), ""
    except ParseError as error:
        return "", str(error)


def _refuse(errors: list[str]) -> None:
    shown = "; ".join(errors[:_ERRORS_SHOWN])
    more = f"; and {len(errors) - _ERRORS_SHOWN} more" if len(errors) > _ERRORS_SHOWN else ""
    raise MlflowException.invalid_parameter_value(f"nothing can be scored: {shown}{more}")


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with missing values as JSON can hold them: null for a probability, 0 or an empty text."""
    text = {name: table[name].fillna("").astype(str) for name in ("label", "frame")}
    counts = table.columns.difference(["id", "probability", "label", "status", "frame", "error"])
    table = table.assign(**text, **{name: table[name].fillna(0).astype("int64") for name in counts})
    missing = table["probability"].isna()
    if missing.any():
        table["probability"] = table["probability"].astype(object).mask(missing, None)
    return table


set_model(ScoringModel())
