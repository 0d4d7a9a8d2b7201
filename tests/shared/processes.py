"""Processes of the tests' own: to be raced with, to be stopped and to be killed."""

from multiprocessing import get_context

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

FORK = get_context("fork")


def forked(function, *given):
    """Call a function in a forked process, as a new interpreter takes seconds to load torch and MLflow.

    It has no connection to a store in common with this process.
    """
    for store in (TrackingStore, RegistryStore):
        for engine in store._engine_map.values():
            engine.dispose()
    process = FORK.Process(target=function, args=given)
    process.start()
    return process
