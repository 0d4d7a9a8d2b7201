"""`doctor`: the table of checks, and the verification of weights."""

import pytest

from entrypoints.doctor import doctor
from tests.shared.golden import CASES
from virnuc.errors import DataError
from virnuc.settings import DoctorSettings


def test_verification_is_a_line_of_the_table(store, capsys):
    encoder = CASES["dnabert_s"].encoder
    with pytest.raises(DataError, match=r"1 of .* checks failed: verify codon_phase"):
        doctor.run(DoctorSettings(encoders=(), verify=(encoder, "codon_phase"), device="cpu"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "verify" in line]
    assert lines[0].startswith("PASS  verify mosaicbert-")
    assert "against plain attention in float64" in lines[0]
    assert lines[1].startswith("FAIL  verify codon_phase")
    assert "no second implementation" in lines[1]
