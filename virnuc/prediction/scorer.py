"""A scorer on disk: classifier as safetensors, everything else as JSON, small encoders' weights inside.

An encoder with weights of up to 50 MB is copied into the directory, so that the scorer runs anywhere. A larger
one is recorded by revision and weight digest. In both cases the digest is compared when it is loaded: a scorer
never runs with other weights than its classifier was trained on. A companion is one more safetensors file; it shares
the DNA encoder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from virnuc.encoders import Encoder, load_recorded, recorded_directory
from virnuc.errors import DataError
from virnuc.prediction.chunks import ANSWERED, NO_OPEN_FRAME
from virnuc.prediction.companion import COMPANION, FRAMES, MEAN, Companion, CompanionSource
from virnuc.prediction.scoring import Scorer
from virnuc.storage.files import read_json, sha256_file, write_text
from virnuc.training.checkpoint import Checkpoint
from virnuc.training.classifier import Classifier

FORMAT_VERSION = 5
# 1 has no companion; in 2 and 3, which differ in names, it is for chunks without an open frame only; 4 has no log loss.
READABLE_VERSIONS = (1, 2, 3, 4, FORMAT_VERSION)
CONFIG = "scorer.json"
DIGEST_TAG = "virnuc.scorer_sha256"  # of a registered version and of its logged model, see `scorer_digest`
CLASSIFIER, COMPANION_CLASSIFIER = "classifier.safetensors", "companion.safetensors"
MAX_INSIDE_BYTES = 50_000_000  # bytes of one encoder's files
PROBE = "ATGGCTAAAGGTGAAGAACTGTTCACCGGTGTTGTTCCGATCCTGGTTGAACTGGATGGTGACGTTAACGGTCACAAATTC"  # 80 bp of a GFP gene
STOPPED_PROBE = f"{PROBE}TTAATTAATTAA{PROBE}"  # a stop codon in each of the six frames
PROBE_TOLERANCE = 1e-3  # other processors, numbers of threads and precisions round differently

_ENCODER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "*.safetensors", "*.safetensors.index.json")

_TRAINED = ("model_type", "modality", "checkpoint_version", "features_digest", "split_digest")


@dataclass(frozen=True)
class MethodChoice:
    """How a model scores the chunks of one status, and the measurements that decided it."""

    method: str = FRAMES  # one of METHODS
    log_loss: dict[str, float] = field(default_factory=dict)  # of each method, over the chunks below; it decides
    accuracy: dict[str, float] = field(default_factory=dict)  # likewise
    roc_auc: dict[str, float] = field(default_factory=dict)  # likewise
    chunks: int = 0  # of this status
    viral: int = 0  # of them
    genomes: int = 0  # that they are of
    reason: str = ""  # why nothing was measured


Choices = dict[str, MethodChoice]  # by status, SCORED and NO_OPEN_FRAME


def save_scorer(
    checkpoint: Checkpoint,
    directory: Path,
    chunk_size: int,
    weights: Mapping[str, str] | None = None,
    temperature: float = 1.0,
) -> None:
    """Write a trained classifier as a scorer into the new `directory`.

    Args:
        checkpoint: the classifier and the encoders that it was trained on.
        directory: directory for it, made if it does not exist.
        chunk_size: length of the training chunks, bp.
        weights: directories of weights, by encoder name; those up to 50 MB are copied.
        temperature: divisor of the logits.

    The probe is scored and its value recorded if all weights are available. They need not be: training reads
    features only, and the encoders of a large feature set may be on another machine.

    Raises:
        EncoderError: weights were found, but they are not those of the training.
    """
    directory.mkdir(parents=True, exist_ok=True)
    save_file(checkpoint.model_state, directory / CLASSIFIER)
    modality = checkpoint.metadata.get("modality", "merged")
    kinds = ("dna", "protein") if modality == "merged" else (modality,)
    trained_on = checkpoint.metadata["encoders"]
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "chunk_size": chunk_size,
        "temperature": temperature,
        "classifier": _describe_classifier(checkpoint, directory / CLASSIFIER),
        "companion": None,
        "methods": {status: asdict(MethodChoice(reason="no companion was given")) for status in ANSWERED},
        "encoders": [_save_encoder(kind, trained_on[kind], directory, weights or {}) for kind in kinds],
        "probe": {"sequence": PROBE, "probability": None},
        "trained": {name: checkpoint.metadata.get(name) for name in _TRAINED},
    }
    _write_config(directory, config)
    if all(_is_available(entry, weights or {}) for entry in config["encoders"]):
        config["probe"]["probability"] = probe(load_scorer(directory, weights))
        _write_config(directory, config)


def save_choices(
    directory: Path, choices: Choices, source: CompanionSource | None = None, scorer: Scorer | None = None
) -> Choices:
    """Write into the scorer in `directory` how it scores the chunks of each status; return `choices`.

    A companion that `scorer` has, from `source`, is kept, and the probes are scored with it.
    """
    config = read_config(directory) | {"methods": {status: asdict(choice) for status, choice in choices.items()}}
    if source is not None and scorer is not None and scorer.companion is not None:
        checkpoint = source.checkpoint
        save_file(checkpoint.model_state, directory / COMPANION_CLASSIFIER)
        config["companion"] = {
            **_describe_classifier(checkpoint, directory / COMPANION_CLASSIFIER),
            **{name: checkpoint.metadata.get(name) for name in _TRAINED},
            "origin": source.origin,
            "temperature": scorer.companion.temperature,
            "probe": {"sequence": STOPPED_PROBE, "probability": probe(scorer, STOPPED_PROBE)},
        }
        config["probe"] = {"sequence": PROBE, "probability": probe(scorer)}
    _write_config(directory, config)
    return choices


def load_scorer(directory: Path, weights: Mapping[str, str] | None = None, device: str = "cpu") -> Scorer:
    """Read a scorer back.

    Args:
        directory: as `save_scorer` wrote it.
        weights: directories, by encoder name, of weights that are not inside the scorer.
        device: device to compute on.

    Raises:
        DataError: a file is missing or was changed, or a recorded probe scores otherwise.
        EncoderError: an encoder's weights cannot be found, or are not those of the training.
    """
    config = read_config(directory)
    companion = config.get("companion")
    scorer = Scorer(
        classifier=_load_classifier(directory / CLASSIFIER, config["classifier"], device),
        encoders=tuple(_load_encoder(entry, directory, weights or {}, device) for entry in config["encoders"]),
        chunk_size=config["chunk_size"],
        temperature=config["temperature"],
        device=device,
        companion=companion
        and Companion(
            _load_classifier(directory / COMPANION_CLASSIFIER, companion, device), temperature=companion["temperature"]
        ),
        methods={status: choice.method for status, choice in read_choices(config).items()},
    )
    check_probe(scorer, directory)
    return scorer


def read_choices(config: Mapping[str, Any]) -> Choices:
    """Return how a scorer scores the chunks of each status, from the contents of its scorer.json."""
    if "methods" in config:
        return {status: MethodChoice(**config["methods"][status]) for status in ANSWERED}
    choices = {status: MethodChoice(reason="the model was registered by an earlier virnuc") for status in ANSWERED}
    record = config.get("no_open_frame", {})
    earlier = record.get("fallback", record.get("way"))
    if earlier in (COMPANION, MEAN):
        choices[NO_OPEN_FRAME] = replace(choices[NO_OPEN_FRAME], method=earlier)
    return choices


def read_config(directory: Path) -> dict[str, Any]:
    """Return the contents of scorer.json.

    Raises:
        DataError: it is missing, damaged or of another version.
    """
    path = directory / CONFIG
    config = read_json(path)
    if (version := config.get("format_version")) is None:
        raise DataError(f"{path}: not a scorer of virnuc (it has no format_version)")
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"{path}: format version {version}; this virnuc reads {FORMAT_VERSION}, newer models need a newer virnuc"
        )
    return config


def scorer_digest(directory: Path) -> str:
    """Return the identity of a scorer on disk: the SHA-256 of scorer.json, which has the digests of all weights."""
    return sha256_file(directory / CONFIG)


def probe(scorer: Scorer, sequence: str = PROBE) -> float:
    """Return the viral probability of a fixed sequence; a loaded scorer must give the recorded one."""
    return float(scorer.score([sequence])["probability"].iloc[0])


def check_probe(scorer: Scorer, directory: Path) -> float | None:
    """Score the probes and return their largest distance from the recorded values; None if none was recorded.

    Raises:
        DataError: one differs by more than rounding.
    """
    config = read_config(directory)
    probes = [config["probe"], *([config["companion"]["probe"]] if config.get("companion") else [])]
    if config["probe"]["probability"] is None:
        return None
    distances = [abs(probe(scorer, known["sequence"]) - known["probability"]) for known in probes]
    for known, distance in zip(probes, distances, strict=True):
        if not distance <= PROBE_TOLERANCE:
            recorded = f"{known['probability']:.6f}"
            raise DataError(f"{directory}: a probe sequence scores {distance:.2g} away from its recorded {recorded}")
    return max(distances)


def _describe_classifier(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    sizes = {name: checkpoint.metadata[name] for name in ("input_dim", "hidden_dim", "num_class")}
    return {**sizes, "sha256": sha256_file(path)}


def _load_classifier(path: Path, shape: Mapping[str, Any], device: str) -> Classifier:
    if not path.is_file() or sha256_file(path) != shape["sha256"]:
        raise DataError(f"{path}: missing or changed since the model was packed; register the model again")
    classifier = Classifier(shape["input_dim"], hidden_dim=shape["hidden_dim"], num_class=shape["num_class"])
    classifier.load_state_dict(load_file(path))
    return classifier.to(device).eval()


def _write_config(directory: Path, config: Mapping[str, Any]) -> None:
    write_text(directory / CONFIG, json.dumps(config, indent=1, sort_keys=True) + "\n")


def _save_encoder(kind: str, trained: Mapping[str, Any], directory: Path, weights: Mapping[str, str]) -> dict[str, Any]:
    """Copy an encoder's files if they are small and available; return its entry in scorer.json."""
    source = recorded_directory(trained, weights)
    files = sorted(path for pattern in _ENCODER_FILES for path in source.glob(pattern)) if source else []
    has_weights = any(path.suffix == ".safetensors" for path in files)
    if not has_weights or sum(path.stat().st_size for path in files) > MAX_INSIDE_BYTES:
        return {**trained, "kind": kind, "inside": None}
    target = directory / "encoders" / kind
    target.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, target / path.name)
    return {**trained, "kind": kind, "inside": f"encoders/{kind}"}


def _is_available(entry: Mapping[str, Any], weights: Mapping[str, str]) -> bool:
    return entry["inside"] is not None or entry["weights"] == "none" or recorded_directory(entry, weights) is not None


def _load_encoder(trained: Mapping[str, Any], directory: Path, weights: Mapping[str, str], device: str) -> Encoder:
    inside = {trained["name"]: str(directory / trained["inside"])} if trained["inside"] else {}
    return load_recorded(trained, weights={**weights, **inside}, device=device)
