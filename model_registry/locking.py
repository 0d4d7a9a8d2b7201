"""Mutual exclusion between processes that share nothing but an MLflow registry.

A remote registry has no locks and no compare-and-set, but every registry refuses to create a registered model whose
name is taken. The lock is such a model: the process that creates it holds it, and deletes it when done.

Guaranteed: of any number of processes exactly one creates the lock. A process that dies leaves its lock behind; it
is taken over at once on the same machine, and elsewhere when it is `STALE_AFTER` seconds old. Not guaranteed: that a
process does nothing if it sleeps for longer than that between two steps. It calls `still_held` before each important
step, which leaves a window of one request.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from virnuc.errors import VirnucError
from virnuc.storage.processes import machine

LOCK_MODEL = "virnuc-promotion-lock"
STALE_AFTER = 300.0  # s; a promotion takes about one
WAIT = 60.0  # s
_POLL = 0.2  # s
_TAKEN = ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")  # the latter if it was freed just then


@dataclass(frozen=True)
class HeldLock:
    """Proof of holding the lock."""

    client: MlflowClient
    token: str

    def is_held(self) -> bool:
        """Return whether no other process has taken the lock over."""
        return _holder(self.client).get("token") == self.token

    def still_held(self) -> None:
        """Raise a VirnucError if another process has taken the lock over."""
        if not self.is_held():
            raise VirnucError("another process took over the promotion lock, which this one held too long; try again")


@contextmanager
def promotion_lock(client: MlflowClient, who: str, wait: float = WAIT) -> Iterator[HeldLock]:
    """Hold the registry's promotion lock.

    Raises:
        VirnucError: another process held it for longer than `wait` seconds.
    """
    held = HeldLock(client, uuid.uuid4().hex)
    deadline = time.monotonic() + wait
    while not _acquire(held, who):
        if time.monotonic() > deadline:
            raise VirnucError(f"{_holder(client).get('who', 'another process')} is promoting just now; try again later")
        time.sleep(_POLL)
    try:
        yield held
    finally:
        if held.is_held():
            client.delete_registered_model(LOCK_MODEL)


def _acquire(held: HeldLock, who: str) -> bool:
    """Create the lock, or remove that of a dead process; return whether it is ours now."""
    tags = {"token": held.token, "who": who, "since": str(time.time()), "host": machine(), "pid": str(os.getpid())}
    try:
        held.client.create_registered_model(LOCK_MODEL, tags, "held while virnuc's champion changes")
    except MlflowException as error:
        if error.error_code not in _TAKEN:
            raise
        holder = _holder(held.client)
        if holder and _is_gone(holder) and _holder(held.client).get("token") == holder["token"]:
            with suppress(MlflowException):  # another process removed it first
                held.client.delete_registered_model(LOCK_MODEL)
        return False
    return True


def _holder(client: MlflowClient) -> dict[str, str]:
    """Return the tags of the lock, empty if nobody holds it."""
    try:
        return dict(client.get_registered_model(LOCK_MODEL).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _is_gone(holder: dict[str, str]) -> bool:
    if holder["host"] == machine() and not Path(f"/proc/{holder['pid']}").exists():
        return True
    return time.time() - float(holder["since"]) > STALE_AFTER
