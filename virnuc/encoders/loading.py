"""The loaders that the table names: they read an encoder's files and check them against its row."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from virnuc.encoders import esm, hexamer, mosaicbert, unirep
from virnuc.encoders.byte_pairs import BytePairTokeniser, train_byte_pairs
from virnuc.encoders.composition import CompositionEncoder
from virnuc.encoders.interface import Encoder, EncoderProvenance
from virnuc.encoders.language_model import LanguageModelEncoder
from virnuc.encoders.network import Network, fill
from virnuc.encoders.sources import RANDOM, locate
from virnuc.encoders.spec import EncoderSpec, LoadRequest
from virnuc.encoders.tokens import tokenise_proteins
from virnuc.encoders.weights import EncoderWeights, RandomWeights, WeightFiles, rotary_frequencies
from virnuc.errors import EncoderError, MemoryShortageError, UsageError
from virnuc.runtime import WEIGHT_BYTES, available_memory
from virnuc.storage.files import read_json, sha256_file

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_RANDOM_SEED = 0
NAME_DIGITS = 12  # of the weights' digest, in the name of an encoder from a directory


def load_composition(spec: EncoderSpec, request: LoadRequest) -> Encoder:
    """Make a composition encoder.

    Raises:
        UsageError: weights were given, but it has none.
    """
    if request.source is not None:
        raise UsageError(f"--weights {spec.name}=...: {spec.name} counts k-mers and has no weights")
    alphabet, k, phases = (spec.architecture[key] for key in ("alphabet", "k", "phases"))
    return CompositionEncoder(spec.name, spec.kind, str(alphabet), int(k), int(phases))


def load_esm(spec: EncoderSpec, request: LoadRequest) -> Encoder:
    """Load an ESM-2 model.

    Raises:
        UsageError: see `locate`.
        EncoderError: its files are missing, damaged or those of another model.
    """
    directory, weights = locate(spec, request)
    shape = esm.EsmShape.from_config(*_config(spec, directory))
    scale = spec.token_dropout_scale
    if scale is None:
        scale = 1 - esm.TRAINED_MASKING if shape.token_dropout else 1.0
    checkpoint = WeightFiles(directory, esm.PREFIX, esm.is_ignored) if directory else None
    rotary = "layers" if checkpoint is None else esm.rotary_source(checkpoint)
    with torch.device("meta"):
        network = esm.EsmNetwork(shape, scale, rotary)
    digest = _fill(network, checkpoint, spec, request)
    if rotary == "computed":
        frequencies = rotary_frequencies(network.rotary.inv_freq.shape[1])
        network.rotary.inv_freq = frequencies.repeat(shape.layers, 1).to(request.device)
    facts = {
        "config": _hidden_values(shape),
        "token_dropout_scale": scale,
        "rotary": "computed" if rotary == "computed" else "file",
    }
    tokeniser = partial(tokenise_proteins, max_residues=spec.max_residues)
    provenance = _provenance(spec, request, network, facts | _origin(spec, directory, weights, digest))
    return LanguageModelEncoder(network, tokeniser, provenance, request.device)


def load_mosaicbert(spec: EncoderSpec, request: LoadRequest) -> Encoder:
    """Load a MosaicBERT model with its byte-pair tokenizer.

    Raises:
        UsageError: see `locate`.
        EncoderError: its files are missing, damaged or those of another model.
    """
    directory, weights = locate(spec, request, extra_files=("tokenizer.json",))
    shape = mosaicbert.MosaicBertShape.from_config(*_config(spec, directory))
    with torch.device("meta"):
        network = mosaicbert.MosaicBertNetwork(shape)
    if directory is None:
        digest = _fill(network, None, spec, request)
        tokeniser = train_byte_pairs(EXAMPLES / "genomes", shape.vocabulary)
    else:
        tokeniser = BytePairTokeniser.from_file(directory / "tokenizer.json")
        digest = _fill(network, WeightFiles(directory, mosaicbert.PREFIX, mosaicbert.is_ignored), spec, request)
        digest = sha256(digest.encode() + (directory / "tokenizer.json").read_bytes()).hexdigest()
    facts = {"config": _hidden_values(shape)} | _origin(spec, directory, weights, digest)
    return LanguageModelEncoder(network, tokeniser, _provenance(spec, request, network, facts), request.device)


def load_hexamer(spec: EncoderSpec, request: LoadRequest) -> Encoder:
    """Load a hexamer model, always in float32, as it is too fast for another precision to save time.

    Raises:
        UsageError: see `locate`.
        EncoderError: its files are missing, damaged or those of another model.
    """
    request = replace(request, precision="fp32")
    directory, weights = locate(spec, request)
    shape = hexamer.HexamerShape.from_config(*_config(spec, directory))
    with torch.device("meta"):
        network = hexamer.HexamerNetwork(shape)
    digest = _fill(network, WeightFiles(directory, "", lambda _: False) if directory else None, spec, request)
    provenance = _provenance(spec, request, network, _origin(spec, directory, weights, digest))
    return LanguageModelEncoder(network, hexamer.tokenise, provenance, request.device)


def load_unirep(spec: EncoderSpec, request: LoadRequest) -> Encoder:
    """Load a UniRep model.

    Raises:
        UsageError: see `locate`.
        EncoderError: its file is missing, damaged or that of another model.
    """
    directory, weights = locate(spec, request)
    checkpoint = unirep.UniRepWeights(directory) if directory else None
    sizes = {"width": checkpoint.width, "layers": checkpoint.layers} if checkpoint else spec.architecture
    with torch.device("meta"):
        network = unirep.UniRepNetwork(int(sizes["width"]), int(sizes["layers"]))
    digest = _fill(network, checkpoint, spec, request)
    if directory is not None:
        digest = sha256_file(directory / unirep.WEIGHTS)
    package = {"package": spec.packaged.requirement if spec.packaged and weights == "package" else None}
    provenance = _provenance(spec, request, network, package | _origin(spec, directory, weights, digest))
    return LanguageModelEncoder(network, unirep.tokenise, provenance, request.device)


def _config(spec: EncoderSpec, directory: Path | None) -> tuple[dict[str, Any], str]:
    """Return an encoder's config.json and its name in messages; `directory` is None for random weights."""
    if directory is None and spec.architecture:
        return dict(spec.architecture), f"{spec.name} ({RANDOM})"
    place = directory or spec.directory
    if place is None:
        raise UsageError(f"{spec.name}: no architecture to fill with random weights")
    return read_json(place / "config.json", EncoderError), str(place / "config.json")


