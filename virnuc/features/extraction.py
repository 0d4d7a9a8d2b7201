"""`extract`: frames to vectors, first each encoder's half, then both halves merged into one feature set.

Chunks (`chunks/` in the directory of frames) have no protein: only their DNA is embedded, on both strands and, for
encoders that depend on it, in each phase; with `--shifted`, so are the chunks halfway between neighbours.

An encoder's half is in `<out>/<encoder>/`; it is computed once and shared by all feature sets. A shard of
vectors is a function of one shard of frames, is written whole or not at all, and is the unit of resuming. Several
processes can work on one directory: each claims shards that no other has. Reading and tokenising the next shard
and writing the last one overlap with the computation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnuc.encoders import Encoder, EncoderProvenance, Tokens, check_encoders, find_encoder, load_encoder
from virnuc.encoders.verification import source_of, verify
from virnuc.errors import DataError, EncoderError, MemoryShortageError
from virnuc.features.feature_set import NO_PROTEIN
from virnuc.features.frame_shard import COLUMNS, FrameShard
from virnuc.features.shards import STORAGES, read_shard, storage_of, write_shard
from virnuc.runtime import Progress, choose_device, silent
from virnuc.sequences.frames import count_between_chunks, frame_shards
from virnuc.settings import ExtractSettings
from virnuc.storage.directory import Claim, OutputDirectory
from virnuc.storage.files import exclusive, write_text
from virnuc.storage.manifest import Manifest, verified_manifest

# The fields of an encoder's provenance that determine its vectors.
_DECIDES = (
    "name",
    "weight_digest",
    "revision",
    "precision",
    "dimension",
    "max_residues",
    "config",
    "token_dropout_scale",
    "rotary",
)
_verified_already: dict[tuple[str, Path | None, str], dict[str, Any]] = {}  # a reference of 3B takes minutes


@dataclass(frozen=True)
class _Half:
    """One encoder's finished vectors."""

    directory: Path
    manifest: Manifest


@dataclass(frozen=True)
class _Job:
    """A claimed shard, read and tokenised."""

    claim: Claim
    ids: list[str]
    label: int
    tokens: Tokens

    def write(self, vectors: torch.Tensor, storage: torch.dtype) -> None:
        with self.claim.lock:
            write_shard(self.claim.target, self.ids, vectors, self.label, storage)


def extract(settings: ExtractSettings, progress: Progress = silent) -> Manifest:
    """Write the features of all frames to `<out>/<dna>+<protein>`, or of all chunks to `<out>/<dna>+none`.

    An extraction that was begun is finished; the manifest is returned.

    Raises:
        UsageError: an unknown encoder, one of the wrong kind, or a directory that does not exist.
        EncoderError: weights that are missing or not what they claim to be, or vectors that are not finite.
        DataError: frames that an encoder cannot read, or a directory made from other frames.
    """
    source = Path(settings.frames)
    manifest = verified_manifest(source, "frames", "chunks")
    of_chunks = manifest.kind == "chunks"
    names = {"dna": settings.dna_encoder} | ({} if of_chunks else {"protein": settings.protein_encoder})
    check_encoders({name: kind for kind, name in names.items()}, settings.weights, settings.revisions)
    readings = find_encoder(settings.dna_encoder).readings if of_chunks else ()
    rows = {shard.path: shard.rows for shard in manifest.shards}
    paths = [source / path for path in rows] if of_chunks else frame_shards(source)
    if of_chunks:
        rows = {path.name: _vectors_of_chunks(path, rows[path.name], readings, settings) for path in paths}
    shards = [FrameShard(path, rows[path.name], readings, settings.shifted) for path in paths if rows[path.name]]
    halves = {kind: _embed_all(name, shards, manifest.digest, settings, progress) for kind, name in names.items()}
    facts = {"chunk_size": manifest.parameters["chunk_size"]} | _stored(settings)
    return _merge_all(halves, shards, facts, Path(settings.out), progress)


