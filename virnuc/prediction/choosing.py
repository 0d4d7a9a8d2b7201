"""The choice of how a model scores chunks with and without an open frame, made on its validation chunks.

All `METHODS` are tried with the scorer that will be registered. For each status the simplest method is taken whose log
loss is at most `WORTH_IT` above the lowest, because a companion, which reads a chunk up to six times, can halve the
speed of `predict`. Log loss is a proper score that depends on every chunk's probability; accuracies of some hundred
chunks are often equal.
The companion is calibrated on one half of the validation genomes and tested on the other, and vice versa,
so that every chunk counts and none is tested with its own calibration.
It must have been trained on the same split, so that its training included none of these chunks, and on vectors
of the same DNA encoder, whose weights it shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from virnuc.errors import IncompatibleCheckpointError
from virnuc.evaluation.calibration import fit_temperature
from virnuc.prediction.chunks import ANSWERED
from virnuc.prediction.companion import COMPANION, FRAMES, MEAN, METHODS, Companion, CompanionSource
from virnuc.prediction.scorer import Choices, MethodChoice, load_scorer, read_config, save_choices
from virnuc.prediction.scoring import BATCH_TOKENS, Scorer
from virnuc.storage.draws import draw
from virnuc.training.checkpoint import Checkpoint

WORTH_IT = 0.01  # of the lowest log loss
MAX_CHUNKS = 4000  # scored to choose a method; a sample is drawn if there are more
CHUNKS_AT_ONCE = 512  # bounds memory


def sample_chunks(chunks: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Return at most `most` rows, those with the smallest seeded hashes of their ids, in their order."""
    if len(chunks) <= most:
        return chunks
    drawn = [draw(seed, name) for name in chunks["chunk_id"]]
    return chunks.iloc[np.sort(np.argsort(np.array(drawn), kind="stable")[:most])].reset_index(drop=True)


def score_chunks(scorer: Scorer, chunks: pd.DataFrame) -> pd.DataFrame:
    """Return `chunks` without their DNA, joined with the columns of `Scorer.score`."""
    letters = chunks["nucleotide"].tolist()
    pieces = [letters[first : first + CHUNKS_AT_ONCE] for first in range(0, len(letters), CHUNKS_AT_ONCE)]
    scored = pd.concat([scorer.score(piece) for piece in pieces or [[]]], ignore_index=True)
    return chunks.drop(columns="nucleotide").reset_index(drop=True).join(scored)


def add_companion(
    directory: Path,
    source: CompanionSource,
    seed: int,
    weights: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> Choices:
    """Choose how the scorer in `directory` scores chunks, and write the choice there.

    Args:
        directory: as `save_scorer` wrote it.
        source: the companion and the validation chunks.
        seed: seed of the sample, if there are more than MAX_CHUNKS, and of the halves.
        weights: directories, by encoder name, of weights that are not inside the scorer.
        device: device to compute on.

    Raises:
        IncompatibleCheckpointError: the companion does not fit this scorer.
        EncoderError: an encoder's weights are not those of the training.
    """
    config = read_config(directory)
    _check_companion(source, config["encoders"], config["trained"]["split_digest"])
    chunks = sample_chunks(source.chunks, MAX_CHUNKS, seed)
    half = _second_half(chunks, seed)
    reason = source.lacking
    if not reason and config["probe"]["probability"] is None:
        reason = "the weights of an encoder were not available when the model was registered"
    elif not reason and min(chunks.loc[own, "label"].nunique() for own in (half, ~half)) < 2:
        reason = f"a half of the {len(chunks)} validation chunks lacks one of the classes"
    if reason:
        return save_choices(directory, dict.fromkeys(ANSWERED, MethodChoice(reason=reason)))
    scorer, choices = choose_methods(load_scorer(directory, weights, device), source.checkpoint, chunks, half)
    return save_choices(directory, choices, source, scorer)


def choose_methods(
    scorer: Scorer, checkpoint: Checkpoint, chunks: pd.DataFrame, half: np.ndarray
) -> tuple[Scorer, Choices]:
    """Return the scorer with the best method for each status, and with the companion if one needs it.

    Args:
        scorer: without a companion.
        checkpoint: the companion's checkpoint.
        chunks: labelled chunks that training has not seen.
        half: which of them are of one half of the genomes, bool `[n]`.
    """
    companion = Companion(checkpoint.build().to(scorer.device))
    logits = companion.logits(scorer.dna_encoder, chunks["nucleotide"].tolist(), BATCH_TOKENS, scorer.device)
    margins = logits[:, 1] - logits[:, 0]
    labels = chunks["label"].to_numpy(dtype=np.int8)
    of_half, of_other = (fit_temperature(labels[own], margins[own]) for own in (half, ~half))
    scored = score_chunks(scorer, chunks)
    frames, alone = scored["probability"], expit(margins / np.where(half, of_other, of_half))
    tried = scored.assign(**{FRAMES: frames, COMPANION: alone, MEAN: (frames + alone) / 2})
    choices = {status: _choose(tried[tried["status"] == status]) for status in ANSWERED}
    methods = {status: choice.method for status, choice in choices.items()}
    if set(methods.values()) == {FRAMES}:
        return scorer, choices
    calibrated = replace(companion, temperature=fit_temperature(labels, margins))
    return replace(scorer, companion=calibrated, methods=methods), choices


def _choose(tried: pd.DataFrame) -> MethodChoice:
    """Return the simplest method whose log loss for chunks of one status is within 1 % of the lowest.

    Args:
        tried: a row for each chunk, with a column of viral probabilities for each method.
    """
    viral = tried["label"] == 1
    counted = MethodChoice(chunks=len(tried), viral=int(viral.sum()), genomes=tried["genome"].nunique())
    if viral.nunique() < 2:
        return replace(counted, reason=f"the {len(tried)} validation chunks of this status are not of both classes")
    accuracy = {method: float(((tried[method] >= 0.5) == viral).mean()) for method in METHODS}
    areas = {method: float(roc_auc_score(viral, tried[method])) for method in METHODS}
    losses = {method: float(log_loss(viral, tried[method])) for method in METHODS}
    limit = (1 + WORTH_IT) * min(losses.values())
    best = next(method for method in METHODS if losses[method] <= limit)
    return replace(counted, method=best, log_loss=losses, accuracy=accuracy, roc_auc=areas)


def _second_half(chunks: pd.DataFrame, seed: int) -> np.ndarray:
    """Return which chunks are of every second genome of their class, in an order drawn by `seed`, bool `[n]`."""
    genomes = chunks[["genome", "label"]].drop_duplicates("genome")
    order = genomes.assign(drawn=[draw(f"{seed}/half", genome) for genome in genomes["genome"]]).sort_values("drawn")
    second = order["genome"][order.groupby("label").cumcount() % 2 == 1]
    return chunks["genome"].isin(second).to_numpy()


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
