from hypothesis import given
from hypothesis import strategies as st

from virnuc.sequences.evidence import CodingEvidence

PROTEIN = st.text("AGLX*", max_size=60)


@given(st.lists(PROTEIN.map(lambda p: p.replace("*", "")), max_size=5), st.data())
def test_a_protein_is_supported_if_it_occurs_in_one_translation(translations, data):
    cut = st.sampled_from(translations or [""]).flatmap(
        lambda p: st.tuples(st.integers(0, len(p)), st.integers(0, len(p))).map(lambda ends: p[min(ends) : max(ends)])
    )
    proteins = [p for p in data.draw(st.lists(cut | PROTEIN, max_size=8)) if p and "*" not in p]
    expected = [any(protein in translation for translation in translations) for protein in proteins]
    assert CodingEvidence(translations).supports(proteins).tolist() == expected