def _vectors_of_chunks(path: Path, chunks: int, readings: Sequence[str], settings: ExtractSettings) -> int:
    between = count_between_chunks(path) if settings.shifted else 0
    return (chunks + between) * len(readings)


def _embed_all(
    name: str, shards: Sequence[FrameShard], digest: str, settings: ExtractSettings, progress: Progress
) -> _Half:
    """Write one encoder's half; the encoder is released at the end, so that two are never in memory together."""
    encoder = load_encoder(
        name,
        weights=settings.weights,
        device=settings.device,
        precision=settings.precision,
        revisions=settings.revisions,
    )
    facts = encoder.provenance.asdict()
    parameters = {"encoder" if key == "name" else key: facts[key] for key in _DECIDES} | _stored(settings)
    if shards and shards[0].readings:
        parameters["shifted"] = settings.shifted
    output = OutputDirectory(Path(settings.out) / encoder.name, "embeddings", parameters, {"frames": digest})
    manifest = output.shared()
    if manifest is None:
        device = choose_device(settings.device).name
        facts |= _verified(output.progress, encoder, source_of(name, settings.weights, settings.revisions), device)
        _fill(output, encoder, shards, settings, progress)
        details = {
            "provenance": facts,
            "device": torch.device(device).type,
            "batch_tokens": encoder.tokens_at_once(settings.batch_tokens),
        }
        rows = {shard.half: shard.rows for shard in shards}
        manifest = output.complete_shared(rows, _count(shards, encoder.provenance), details)
    return _Half(output.directory, manifest)


def _verified(notes: Path, encoder: Encoder, directory: Path | None, device: str) -> dict[str, Any]:
    """Verify weights from the hub or a directory before their first use, once in a process; return the record.

    Raises:
        EncoderError: the encoder does not read its weights as a second implementation does.
    """
    if encoder.provenance.weights not in ("hub", "local"):
        return {}
    note = notes / "verification.json"
    with exclusive(notes / "verification.lock"):
        if not note.exists():
            write_text(note, json.dumps(_verify(encoder, directory, device)))
        found = json.loads(note.read_text(encoding="utf-8"))
    return {"verification": found} if found else {}


def _verify(encoder: Encoder, directory: Path | None, device: str) -> dict[str, Any]:
    key = (repr(encoder.provenance), directory, device)
    if key not in _verified_already:
        try:
            verification = verify(encoder, directory)
        except MemoryShortageError as error:
            return {"summary": f"not verified: {error}"}
        if verification is not None and not verification.passed:
            raise EncoderError(f"{encoder.name} failed its verification, so nothing was embedded: {verification}")
        _verified_already[key] = verification.asdict() if verification is not None else {}
    return _verified_already[key]


def _stored(settings: ExtractSettings) -> dict[str, str]:
    """Return the manifests' entry for the type of the values on disk: none for float32."""
    return {} if settings.storage == "float32" else {"storage": settings.storage}


def _fill(
    output: OutputDirectory,
    encoder: Encoder,
    shards: Sequence[FrameShard],
    settings: ExtractSettings,
    progress: Progress,
) -> None:
    """Write the missing shards; while one is computed, the next is read and the previous one written."""
    jobs = _jobs(output, encoder, shards)
    total = sum(shard.rows for shard in shards)
    done = sum(shard.rows for shard in shards if (output.directory / shard.half).exists())
    progress(encoder.name, done, total)
    written: Future[None] | None = None

    def advance(what: str, rows: int, _: int) -> None:
        progress(what, done + rows, total)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        upcoming = reader.submit(next, jobs, None)
        while (job := upcoming.result()) is not None:
            upcoming = reader.submit(next, jobs, None)
            vectors = encoder.embed_tokens(job.tokens, batch_tokens=settings.batch_tokens, progress=advance)
            done += len(job.ids)
            if written is not None:
                written.result()
            written = writer.submit(job.write, vectors, STORAGES[settings.storage])
        if written is not None:
            written.result()


