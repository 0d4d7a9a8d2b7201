"""The `predict` stage: a stream of sequences to tables of calls, in bounded memory, resumable.

The stream of chunks is cut into parts with a fixed number of chunks. A part is scored, written whole under `.progress/`
with a digest of its chunks, and never scored again: after an interruption the input is read again, digests are compared
and the missing parts are scored. Because a part is always scored as a whole, the bytes of the result do not
depend on interruptions. Several workers each read the whole input and score the parts that no other has claimed. At
the end the parts are joined into the tables; the manifest is written last.

Tables: `sequences.tsv` and `.parquet`, a row for each sequence; `regions.tsv` and `.bed`, a row for each viral region,
and `viral.fna.gz`, their DNA; `calls.tsv` and `.parquet`, a row for each chunk; VirNucPro's own files. `columns.tsv`
explains every column. `summary.html` and `summary.md` show them in figures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from virnuc.errors import DataError, UsageError
from virnuc.prediction.calls import THRESHOLD, call_chunks
from virnuc.prediction.chunks import STATUSES, cut_chunks
from virnuc.prediction.reading import Record, check_inputs, read_records
from virnuc.prediction.regions import RegionRule
from virnuc.prediction.scoring import BATCH_TOKENS, Scorer
from virnuc.prediction.summary import About, write_summary
from virnuc.prediction.tables import LETTERS, PART, write_tables
from virnuc.runtime import Progress, silent
from virnuc.sequences.translation import FRAME_NAMES
from virnuc.storage.directory import PROGRESS, OutputDirectory
from virnuc.storage.files import atomic_path
from virnuc.storage.manifest import Manifest, check_reusable
from virnuc.storage.processes import Send
from virnuc.storage.workers import Workers

CHUNKS_AT_ONCE = 2048  # 1 Mbp at 500 bp
BATCHES_IN_PART = 8
_INPUT_DIGEST = b"input"


@dataclass(frozen=True)
class Chunk:
    """One chunk of the stream."""

    record: Record
    number: int  # in its sequence, from 1
    start: int  # from 0
    letters: str


@dataclass(frozen=True)
class _Work:
    """The input, in parts of a fixed number of chunks, and how a part is scored: the same for all workers."""

    sources: Sequence[str]
    chunk_size: int  # bp
    threshold: float
    batch_tokens: int
    chunks_at_once: int
    batches_in_part: int

    def parts(self, counts: Counter[str]) -> Iterator[list[Chunk]]:
        """Yield the parts; `counts` gets the numbers of sequences, bases and chunks that were read."""
        chunks = self._chunks(counts)
        while part := list(islice(chunks, self.chunks_at_once * self.batches_in_part)):
            yield part

    def score(self, part: list[Chunk], scorer: Scorer, advance: Callable[[int], object]) -> pd.DataFrame:
        """Return the calls of a part's chunks, in their order."""
        tables = []
        for first in range(0, len(part), self.chunks_at_once):
            batch = part[first : first + self.chunks_at_once]
            scores, frames = scorer.score_frames([chunk.letters for chunk in batch], self.batch_tokens)
            tables.append(_calls(batch, scores, self.threshold).join(pd.DataFrame(frames, columns=FRAME_NAMES)))
            advance(_bases(batch))
        return pd.concat(tables, ignore_index=True)

    def _chunks(self, counts: Counter[str]) -> Iterator[Chunk]:
        for record in read_records(self.sources):
            counts.update(sequences=1, bases=len(record.sequence))
            for number, (start, letters) in enumerate(cut_chunks(record.sequence, self.chunk_size), 1):
                counts["chunks"] += 1
                yield Chunk(record, number, start, letters)


@dataclass(frozen=True)
class Helpers:
    """Workers that score parts together, and how each gets its scorer."""

    workers: Workers
    load: Callable[[str], Scorer]  # on a device


def predict(
    sources: Sequence[str],
    scorer: Scorer,
    model_digest: str,
    out: Path,
    *,
    about: About | None = None,
    threshold: float = THRESHOLD,
    rule: RegionRule | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
    helpers: Helpers | None = None,
) -> Manifest:
    """Score all sequences of `sources` and write their calls to `out`, or finish what was begun.

    Args:
        sources: FASTA or FASTQ files, plain or gzipped, or `-` alone for standard input.
        scorer: scores chunks, at its own chunk size.
        model_digest: identity of the scorer; a prediction cannot be finished with another scorer.
        out: directory for the tables.
        about: what the summary says about the model.
        threshold: lowest viral probability of a virus.
        rule: what counts as a viral region; the settings' defaults if left out.
        batch_tokens: tokens in a batch.
        progress: told how many bases are finished.
        helpers: workers that score; without them this process does.

    Raises:
        UsageError: a source is missing, or helpers are to read standard input.
        ParseError: a source is damaged or holds letters that are not DNA.
        DataError: `out` was made with another model, other parameters or other sequences.
    """
    parameters = {"model": model_digest, "chunk_size": scorer.chunk_size, "threshold": threshold}
    parameters |= {"temperature": scorer.temperature, "batch_tokens": scorer.tokens_at_once(batch_tokens)}
    parameters |= {"methods": dict(scorer.methods), "regions": asdict(rule or RegionRule())}
    finished = 0

    def advance(bases: int) -> None:
        nonlocal finished
        finished += bases
        progress("predict", finished, 0)

    check_inputs(sources)
    if helpers is not None and "-" in sources:
        raise UsageError("standard input can be read only once: give a file, or leave out --workers and --engine")
    work = _Work(sources, scorer.chunk_size, threshold, batch_tokens, CHUNKS_AT_ONCE, BATCHES_IN_PART)
    counts = Counter[str]()
    output = OutputDirectory(out, "calls", parameters, inputs=None)
    with output.alone() as manifest:
        if manifest is not None:
            digests = [_digest(part) for part in work.parts(counts)]
            return check_reusable(out, parameters, _inputs(digests), "calls")
        if helpers is not None:
            share = partial(_score_parts, output, work, helpers.load)
            helpers.workers.run(lambda device: partial(share, device), lambda worker, bases: advance(bases))
        finished = 0
        digests = _score_missing(output, work, counts, scorer, advance)
        output = replace(output, inputs=_inputs(digests))
        return _finish(output, len(digests), dict(counts), about or About())


