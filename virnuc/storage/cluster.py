"""Calls in the workers of a Ray cluster, with the meaning of `run_together`.

The cluster is the one that Ray itself finds: RAY_ADDRESS, or one that `ray start` began on this machine; otherwise Ray
is started here and ends with this process. All nodes need this project installed, and the same files under the same
paths.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from virnuc.errors import UsageError, VirnucError
from virnuc.storage.processes import Send

if TYPE_CHECKING:
    from ray.util.queue import Queue

_STARTS_AGAIN = 3  # of a worker that was killed or whose node was lost
_WAIT = 1.0  # seconds between two looks at the workers, and two of a worker's messages; each costs milliseconds
_log = logging.getLogger(__name__)


def cores_and_gpus() -> list[tuple[int, int]]:
    """Return the numbers of cores and of GPUs that each node of the cluster has for Ray.

    Raises:
        UsageError: Ray is not installed, or the cluster at RAY_ADDRESS does not answer.
    """
    alive = [node["Resources"] for node in _connected().nodes() if node["Alive"]]
    return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in alive]


def run_on_cluster(
    calls: Mapping[str, Callable[[Send], object]], hear: Callable[[str, Any], None], *, cpus: int, gpus: int
) -> str:
    """Run each call in a Ray worker of its own, by its name; return how each ended, as text.

    A worker that is killed is started again, and its call with it. When this function is left, all end.

    Args:
        calls: what each worker does; it can send messages.
        hear: takes the name of a worker and each message of it.
        cpus: cores for each worker; those that find none free wait.
        gpus: likewise.

    Raises:
        VirnucError: the first one that a worker raised; or the cluster itself failed.
    """
    ray = _connected()
    from ray.util.queue import Queue

    messages = Queue(actor_options={"num_cpus": 0})
    run = ray.remote(max_retries=_STARTS_AGAIN, num_cpus=cpus, num_gpus=gpus)(_run)
    running = {
        run.options(name=name).remote(name, call, messages, str(Path.cwd())): name for name, call in calls.items()
    }
    ended: dict[str, str] = {}
    try:
        while running:
            done, _ = ray.wait(list(running), timeout=_WAIT)
            _pass_on(messages, hear)
            for reference in done:
                ended[running.pop(reference)] = _how_it_ended(ray, reference)
        _pass_on(messages, hear)
        return ", ".join(f"{name}: {how}" for name, how in ended.items())
    except ray.exceptions.RayError as error:
        raise VirnucError(
            f"the Ray cluster failed ({type(error).__name__}); give the same command again to resume"
        ) from error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        messages.shutdown(force=True)


def _connected() -> ModuleType:
    """Return Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'virnuc[ray]', or leave --engine out") from error
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UsageError(
                f"no Ray cluster answers at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}; is RAY_AUTH_MODE=token needed?"
            ) from error
    return ray


def _run(name: str, call: Callable[[Send], object], messages: Queue, directory: str) -> None:
    """Do a call in the directory that the stage was started in, so that its paths mean the same."""
    unsent: list[tuple[str, Any]] = []
    sent = 0.0

    def send(message: Any) -> None:
        nonlocal sent
        unsent.append((name, message))
        if time.monotonic() - sent > _WAIT:
            messages.put_nowait_batch(unsent)
            unsent.clear()
            sent = time.monotonic()

    try:
        if not Path(directory).is_dir():
            raise UsageError(
                f"a node of the Ray cluster has no {directory}; start the stage on a disk that all nodes share"
            )
        os.chdir(directory)
        call(send)
    except VirnucError as error:
        unsent.append((name, error))
    messages.put_nowait_batch(unsent)


def _pass_on(messages: Queue, hear: Callable[[str, Any], None]) -> None:
    for name, message in messages.get_nowait_batch(messages.size()):
        if isinstance(message, VirnucError):
            raise message
        hear(name, message)


def _how_it_ended(ray: ModuleType, reference: Any) -> str:
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        _log.warning("a worker ended: %s", error)
        return type(error).__name__
    return "0"
