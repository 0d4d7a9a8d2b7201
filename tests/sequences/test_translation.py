from Bio.Seq import Seq
from hypothesis import given
from hypothesis import strategies as st

from tests.shared.samples import six_frames
from virnuc.sequences.chunking import chunk_starts
from virnuc.sequences.translation import FRAME_NAMES, Translation, reverse_complement

DNA = st.text("ACGT", max_size=200)
IUPAC = st.text("ACGTRYKMSWBDHVN", max_size=60)


def naive_frame(dna: str, index: int) -> tuple[str, str]:
    strand = dna if index < 3 else str(Seq(dna).reverse_complement())
    rest = strand[index % 3 :]
    whole = rest[: len(rest) // 3 * 3]
    return whole, str(Seq(whole).translate(table=1))


@given(DNA)
def test_six_frames_are_those_of_biopython(dna):
    for index, frame in enumerate(six_frames(dna)):
        assert (frame.nucleotide, frame.protein) == naive_frame(dna, index)
        assert len(frame.nucleotide) == 3 * len(frame.protein)
        assert frame.name == FRAME_NAMES[index] == f"{'FR'[index // 3]}{index % 3 + 1}"


@given(IUPAC)
def test_a_codon_that_its_bases_do_not_decide_is_x_and_never_vanishes(dna):
    for index, frame in enumerate(six_frames(dna)):
        nucleotide, protein = naive_frame(dna, index)
        # Biopython writes B, Z and J where two amino acids remain; those are not decided.
        assert frame.protein == protein.translate(str.maketrans("BZJ", "XXX"))
        assert frame.nucleotide == nucleotide


def test_ambiguous_codons():
    assert six_frames("GGNTARTANNNNATG")[0].protein == "G*XXM"


@given(IUPAC)
def test_reverse_complement_is_biopythons(dna):
    assert reverse_complement(dna) == str(Seq(dna).reverse_complement())


@given(DNA, st.integers(1, 60))
def test_frames_of_chunks_are_those_of_the_cut_out_chunk(dna, size):
    translation, starts = Translation(dna), chunk_starts(len(dna), size)
    length = min(size, len(dna))
    opened = translation.is_open(starts, length)
    for start, row in zip(starts.tolist(), opened, strict=True):
        for index, alone in enumerate(six_frames(dna[start : start + length])):
            assert translation.frame(start, length, index) == alone
            assert row[index] == (alone.protein != "" and "*" not in alone.protein)