def _jobs(output: OutputDirectory, encoder: Encoder, shards: Sequence[FrameShard]) -> Iterator[_Job]:
    """Claim, read and tokenise shards, each when it is asked for."""
    by_name = {shard.half: shard for shard in shards}
    for claim in output.claims(list(by_name)):
        source = by_name[claim.name].source
        ids, labels, sequences = by_name[claim.name].read(encoder.kind)
        if len(set(labels)) != 1:
            raise DataError(f"{source}: has labels {sorted(set(labels))}, but a shard has one; run prepare again")
        yield _Job(claim, ids, labels[0], encoder.tokenise(sequences, ids))


def _count(shards: Sequence[FrameShard], provenance: EncoderProvenance) -> dict[str, Any]:
    """Count frames in, frames out, and what the encoder cut off."""
    limit = provenance.max_residues
    frames = sequences = letters = 0
    for shard in shards:
        frames += shard.rows
        if limit is not None:
            lengths = np.array([len(sequence) for sequence in shard.read(provenance.kind)[2]])
            sequences += int((lengths > limit).sum())
            letters += int((lengths - limit).clip(min=0).sum())
    truncated = {"sequences": sequences, "letters": letters}
    return {"in": {"frames": frames}, "out": {"vectors": frames}, "dropped": {}, "truncated": truncated}


def _merge_all(
    halves: Mapping[str, _Half], shards: Sequence[FrameShard], facts: dict[str, Any], out: Path, progress: Progress
) -> Manifest:
    """Write the feature set of the halves: each frame's DNA vector, then its protein vector if there is one."""
    output = OutputDirectory(
        out / "+".join([halves[kind].directory.name if kind in halves else NO_PROTEIN for kind in COLUMNS]),
        "features",
        {kind: half.manifest.parameters for kind, half in halves.items()},
        {kind: half.manifest.digest for kind, half in halves.items()} | halves["dna"].manifest.inputs,
    )
    manifest = output.shared()
    if manifest is not None:
        return manifest
    for half in halves.values():
        verified_manifest(half.directory, "embeddings")
    by_name = {shard.merged: shard for shard in shards}
    storage = storage_of(facts)
    total = sum(shard.rows for shard in shards)
    merged = sum(shard.rows for shard in shards if (output.directory / shard.merged).exists())
    for claim in output.claims(list(by_name)):
        shard = by_name[claim.name]
        with claim.lock:
            _merge([half.directory / shard.half for half in halves.values()], claim.target, storage)
        merged += shard.rows
        progress("merge", merged, total)
    none = EncoderProvenance(NO_PROTEIN, "protein", 0, "none", "", "fp32", "none").asdict()
    provenance = {"protein": none} | {kind: half.manifest.details["provenance"] for kind, half in halves.items()}
    dimensions = {f"{kind}_dim": encoder["dimension"] for kind, encoder in provenance.items()}
    counts = {
        **halves["dna"].manifest.counts,
        "truncated": {kind: half.manifest.counts["truncated"] for kind, half in halves.items()},
    }
    return output.complete_shared(
        {shard.merged: shard.rows for shard in shards}, counts, provenance | dimensions | facts
    )


def _merge(paths: Sequence[Path], target: Path, storage: torch.dtype) -> None:
    """Join shards of vectors side by side.

    Raises:
        DataError: their ids or labels are not the same, row by row.
    """
    first, *others = halves = [read_shard(path, storage) for path in paths]
    for other, path in zip(others, paths[1:], strict=True):
        if first.ids != other.ids or first.label != other.label:
            raise DataError(f"{paths[0]} and {path} do not hold the same frames in the same order; extract both again")
    write_shard(target, first.ids, torch.cat([half.data for half in halves], dim=1), first.label, storage)