def _score_missing(
    output: OutputDirectory, work: _Work, counts: Counter[str], scorer: Scorer, advance: Callable[[int], None]
) -> list[str]:
    """Score the missing parts, including those of killed helpers; return the digests of all parts."""
    digests = []
    for number, part in enumerate(work.parts(counts)):
        digests.append(_digest(part))
        path = output.directory / _place(number)
        if not _is_done(path, digests[-1]):
            _write_part(path, work.score(part, scorer, advance), digests[-1])
        else:
            advance(_bases(part))
    return digests


def _score_parts(output: OutputDirectory, work: _Work, load: Callable[[str], Scorer], device: str, send: Send) -> None:
    """Score the parts that no other worker has claimed; send the numbers of bases."""
    scorer = load(device)
    for number, part in enumerate(work.parts(Counter())):
        claim = output.claim(_place(number), wait=False)
        if claim is not None:
            with claim.lock:
                _write_part(claim.target, work.score(part, scorer, send), _digest(part))


def _place(number: int) -> str:
    return f"{PROGRESS}/part-{number:06d}.parquet"


def _bases(part: list[Chunk]) -> int:
    return sum(len(chunk.letters) for chunk in part)


def _calls(batch: list[Chunk], scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Sequence_ID": [f"{chunk.record.name}_chunk_{chunk.number}" for chunk in batch],
            "Prediction": call_chunks(scores, threshold),
            "score1": scores["score1"],
            "score2": scores["score2"],
            "probability": scores["probability"],
            "status": scores["status"],
            "scored_by": scores["scored_by"],
            "frame": scores["frame"],
            "frames": scores["frames"],
            "record": [chunk.record.number for chunk in batch],
            "sequence": [chunk.record.name for chunk in batch],
            "file": [chunk.record.file for chunk in batch],
            "chunk": [chunk.number for chunk in batch],
            "start": [chunk.start for chunk in batch],
            "end": [chunk.start + len(chunk.letters) for chunk in batch],
            LETTERS: [chunk.letters for chunk in batch],
        }
    )


def _write_part(path: Path, calls: pd.DataFrame, digest: str) -> None:
    table = pa.Table.from_pandas(calls, schema=PART, preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata({_INPUT_DIGEST: digest.encode()}), temporary, compression="zstd")


def _is_done(path: Path, digest: str) -> bool:
    """Return whether a part has been scored, from exactly these chunks.

    Raises:
        DataError: it was scored from others.
    """
    if not path.is_file():
        return False
    if pq.read_schema(path).metadata[_INPUT_DIGEST].decode() != digest:
        raise DataError(f"{path.parents[1]}: begun with other sequences; give another --out or delete the directory")
    return True


def _digest(part: list[Chunk]) -> str:
    digest = hashlib.sha256()
    for chunk in part:
        record = chunk.record
        digest.update(f"{record.number} {record.file} {record.name} {chunk.number} {chunk.letters}\n".encode())
    return digest.hexdigest()


def _inputs(digests: list[str]) -> dict[str, str]:
    return {"sequences": hashlib.sha256("".join(digests).encode()).hexdigest()}


def _finish(output: OutputDirectory, parts: int, read: dict[str, int], about: About) -> Manifest:
    """Write tables, summary and manifest from the finished parts."""
    out, parameters = output.directory, output.parameters
    paths = [output.progress / f"part-{number:06d}.parquet" for number in range(parts)]
    if len(list(output.progress.glob("part-*.parquet"))) > parts:
        raise DataError(f"{out}: begun with more sequences; give another --out or delete the directory")
    rule, chunk_size = RegionRule(**parameters["regions"]), about.chunk_size or parameters["chunk_size"]
    rows = write_tables(out, paths, parameters["threshold"], rule, chunk_size)
    counted = Counter({status: 0 for status in STATUSES})
    for path in paths:
        counted.update(pq.read_table(path, columns=["status"])["status"].to_pylist())
    written = {"sequences": rows["sequences.tsv"], "chunks": rows["calls.tsv"], **counted}
    written["regions"] = rows["regions.tsv"]
    counts = {"in": read, "out": written, "dropped": {}}
    write_summary(out, counts, parameters, about)
    return output.complete(rows, counts, {"model": dict(about.facts), "caveats": list(about.caveats)})
