"""Does an encoder read its weights correctly? Real sequences are embedded by it and by a reference implementation.

As both would read the same wrong values from a wrong file, the epsilon of each norm and the rotary frequencies are also
compared with the published ones, and each file's bytes with a checksum, if there is one: in the hub's cache, in the
records of `hf download`, or in a file SHA256SUMS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from virnuc.encoders.esm import EsmNetwork
from virnuc.encoders.interface import Encoder
from virnuc.encoders.language_model import LanguageModelEncoder
from virnuc.encoders.mosaicbert import MosaicBertNetwork
from virnuc.encoders.reference import EPSILON, esm_reference, mosaicbert_reference, odd_frequencies
from virnuc.encoders.sources import local_directory
from virnuc.encoders.spec import LoadRequest
from virnuc.encoders.table import find_encoder, load_encoder
from virnuc.errors import EncoderError, MemoryShortageError
from virnuc.runtime import available_memory, choose_device
from virnuc.storage.files import sha256_file

# By precision: the largest allowed difference, as a share of the largest value, and the lowest allowed cosine.
LIMITS = {"fp32": (1e-4, 0.999999), "bf16": (0.1, 0.999), "fp16": (0.02, 0.9999), "int8": (0.1, 0.999)}
_REFERENCES = {EsmNetwork: esm_reference, MosaicBertNetwork: mosaicbert_reference}
_SEQUENCES = Path(__file__).with_name("verification.fasta")  # 8 proteins and 8 chunks from the example genomes
_SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Verification:
    """A comparison of an encoder's embeddings of real sequences with those of another implementation."""

    encoder: str
    reference: str  # name of the other implementation
    device: str
    precision: str
    sequences: int
    largest_difference: float  # as a share of the largest value
    lowest_cosine: float  # of the two embeddings of a sequence
    checksums: str  # where the files' checksums came from; `none` if there were none
    findings: tuple[str, ...]  # why it fails; empty if it passes

    @property
    def passed(self) -> bool:
        """Whether the encoder may be used."""
        return not self.findings

    def __str__(self) -> str:
        """Return what was compared, and how well it agrees."""
        sums = f"bytes as in {self.checksums}" if self.checksums != "none" else "no checksum came with the files"
        agreement = (
            f"{self.sequences} sequences on {self.device} in {self.precision} against {self.reference}: largest "
            f"difference {self.largest_difference:.1e} of the largest value, cosine at least {self.lowest_cosine:.6f}; "
            f"{sums}"
        )
        return "; ".join([*self.findings, agreement])

    def asdict(self) -> dict[str, Any]:
        """Return the fields, `passed` and the text as plain values, for a manifest or a run."""
        return {**asdict(self), "findings": list(self.findings), "passed": self.passed, "summary": str(self)}


def verify(encoder: Encoder, directory: Path | None) -> Verification | None:
    """Compare a loaded encoder with the reference implementation of its family.

    Args:
        encoder: on any device, in any precision.
        directory: where its weights came from; None for random ones.

    Returns:
        The comparison; None for a family without a reference, or without a directory.

    Raises:
        EncoderError: the reference cannot be built from the files.
        MemoryShortageError: the reference does not fit into memory.
    """
    if not isinstance(encoder, LanguageModelEncoder) or type(encoder.network) not in _REFERENCES or directory is None:
        return None
    facts = encoder.provenance
    if available_memory() < 4 * facts.parameters:
        raise MemoryShortageError(
            f"{encoder.name}: a second copy in float32, to verify it, needs {4 * facts.parameters / 2**30:.1f} GiB of "
            "memory"
        )
    sequences = real_sequences(encoder.kind)
    computed_by, reference = _REFERENCES[type(encoder.network)](directory)
    expected = torch.stack([reference(sequence) for sequence in sequences])
    difference, cosine = compare(encoder.embed(sequences), expected)
    checksums, damaged = _check_sums(directory)
    return Verification(
        encoder=encoder.name,
        reference=computed_by,
        device=encoder.device.type,
        precision=facts.precision,
        sequences=len(sequences),
        largest_difference=float(f"{difference:.1e}"),
        lowest_cosine=round(cosine, 6),
        checksums=checksums,
        findings=(*_distance(difference, cosine, facts.precision), *_unlike_published(encoder), *damaged),
    )


def source_of(name: str, weights: Mapping[str, str], revisions: Mapping[str, str]) -> Path | None:
    """Return the directory that an encoder's weights are read from; None if they are random, or if it has none."""
    return local_directory(find_encoder(name), LoadRequest(weights.get(name), revision=revisions.get(name)))


