"""What a test frame has in common with training data: its genome, or a similar protein."""

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

EMBEDDED = EXAMPLES / "genomes" / "SOURCES.tsv"
_GENE_NUMBER = re.compile(r"GeneID\.\d+")
VERSION = re.compile(r"\.\d{1,2}$")  # of an accession: NC_001416.1 in one release is NC_001416.2 in the next


def with_seen(predictions: pd.DataFrame, split: Split, pretrained: Mapping[str, set[str]]) -> pd.DataFrame:
    """Return predictions with three more columns.

    `seen`: what was trained on the frame's genome, the classifier or an encoder (its name); empty for neither;
    `identity` (0 to 1) and `relative_label` of the most similar training protein, NaN and -1 if there is none or it was
    not looked for.

    Args:
        predictions: Of the test part, in the order of the split.
        split: That of the classifier's training.
        pretrained: The genomes that each encoder was trained on, by its name (`pretraining_genomes`).
    """
    frames = split.frames("test")
    training = set(split.table["genome"].to_numpy()[np.concatenate([split.rows["train"], split.rows["val"]])])
    seen = np.where(frames["genome"].isin(training), CLASSIFIER, "")
    names = [frames[column].str.replace(VERSION, "", regex=True).to_numpy(object) for column in ("genome", "record")]
    for encoder, genomes in pretrained.items():
        known = {VERSION.sub("", name) for name in genomes}
        met = np.array([genome in known or record in known for genome, record in zip(*names, strict=True)], dtype=bool)
        seen = np.where((seen == "") & met, encoder, seen)
    table = predictions.assign(seen=seen, identity=np.nan, relative_label=np.int8(-1))
    if (found := split.relatives()) is not None:
        relatives = found.set_index("frame_id").loc[table["frame_id"]]
        known_label = relatives["label"].to_numpy(dtype=np.int8)
        table["identity"] = np.where(known_label >= 0, relatives["identity"].to_numpy(dtype=float), np.nan)
        table["relative_label"] = known_label
    return table


def pretraining_genomes(encoders: Iterable[str], weights: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the genomes that each encoder was trained on, for encoders that have a record of them.

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
    """Return the encoders that may have been trained on a test virus without a way to find out.

    The corpus names viruses by NCBI's gene numbers alone, so viruses with other names are never found in its records.
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
    """Return accuracies with and without a relative in training, and those of its label alone, by short name.

    The alignment control takes the label of the most similar training protein: over the frames that have one, and over
    all frames, with the model's calls for those without.
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
