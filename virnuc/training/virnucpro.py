"""VirNucPro's own models, read without running their pickle.

VirNucPro saves whole pickled modules, of a class in `__main__` or `train`, and unpickling a file may run any code. Here
torch's restricted unpickler reads it with an inert class in place of the few that such a module consists of, and
refuses a file that names any other; only attributes are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from virnuc.errors import DataError, IncompatibleCheckpointError, UsageError
from virnuc.features.feature_set import VIRNUCPRO_WIDTHS, virnucpro_encoders
from virnuc.settings import MIN_CHUNK_SIZE
from virnuc.storage.files import read_json, sha256_file
from virnuc.storage.tensors import load_plain
from virnuc.training.checkpoint import Checkpoint, check_weights, load_checkpoint

LEGACY_VERSION = "1.0.0"
_CLASSES = (
    "__main__.MLPClassifier",
    "train.MLPClassifier",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.dropout.Dropout",
)
_LAYERS = ("hidden_layer", "bn1", "output_layer")


class _Inert:
    """Takes the place of a class in the pickle: holds its attributes and does nothing."""


def read_model(path: Path) -> Checkpoint:
    """Return a classifier that was trained elsewhere: a checkpoint of this project's format, or VirNucPro's module.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged, is neither of the two, or has values that are not possible.
        IncompatibleCheckpointError: its version or width is unknown, or its metadata contradicts itself.
        DimensionError: its weights have other sizes than its metadata says.
    """
    if not isinstance(_load(path), dict):
        return convert_checkpoint(path)
    checkpoint = load_checkpoint(path)
    return replace(checkpoint, metadata=_completed(path, checkpoint.metadata))


def convert_checkpoint(path: Path) -> Checkpoint:
    """Return VirNucPro's pickled module as a checkpoint of version 1, to be saved, built and registered.

    Raises:
        UsageError: there is no such file.
        DataError: the file is damaged, is not a model of VirNucPro, or names a class that such a model does not need.
        IncompatibleCheckpointError: its input has none of the widths of VirNucPro's models.
    """
    module = _load(path)
    try:
        state = _weights(module)
        width = int(state["hidden_layer.weight"].shape[1])
        sizes = {"hidden_dim": len(state["hidden_layer.weight"]), "num_class": len(state["output_layer.weight"])}
        dropout = float(_attributes(module, "_modules")["dropout"].__dict__["p"])
    except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a classifier of VirNucPro's ({error!r} is missing or wrong)") from error
    encoders = _encoders_of(path, width)
    metadata = {
        "checkpoint_version": LEGACY_VERSION,
        "model_type": encoders["protein"]["name"],
        "huggingface_model_id": None,
        "revision": None,
        "dna_dim": encoders["dna"]["dimension"],
        "protein_dim": encoders["protein"]["dimension"],
        "merged_dim": width,
        "input_dim": width,
        **sizes,
        "dropout": dropout,
        "modality": "merged",
        "encoders": encoders,
        "features_digest": None,
        "split_digest": None,
        "training_date": None,
        "pytorch_version": None,
        "converted_from": sha256_file(path),
    }
    check_weights(path, state, metadata)
    return Checkpoint(state, metadata)


def read_external_metrics(path: Path, known: Collection[str]) -> dict[str, float]:
    """Read metrics that were measured elsewhere: a JSON object of numbers from -1 to 1, such as `{"accuracy": 0.9}`.

    As they were not measured on a split of this project, they are shown next to a model but never decide a comparison.

    Args:
        path: the JSON file.
        known: the names that a metric may have.

    Raises:
        UsageError: there is no such file.
        DataError: it has other contents.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    document = read_json(path)
    if not document:
        raise DataError(f"{path}: a JSON object of metrics is needed")
    for name, value in document.items():
        if name not in known:
            raise DataError(f"{path}: {name} is none of the metrics that are compared: {', '.join(known)}")
        if type(value) not in (int, float) or not math.isfinite(value) or not -1 <= value <= 1:
            raise DataError(f"{path}: {name} is {value!r}, not a number from -1 to 1")
    return {name: float(value) for name, value in document.items()}


def _encoders_of(path: Path, width: int) -> dict[str, dict[str, Any]]:
    """Return the encoders of a VirNucPro model, inferred from the width of its input; their weights are unrecorded."""
    if width not in VIRNUCPRO_WIDTHS:
        known = " or ".join(map(str, VIRNUCPRO_WIDTHS))
        raise IncompatibleCheckpointError(f"{path}: takes {width} values a frame; VirNucPro's models take {known}")
    return virnucpro_encoders(width)


def _completed(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Check a checkpoint's metadata; return it with a record of its encoders, which VirNucPro's checkpoints lack."""
    encoders = metadata.get("encoders") or _encoders_of(path, metadata["merged_dim"])
    modality, dna, merged = metadata.get("modality", "merged"), metadata["dna_dim"], metadata["merged_dim"]
    try:
        names = {kind: encoders[kind]["name"] for kind in ("dna", "protein")}
        width = {"merged": merged, "dna": dna, "protein": merged - dna}[modality]
        sizes = list(metadata.get("chunk_sizes", ()))
        seeds = [metadata.get("seed", 0), *(record["seed"] for record in metadata.get("replicates", ()))]
        dropout = metadata.get("dropout", 0.5)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: its metadata does not say what it was trained on ({error!r})") from error
    if not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) for name in names.values()):
        raise DataError(f"{path}: its metadata has encoder names that are not possible: {names}")
    if names["protein"] != metadata["model_type"] or width != metadata["input_dim"]:
        raise IncompatibleCheckpointError(
            f"{path}: its metadata contradicts itself: {metadata['model_type']} with {metadata['input_dim']} values a "
            f"frame, but {names['protein']} with {width}"
        )
    if not all(type(size) is int and (size == 0 or size >= MIN_CHUNK_SIZE) for size in sizes):
        raise DataError(f"{path}: its metadata has chunk sizes that are not possible: {sizes}")
    if not all(type(seed) is int for seed in seeds) or type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise DataError(f"{path}: its metadata has seeds or a dropout that are not possible: {seeds}, {dropout}")
    if not all(isinstance(encoders[kind].get("weights", ""), str) for kind in names):
        raise DataError(f"{path}: its metadata has weights of encoders that are not possible")
    known = {kind: {"weights": "unrecorded", **encoders[kind]} for kind in names}
    return {**metadata, "encoders": known, "modality": modality, "chunk_sizes": sizes}


def _load(path: Path) -> Any:
    return load_plain(path, stand_ins=[(_Inert, name) for name in _CLASSES])


def _weights(module: Any) -> dict[str, Tensor]:
    """Return a module's parameters and buffers by their names in a state dict."""
    layers = _attributes(module, "_modules")
    state = {}
    for layer in _LAYERS:
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _attributes(layers[layer], kind).items():
                state[f"{layer}.{name}"] = tensor.detach()
    return state


def _attributes(module: Any, kind: str) -> dict[str, Any]:
    """Return one of the dicts that hold a module's parameters, buffers or submodules."""
    if type(module) is not _Inert:
        raise TypeError(type(module).__name__)
    return dict(module.__dict__[kind])