def _hidden_values(shape: esm.EsmShape | mosaicbert.MosaicBertShape) -> dict[str, float]:
    """Return the values of config.json that change the vectors but no tensor's shape."""
    return {"heads": shape.heads, "epsilon": shape.epsilon}


def _fill(network: Network, checkpoint: EncoderWeights | None, spec: EncoderSpec, request: LoadRequest) -> str:
    """Load `checkpoint`, or random weights if it is None, into `network`; return the digest of the weights."""
    if spec.dimension is not None and network.dimension != spec.dimension:
        raise EncoderError(
            f"{spec.name}: its config.json says {network.dimension} dimensions, but {spec.name} has {spec.dimension}; "
            "these are the files of another model"
        )
    _check_memory(network, spec, request)
    if checkpoint is None:
        shapes = {key: slot.shape for key, slot in network.slots().items()}
        checkpoint = RandomWeights(spec.name, shapes, _RANDOM_SEED)
    return fill(network, checkpoint, request.precision, request.device)


def _check_memory(network: Network, spec: EncoderSpec, request: LoadRequest) -> None:
    """Raise a MemoryShortageError if the weights cannot fit, before the system kills the process for it."""
    needed, available = _count_weights(network) * WEIGHT_BYTES[request.precision], available_memory(request.device)
    if needed > available:
        raise MemoryShortageError(
            f"{spec.name} needs {needed / 2**30:.1f} GiB for its weights in {request.precision}, but {request.device} "
            f"has {available / 2**30:.1f} GiB left; use a lower precision or a machine with more memory"
        )


def _count_weights(network: Network) -> int:
    return sum(math.prod(slot.shape) for slot in network.slots().values())


def _origin(spec: EncoderSpec, directory: Path | None, weights: str, digest: str) -> dict[str, Any]:
    """Return the encoder's name, the kind and digest of its weights, and their commit on the hub.

    Raises:
        EncoderError: the directory's weights are not those that the name stands for.
    """
    name = spec.name
    if spec.family:  # from a directory, which is identified by its weights, not by its path
        name = f"{spec.family}-{digest[:NAME_DIGITS]}"
        if ":" not in spec.name and name != spec.name:
            raise EncoderError(f"{directory}: holds {name}, not {spec.name}; give --weights {spec.name}=DIR")
    # A directory of the hub's cache is named after its commit, even if a branch was asked for.
    revision = directory.name if directory and weights == "hub" else None
    return {"name": name, "weights": weights, "weight_digest": digest, "revision": revision}


def _provenance(spec: EncoderSpec, request: LoadRequest, network: Network, facts: dict[str, Any]) -> EncoderProvenance:
    return EncoderProvenance(
        kind=spec.kind,
        dimension=network.dimension,
        precision=request.precision,
        licence=spec.licence,
        hub_id=spec.hub_id,
        max_residues=spec.max_residues,
        parameters=_count_weights(network),
        **facts,
    )