def verify_source(
    name: str, weights: Mapping[str, str], revisions: Mapping[str, str], device: str, precision: str
) -> list[Verification]:
    """Load an encoder on the CPU and on `device` and verify both; then compare the two, unless they are the same.

    Args:
        name: the encoder.
        weights: see `load_encoder`.
        revisions: see `load_encoder`.
        device: see `load_encoder`.
        precision: on `device`; on a CPU beside it, fp32.

    Returns:
        One or three comparisons, in this order.

    Raises:
        UsageError: see `load_encoder`.
        EncoderError: it cannot be loaded, or there is nothing to verify it with.
    """
    chosen = choose_device(device).name
    found, vectors = [], []
    for place in dict.fromkeys(("cpu", chosen)):
        own = "fp32" if place == "cpu" and place != chosen else precision
        encoder = load_encoder(name, weights=weights, device=place, precision=own, revisions=revisions)
        verified = verify(encoder, source_of(name, weights, revisions))
        if verified is None:
            raise EncoderError(f"{name}: there is no second implementation to verify its {encoder.provenance.weights} "
                               "weights with")  # fmt: skip
        found.append(verified)
        vectors.append(encoder.embed(real_sequences(encoder.kind)))
    if len(vectors) == 2:
        difference, cosine = compare(vectors[1], vectors[0])
        found.append(
            replace(
                found[1],
                reference="virnuc on the CPU in fp32",
                largest_difference=float(f"{difference:.1e}"),
                lowest_cosine=round(cosine, 6),
                findings=_distance(difference, cosine, found[1].precision),
            )
        )
    return found


def real_sequences(kind: str) -> list[str]:
    """Return eight proteins of 30 to 952 residues, or, for `dna`, eight chunks of 300 and 500 bp."""
    records = _SEQUENCES.read_text(encoding="utf-8").split(">")[1:]
    parts = [record.splitlines() for record in records]
    return ["".join(lines) for header, *lines in parts if header.split()[-1] == kind]


def compare(vectors: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest difference, as a share of the largest expected value, and the lowest cosine of two rows.

    Both arguments are [n, dimension] float32.
    """
    distance = (vectors - expected).abs().max() / expected.abs().max()
    return distance.item(), cosine_similarity(vectors.double(), expected.double()).min().item()


def _distance(difference: float, cosine: float, precision: str) -> tuple[str, ...]:
    """Return a finding if the embeddings differ by more than `LIMITS` allows."""
    most, least = LIMITS[precision]
    if difference <= most and cosine >= least:
        return ()
    return (f"the embeddings differ by {difference:.1e} (at most {most:g}), cosine {cosine:.6f} (at least {least:g})",)


def _unlike_published(encoder: LanguageModelEncoder) -> list[str]:
    """Return a finding for each constant that differs from that of the family's published models."""
    wanted = EPSILON[encoder.kind]
    epsilons = {module.eps for module in encoder.network.modules() if isinstance(module, nn.LayerNorm)} - {wanted}
    found = [f"a norm has epsilon {epsilon:g}; published models have {wanted:g}" for epsilon in sorted(epsilons)]
    if isinstance(encoder.network, EsmNetwork) and (odd := odd_frequencies(encoder.network.rotary.inv_freq.cpu())):
        found.append(f"rotary frequencies of layer {', '.join(map(str, odd))} are not those of the published models")
    return found


def _check_sums(directory: Path) -> tuple[str, list[str]]:
    """Return where the checksums of the files came from, and a finding for each file that does not match its own."""
    sources: list[str] = []
    damaged: list[str] = []
    for path in sorted(path for path in directory.iterdir() if path.is_file() and path.name != _SUMS):
        source, wanted = _published_sum(path)
        if not wanted:
            continue
        sources.append(source)
        digest = sha256_file(path) if len(wanted) == 64 else _git_blob(path)
        if digest != wanted:
            damaged.append(f"{path.name} is not the published file: its checksum is {digest[:12]}, not {wanted[:12]}")
    return ", ".join(dict.fromkeys(sources)) or "none", damaged


def _published_sum(path: Path) -> tuple[str, str]:
    """Return where a file's checksum is recorded, and the checksum; both empty if there is none.

    It is a SHA-256, or, for small files on the hub, git's SHA-1.
    """
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and len(blob.name) in (40, 64):
        return "the hub's cache", blob.name
    record = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    if record.is_file() and len(lines := record.read_text(encoding="utf-8").split()) > 1 and len(lines[1]) in (40, 64):
        return "the hub's record of the download", lines[1]
    sums = path.parent / _SUMS
    if sums.is_file():
        listed = [line.split() for line in sums.read_text(encoding="utf-8").splitlines()]
        return _SUMS, next((line[0] for line in listed if line[1:] and line[1].lstrip("*") == path.name), "")
    return "", ""


def _git_blob(path: Path) -> str:
    """Return the SHA-1 that git gives a file of this content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
