import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from virnuc.sequences.evidence import occur_in_annotation

PROTEIN = st.text("AGLX", max_size=60)


@given(st.lists(st.lists(PROTEIN | st.text("AG*-a", max_size=20), max_size=4), min_size=1, max_size=4), st.data())
def test_a_protein_is_supported_if_it_occurs_in_one_translation_of_its_record(annotated, data):
    cuts = [
        st.tuples(st.integers(0, len(p)), st.integers(0, len(p))).map(lambda ends, p=p: p[min(ends) : max(ends)])
        for translations in annotated
        for p in translations
    ]
    protein = st.one_of(PROTEIN, *cuts).filter(lambda p: p.isalpha() and p.isupper())
    wanted = data.draw(st.lists(st.tuples(st.integers(0, len(annotated) - 1), protein), max_size=8))
    records, proteins = [record for record, _ in wanted], [protein for _, protein in wanted]
    expected = [any(protein in known for known in annotated[record]) for record, protein in wanted]
    found = occur_in_annotation(annotated, np.array(records, dtype=np.int64), proteins)
    assert found.tolist() == expected
