"""The fallback for chunks without an open frame: chosen on a model's own validation chunks, and kept with it.

All `FALLBACKS` are tried with the scorer that will be registered; the most accurate is taken, or the simplest if
several are equally accurate. The companion must have been trained on the same split, so that no chunk it is judged on
was part of its training, and on vectors of the same DNA encoder, whose weights it shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from virnuc.errors import IncompatibleCheckpointError
from virnuc.evaluation.calibration import fit_temperature
from virnuc.prediction.chunks import NO_OPEN_FRAME
from virnuc.prediction.companion import FALLBACKS, LONGEST_ORF, Companion
from virnuc.prediction.scorer import (
    STOPPED_PROBE,
    ChosenCompanion,
    FallbackRecord,
    load_scorer,
    probe,
    read_config,
    save_fallback,
)
from virnuc.prediction.scoring import BATCH_TOKENS, Scorer
from virnuc.storage.draws import draw
from virnuc.training.checkpoint import Checkpoint

MAX_CHUNKS = 2000  # scored to measure an accuracy; a sample is drawn if there are more
CHUNKS_AT_ONCE = 512  # bounds memory


@dataclass(frozen=True)
class CompanionSource:
    """A companion to try."""

    checkpoint: Checkpoint
    origin: str  # models:/NAME/VERSION that it was registered as
    chunks: pd.DataFrame  # validation chunks without a frame: chunk_id, genome, label, reason, nucleotide
    lacking: str = ""  # why there are no such chunks


def sample_chunks(chunks: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Return at most `most` rows, those with the smallest seeded hash, in their order; a row is hashed by itself."""
    if len(chunks) <= most:
        return chunks
    drawn = [draw(seed, name) for name in chunks["chunk_id"]]
    return chunks.iloc[np.sort(np.argsort(np.array(drawn), kind="stable")[:most])].reset_index(drop=True)


def score_chunks(scorer: Scorer, chunks: pd.DataFrame, batch_tokens: int = BATCH_TOKENS) -> pd.DataFrame:
    """Return `chunks` without their DNA, joined with the columns of `Scorer.score`."""
    letters = chunks["nucleotide"].tolist()
    pieces = [letters[first : first + CHUNKS_AT_ONCE] for first in range(0, len(letters), CHUNKS_AT_ONCE)]
    scored = pd.concat([scorer.score(piece, batch_tokens) for piece in pieces or [[]]], ignore_index=True)
    return chunks.drop(columns="nucleotide").reset_index(drop=True).join(scored)


def called_right(scored: pd.DataFrame) -> pd.Series:
    """Return whether the call of each chunk agrees with its label; a chunk without a score counts as wrong."""
    return scored["probability"].notna() & ((scored["probability"] >= 0.5) == (scored["label"] == 1))


def add_companion(
    directory: Path,
    source: CompanionSource,
    seed: int,
    weights: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> FallbackRecord:
    """Choose how the scorer in `directory` scores chunks without an open frame, and write the choice there.

    Args:
        directory: as `save_scorer` wrote it.
        source: the companion and the chunks to judge by.
        seed: seed of the sample, if there are more than MAX_CHUNKS.
        weights: directories, by encoder name, of weights that are not inside the scorer.
        device: device to compute on.

    Raises:
        IncompatibleCheckpointError: the companion does not fit this scorer.
        EncoderError: an encoder's weights are not those of the training.
    """
    config = read_config(directory)
    _check_companion(source, config["encoders"], config["trained"]["split_digest"])
    stopped = source.chunks[source.chunks["reason"] == NO_OPEN_FRAME].reset_index(drop=True)
    reason = source.lacking
    if not reason and config["probe"]["probability"] is None:
        reason = "the weights of an encoder were not available when the model was registered"
    elif not reason and stopped["label"].nunique() < 2:
        reason = f"the {len(stopped)} validation chunks without an open frame are not of both classes"
    if reason:
        return save_fallback(directory, FallbackRecord(LONGEST_ORF, reason=reason))
    scorer, record = choose_fallback(
        load_scorer(directory, weights, device), source.checkpoint, sample_chunks(stopped, MAX_CHUNKS, seed)
    )
    if scorer.companion is None:
        return save_fallback(directory, record)
    temperature, probability = scorer.companion.temperature, probe(scorer, STOPPED_PROBE)
    return save_fallback(directory, record, ChosenCompanion(source.checkpoint, source.origin, temperature, probability))


def choose_fallback(scorer: Scorer, checkpoint: Checkpoint, chunks: pd.DataFrame) -> tuple[Scorer, FallbackRecord]:
    """Return the scorer with the most accurate fallback on `chunks`, and with the companion if it is needed.

    Args:
        scorer: without a companion.
        checkpoint: the companion's checkpoint.
        chunks: labelled chunks without an open frame, of both classes, that training has not seen.
    """
    companion = Companion(checkpoint.build().to(scorer.device))
    logits = companion.logits(scorer.dna_encoder, chunks["nucleotide"].tolist(), BATCH_TOKENS, scorer.device)
    temperature = fit_temperature(chunks["label"].to_numpy(dtype=np.int8), logits[:, 1] - logits[:, 0])
    companion = replace(companion, temperature=temperature)
    accuracy = {
        fallback: float(
            called_right(score_chunks(replace(scorer, companion=companion, fallback=fallback), chunks)).mean()
        )
        for fallback in FALLBACKS
    }
    best = max(FALLBACKS, key=lambda fallback: accuracy[fallback])
    viral = int((chunks["label"] == 1).sum())
    chosen = scorer if best == LONGEST_ORF else replace(scorer, companion=companion, fallback=best)
    return chosen, FallbackRecord(best, accuracy, len(chunks), viral, chunks["genome"].nunique())


def _check_companion(source: CompanionSource, encoders: list[dict[str, str]], split_digest: str | None) -> None:
    """Raise an IncompatibleCheckpointError unless the companion can share this model's DNA encoder and split."""
    found = source.checkpoint.metadata
    mine = next((encoder for encoder in encoders if encoder["kind"] == "dna"), None)
    theirs = found.get("encoders", {}).get("dna", {})
    if found.get("modality") != "dna":
        raise IncompatibleCheckpointError(f"{source.origin} reads more than DNA; train one with --modality dna")
    if mine is None:
        raise IncompatibleCheckpointError("a model of proteins alone can have no companion; leave --companion out")
    for key in ("name", "weight_digest"):
        if mine.get(key) != theirs.get(key):
            raise IncompatibleCheckpointError(
                f"{source.origin} was trained on a DNA encoder with {key} {theirs.get(key)}, this model on one with "
                f"{mine.get(key)}; train a companion on the same features"
            )
    if split_digest is None or found.get("split_digest") != split_digest:
        raise IncompatibleCheckpointError(
            f"{source.origin} was trained on another split, or its split is not recorded, so these validation chunks "
            "may be among its training data; train a companion on the same split"
        )
