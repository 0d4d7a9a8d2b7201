"""Small extractions: their frames, settings and bytes."""

from tests.shared.golden import CASES
from virnuc.settings import ExtractSettings

ESM = CASES["esm2"].encoder


def frame(group, number, row, generator):
    length = 1100 if (group, number, row) == ("plant", 0, 0) else generator.randint(5, 60)
    return {
        "frame_id": f"{group.upper()}{number}.1_chunk_{row + 1}F1",
        "record": f"{group.upper()}{number}.1",
        "genome": f"{group.upper()}{number}.1",
        "organism": group,
        "lineage": group,
        "group": group,
        "label": int(group == "viral"),
        "chunk_index": row + 1,
        "chunk_start": 300 * row,
        "strand": "+",
        "offset": 0,
        "nucleotide": "".join(generator.choices("ACGT", k=3 * length)),
        "protein": "".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=length)),
    }


def settings(frames, out, **changes):
    values = {"dna_encoder": "tetranucleotide", "protein_encoder": ESM} | changes
    return ExtractSettings(frames=str(frames), out=str(out), **values)


def content(out):
    """Return the bytes of every shard and manifest."""
    paths = [*out.rglob("*.pt"), *out.rglob("manifest.json")]
    return {path.relative_to(out): path.read_bytes() for path in paths}
