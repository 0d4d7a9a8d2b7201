"""The sources of weights: the hub's cache at a revision, and directories under their recorded names."""

import pytest
from huggingface_hub import constants

from tests.shared.golden import CASES
from tests.shared.hub import OTHER, PINNED, fill_hub_cache
from virnuc.encoders import load_encoder, load_recorded
from virnuc.errors import EncoderError, UsageError


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    cache = tmp_path_factory.mktemp("hub")
    fill_hub_cache(cache, "esm2_8m", {PINNED: 1, OTHER: 2})
    return cache


@pytest.fixture
def hub(filled, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(filled))


def test_without_a_revision_it_is_the_pinned_one(hub):
    assert load_encoder("esm2_8m").provenance.revision == PINNED


@pytest.mark.parametrize("revision", [OTHER, "main"])
def test_another_revision_gives_its_weights_and_its_commit_is_recorded(hub, revision):
    pinned = load_encoder("esm2_8m").provenance
    found = load_encoder("esm2_8m", revisions={"esm2_8m": revision}).provenance
    assert found.revision == OTHER
    assert (found.weights, found.weight_digest != pinned.weight_digest) == ("hub", True)


def test_a_revision_that_is_nowhere_is_named(hub):
    with pytest.raises(EncoderError, match=r"neither in the cache.*--revision v9"):
        load_encoder("esm2_8m", revisions={"esm2_8m": "v9"})


@pytest.mark.parametrize(
    ("revisions", "message"),
    [
        ({"esm2_tiny": "main"}, "no hub repository"),
        ({"esm2_8m": "main"}, "--weights esm2_8m=random"),
        ({"esm2_8n": "main"}, "did you mean 'esm2_8m'"),
    ],
)
def test_a_revision_where_there_is_none_to_choose_is_refused(revisions, message):
    with pytest.raises(UsageError, match=message):
        load_encoder("dipeptide", weights={"esm2_8m": "random"}, revisions=revisions)


def test_what_was_recorded_is_loaded_at_its_revision(hub):
    recorded = load_encoder("esm2_8m", revisions={"esm2_8m": "main"}).provenance.asdict()
    assert load_recorded(recorded, weights={}, device="cpu").provenance.asdict() == recorded


def test_a_directory_is_found_again_by_its_recorded_name(case):
    recorded = load_encoder(case.encoder).provenance
    again = load_encoder(recorded.name, weights={recorded.name: str(case.directory)}).provenance
    assert again == recorded
    with pytest.raises(UsageError, match=f"--weights {recorded.name}=DIR"):
        load_encoder(recorded.name)


def test_a_directory_with_other_weights_is_refused_under_a_recorded_name():
    wanted, other = load_encoder(CASES["esm2"].encoder).name, CASES["fastesm2"]
    with pytest.raises(EncoderError, match=f"holds {load_encoder(other.encoder).name}, not {wanted}"):
        load_encoder(wanted, weights={wanted: str(other.directory)})
