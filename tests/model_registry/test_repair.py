"""A killed promotion is finished for its own alias, whichever alias changes next."""

import pytest
from mlflow.tracking import MlflowClient

from model_registry.promotion import ALIAS, DONE, PROMOTING, REPLACES, ROLLING_BACK, STATE, rollback


@pytest.fixture
def client(store):
    """Version 2 is the champion, 1 the previous one; 3 is half promoted to another alias."""
    client = MlflowClient()
    client.create_registered_model("virnuc")
    for state, alias, replaced in ((DONE, "champion", ""), (DONE, "champion", "1"), (PROMOTING, "field", "")):
        tags = {STATE: state, ALIAS: alias, REPLACES: replaced}
        client.create_model_version("virnuc", source="files:/nowhere", tags=tags)
    client.set_registered_model_alias("virnuc", "champion", "2")
    client.set_registered_model_alias("virnuc", "previous", "1")
    return client


@pytest.mark.parametrize("moved", [True, False])
def test_another_aliass_half_promoted_version_and_the_alias_stay(client, moved):
    if moved:
        client.set_registered_model_alias("virnuc", "field", "3")
    assert rollback("champion", "me").version == "1"
    aliases = {name: str(version) for name, version in client.get_registered_model("virnuc").aliases.items()}
    assert aliases == {"champion": "1", "previous": "2", "field": "3"}
    assert client.get_model_version("virnuc", "3").tags[STATE] == DONE


def test_a_half_done_rollback_of_another_alias_is_finished(client):
    client.set_registered_model_alias("virnuc", "field", "3")
    for key, value in {ALIAS: "field", REPLACES: "3", STATE: ROLLING_BACK}.items():
        client.set_model_version_tag("virnuc", "1", key, value)
    client.set_model_version_tag("virnuc", "3", STATE, DONE)
    rollback("champion", "me")
    aliases = {name: str(version) for name, version in client.get_registered_model("virnuc").aliases.items()}
    assert aliases == {"champion": "1", "previous": "2", "field": "1", "previous-field": "3"}
