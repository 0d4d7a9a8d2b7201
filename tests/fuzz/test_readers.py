"""Files damaged at random: a reader reads them or refuses them with an error of virnuc, and does nothing else.

`python -m pytest tests/fuzz --hypothesis-profile=fuzz` tries 20,000 damaged versions of each file instead of a few; in
`guided.py`, coverage guides the damage. Inputs on which a reader once failed are kept in `inputs/`.
"""

from pathlib import Path

import mlflow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.readers import READERS, good_file
from virnuc.errors import VirnucError

INPUTS = sorted((Path(__file__).parent / "inputs").glob("*/*"))
TOKENS = [b"\n", b"", b">", b"@", b"//\n", b"LOCUS", b"complement(", b"null", b"NaN", b"-1", b"1e999", b"9" * 5000,
          b'"', b"{", b"[" * 2000, b"\xff", b"\x00", b"\xed\xa0\x80", b"\\ud800", b"\t", b": &a [*a, *a]"]  # fmt: skip
DAMAGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(TOKENS) | st.binary(max_size=8)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module", autouse=True)
def store_without_models(empty_store):
    mlflow.set_tracking_uri(f"sqlite:///{empty_store}")
    yield
    mlflow.set_tracking_uri(None)


def damaged(content, damages):
    """Replace a few bytes at each place; places are shares of the length."""
    for place, length, other in damages:
        start = int(place * len(content))
        content = content[:start] + other + content[start + length :]
    return content


def read_or_refuse(name, path, content):
    path.write_bytes(content)
    try:
        READERS[name][2](path)
    except VirnucError as error:
        assert str(error)


@pytest.mark.parametrize("name", READERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(damages=DAMAGES)
@example(damages=[(0.0, 0, b"[" * 5000)])
def test_a_damaged_file_is_read_or_refused(tmp_path, name, damages):
    read_or_refuse(name, tmp_path / READERS[name][0], damaged(good_file(name, tmp_path), damages))


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name} {path.name}")
def test_files_that_once_failed_are_read_or_refused(tmp_path, path):
    name = path.parent.name.replace("_", " ")
    read_or_refuse(name, tmp_path / READERS[name][0], path.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(tmp_path, name):
    (tmp_path / READERS[name][0]).write_bytes(good_file(name, tmp_path))
    if name not in ("index", "model URI"):  # these name a file or a model that does not exist
        READERS[name][2](tmp_path / READERS[name][0])
