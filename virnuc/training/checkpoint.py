"""The checkpoint of a classifier; it is used only with vectors of the encoders that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virnuc.errors import DataError, DimensionError, IncompatibleCheckpointError
from virnuc.features.feature_set import NO_PROTEIN, FeatureSet
from virnuc.splits.assignment import Split
from virnuc.storage.tensors import load_plain, save_plain
from virnuc.training.classifier import Classifier

CHECKPOINT_VERSION = "2.0.0"
READABLE_VERSIONS = ("1.0.0", CHECKPOINT_VERSION)  # 1.0.0: converted from VirNucPro's pickled modules, see `virnucpro`
REPLICATES = "replicates"  # folder beside a checkpoint, with a folder for each of the other seeds
_SIZES = ("dna_dim", "protein_dim", "merged_dim", "input_dim", "hidden_dim", "num_class")


@dataclass(frozen=True)
class Checkpoint:
    """A classifier with the record of its training."""

    model_state: dict[str, Tensor]
    metadata: dict[str, Any]  # plain values, see `describe_training`
    epoch: int = 0  # after which the weights were taken, from 1
    best_loss: float = float("nan")  # lowest validation loss of the training
    optimizer_state: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Classifier:
        """Return the classifier in evaluation mode, on the CPU."""
        sizes = {name: self.metadata[name] for name in ("input_dim", "hidden_dim", "num_class")}
        with torch.device("meta"):
            model = Classifier(**sizes, dropout=float(self.metadata.get("dropout", 0.5)))
        model.load_state_dict(self.model_state, strict=True, assign=True)
        return model.requires_grad_(False).eval()

    def columns(self) -> slice:
        """Return the columns of a merged vector that the classifier takes."""
        dna, merged = self.metadata["dna_dim"], self.metadata["merged_dim"]
        parts = {"merged": slice(0, merged), "dna": slice(0, dna), "protein": slice(dna, merged)}
        return parts[self.metadata.get("modality", "merged")]

    def check_compatible(self, features: FeatureSet, split: Split | None = None) -> None:
        """Check that `features` (and `split`, if given) are those that this checkpoint was trained on.

        Properties that are not recorded on both sides, as in VirNucPro's files, are not compared. For a classifier of
        the DNA half, which comes first in a vector, only that half is compared.

        Raises:
            DimensionError: the dimensions differ.
            IncompatibleCheckpointError: an encoder, its weights or the split differ.
        """
        dna_alone = self.metadata.get("modality") == "dna"
        for name, found in (
            ("merged_dim", features.dimension),
            ("dna_dim", features.dna_dim),
            ("protein_dim", features.protein_dim),
        ):
            if dna_alone and name != "dna_dim":
                continue
            if self.metadata[name] != found and (name == "merged_dim" or features.dna_dim):
                raise DimensionError(
                    f"the checkpoint of {self.metadata['model_type']} has {name} {self.metadata[name]}, but "
                    f"{features.directory} has {found}; give the features of {self.metadata['model_type']}"
                )
        for kind, encoder in features.encoders.items():
            if not dna_alone or kind == "dna":
                self._check_encoder(kind, encoder, features.directory)
        trained_on = self.metadata.get("split_digest")
        if split is not None and trained_on and trained_on != split.digest:
            raise IncompatibleCheckpointError(
                f"the checkpoint was trained on split {trained_on[:12]}, but {split.directory} is {split.digest[:12]}; "
                "its test frames may be among the training frames; give the checkpoint's own split"
            )

    def _check_encoder(self, kind: str, found: Mapping[str, Any], directory: Path) -> None:
        """Raise an IncompatibleCheckpointError if the encoder `found` in `directory` is not the recorded one."""
        own = self.metadata.get("encoders", {}).get(kind) or {}
        own = {"name": self.metadata["model_type"]} | own if kind == "protein" else own
        for key in ("name", "weight_digest", "config", "token_dropout_scale"):
            mine, theirs = own.get(key), found.get(key)
            if mine and theirs and mine != theirs and "unknown" not in (mine, theirs):
                raise IncompatibleCheckpointError(
                    f"the checkpoint's {kind} encoder has {key} {mine}, but that of {directory} has {theirs}; "
                    "embed with the checkpoint's encoder or train on these features"
                )


def model_name(encoders: Mapping[str, Mapping[str, Any]], modality: str) -> str:
    """Return a model's name: its protein encoder's; for half of a vector, `<encoder>_dna`, `_protein` or `_chunks`."""
    if modality == "merged":
        return str(encoders["protein"]["name"])
    of_chunks = encoders["protein"]["name"] == NO_PROTEIN
    return f"{encoders[modality]['name']}_{'chunks' if of_chunks else modality}"


def describe_training(features: FeatureSet, split: Split, modality: str, model: Classifier) -> dict[str, Any]:
    """Return a checkpoint's metadata, plain values that describe the model and its training data."""
    dna, protein = features.encoders["dna"], features.encoders["protein"]
    return {
        "checkpoint_version": CHECKPOINT_VERSION,
        "model_type": protein["name"],
        "huggingface_model_id": protein.get("hub_id"),
        "revision": protein.get("revision"),
        "dna_dim": features.dna_dim,
        "protein_dim": features.protein_dim,
        "merged_dim": features.dimension,
        "input_dim": model.input_dim,
        "hidden_dim": model.hidden_layer.out_features,
        "num_class": model.output_layer.out_features,
        "dropout": model.dropout.p,
        "modality": modality,
        "chunk_sizes": [member.chunk_size for member in features.members],
        "encoders": {"dna": dna, "protein": protein},
        "features_digest": features.digest,
        "split_digest": split.digest,
        "training_date": datetime.now(UTC).isoformat(timespec="seconds"),
        "pytorch_version": torch.__version__.split("+")[0],
    }


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    document = {
        "epoch": checkpoint.epoch,
        "model_state_dict": checkpoint.model_state,
        "optimizer_state_dict": checkpoint.optimizer_state,
        "best_loss": checkpoint.best_loss,
        "metadata": checkpoint.metadata,
    }
    save_plain(path, document)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running its pickle.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged or not a checkpoint, or its weights are not finite.
        IncompatibleCheckpointError: its version is unknown, or weights are missing or unexpected.
        DimensionError: its weights have other sizes than its metadata says.
    """
    document = load_plain(path)
    try:
        checkpoint = Checkpoint(
            document["model_state_dict"],
            document["metadata"],
            int(document["epoch"]),
            float(document["best_loss"]),
            document["optimizer_state_dict"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a checkpoint of a classifier ({error!r} is missing or wrong)") from error
    check_weights(path, checkpoint.model_state, checkpoint.metadata)
    return checkpoint


def check_weights(path: Path, state: Any, metadata: Any) -> None:
    """Check that `state` has finite weights of the sizes in `metadata`, and that its version is known.

    Raises:
        DataError: one of the two is not what a checkpoint has, or values are not possible.
        IncompatibleCheckpointError: the version is unknown, or weights are missing or unexpected.
        DimensionError: a tensor has another shape.
    """
    if not isinstance(metadata, dict) or not isinstance(state, dict):
        raise DataError(f"{path}: not a checkpoint of a classifier")
    version = metadata.get("checkpoint_version")
    if version not in READABLE_VERSIONS:
        raise IncompatibleCheckpointError(
            f"{path}: checkpoint version {version}; this virnuc reads {' and '.join(READABLE_VERSIONS)}, "
            "newer checkpoints need a newer virnuc"
        )
    wrong = [name for name in _SIZES if type(metadata.get(name)) is not int or metadata[name] < 0]
    if wrong or not isinstance(metadata.get("model_type"), str):
        raise DataError(f"{path}: its metadata lacks {', '.join(wrong) or 'model_type'}")
    with torch.device("meta"):
        wanted = Classifier(metadata["input_dim"], metadata["hidden_dim"], metadata["num_class"]).state_dict()
    if state.keys() != wanted.keys():
        odd = ", ".join(sorted(map(str, state.keys() ^ wanted.keys())))
        raise IncompatibleCheckpointError(f"{path}: these weights are missing or unexpected: {odd}")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.shape != wanted[name].shape:
            shape = list(getattr(tensor, "shape", []))
            raise DimensionError(f"{path}: {name} has shape {shape}, but its metadata says {list(wanted[name].shape)}")
        if tensor.is_meta or not torch.isfinite(tensor).all():
            raise DataError(f"{path}: {name} holds NaN or infinite values")
        if name.endswith("running_var") and (tensor < 0).any():
            raise DataError(f"{path}: {name} holds negative variances")
