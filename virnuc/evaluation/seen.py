"""What training has already seen of a test frame: its genome, or a protein similar to its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from virnuc.encoders import EXAMPLES, find_encoder
from virnuc.splits.assignment import Split

CLASSIFIER = "the classifier"
PRETRAINING = "training.json"  # beside an encoder's weights: `genomes` lists what it was trained on
RELATIVES = "relatives.parquet"  # beside a split: the training frame that is nearest to each test frame
EMBEDDED = EXAMPLES / "genomes" / "SOURCES.tsv"
_GENE_NUMBER = re.compile(r"GeneID\.\d+")
VERSION = re.compile(r"\.\d{1,2}$")  # of an accession: NC_001416.1 in one release is NC_001416.2 in the next
SEEN_COLUMNS = ("seen", "identity", "relative_label")


def with_seen(predictions: pd.DataFrame, split: Split, part: str, pretrained: Mapping[str, set[str]]) -> pd.DataFrame:
    """Return predictions with three more columns.

    `seen`: whose training had the frame's genome, the classifier's or an encoder's by name, empty for none;
    `identity` (0 to 1) and `relative_label` of the nearest training protein, NaN and -1 where there is none or it was
    not looked for.

    Args:
        predictions: Of `part`, in the order of the split.
        split: Whose training and validation parts the classifier has seen.
        part: Of the split.
        pretrained: The genomes that each encoder was trained on, by its name (`pretraining_genomes`).
    """
    frames = split.frames(part)
    training = set(split.table["genome"].to_numpy()[np.concatenate([split.rows["train"], split.rows["val"]])])
    seen = np.where(frames["genome"].isin(training), CLASSIFIER, "")
    names = [frames[column].str.replace(VERSION, "", regex=True) for column in ("genome", "record")]
    for encoder, genomes in pretrained.items():
        known = {VERSION.sub("", name) for name in genomes}
        met = (names[0].isin(known) | names[1].isin(known)).to_numpy()
        seen = np.where((seen == "") & met, encoder, seen)
    table = predictions.assign(seen=seen, identity=np.nan, relative_label=np.int8(-1))
    if part == "test" and (split.directory / RELATIVES).is_file():
        relatives = pd.read_parquet(split.directory / RELATIVES).set_index("frame_id").loc[table["frame_id"]]
        known_label = relatives["label"].to_numpy(dtype=np.int8)
        table["identity"] = np.where(known_label >= 0, relatives["identity"].to_numpy(dtype=float), np.nan)
        table["relative_label"] = known_label
    return table


def pretraining_genomes(encoders: Iterable[str], weights: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the genomes that encoders, shipped or in a directory, were trained on, of those where they are recorded.

    Args:
        encoders: Their names.
        weights: Directories of weights by encoder name, as given to the stage.
    """
    found = {}
    for encoder in encoders:
        directory = Path(weights[encoder]) if weights.get(encoder) else find_encoder(encoder).directory
        if directory is not None and (directory / PRETRAINING).is_file():
            recorded = json.loads((directory / PRETRAINING).read_text(encoding="utf-8"))
            found[encoder] = set(map(str, recorded.get("genomes", ())))
    return {encoder: genomes for encoder, genomes in found.items() if genomes}


def encoders_of_unnamed_viruses(split: Split, pretrained: Mapping[str, set[str]]) -> list[str]:
    """Return the encoders of which it cannot be told whether they have read a virus of the test part.

    The corpus names viruses by NCBI's numbers of their genes alone, so another name is never found among what was read.
    The embedded genomes, and those of the corpus, were kept apart from it by their sequences.
    """
    frames = split.frames("test")
    viruses = set(frames.loc[frames["label"] == 1, "genome"])
    if EMBEDDED.is_file():
        viruses -= set(pd.read_csv(EMBEDDED, sep="\t", usecols=["genome"], dtype=str)["genome"])
    if all(_GENE_NUMBER.fullmatch(name) for name in viruses):
        return []
    return [encoder for encoder, genomes in pretrained.items() if any(map(_GENE_NUMBER.fullmatch, genomes))]


def relative_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    """Return accuracies with and without a relative in training, and what its label alone gives, by short name.

    The alignment control calls a frame as its nearest training protein is labelled: over the frames that have one, and
    over all of them, where the model calls those without.
    """
    related = (predictions["relative_label"] >= 0).to_numpy()
    if not related.any():
        return {}
    labels = predictions["label"].to_numpy()
    right = (predictions["score"] >= 0.5).to_numpy() == (labels == 1)
    hit = predictions["relative_label"].to_numpy() == labels
    found = {
        "frames_with_relative": float(related.sum()),
        "accuracy_with_relative": float(right[related].mean()),
        "best_hit_accuracy": float(hit[related].mean()),
        "best_hit_or_model_accuracy": float(np.where(related, hit, right).mean()),
    }
    return found | ({} if related.all() else {"accuracy_without_relative": float(right[~related].mean())})
