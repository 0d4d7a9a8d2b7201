"""Processes that work together, and names of processes by which others can see whether they have ended."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from virnuc.errors import VirnucError

Send = Callable[[Any], None]
_log = logging.getLogger(__name__)


def run_together(calls: Mapping[str, Callable[[Send], object]], hear: Callable[[str, Any], None]) -> str:
    """Run each call in a process of its own, by its name; return how each ended, as text.

    A process that is killed ends alone: the others may take over its work. When this process leaves, all end.

    Args:
        calls: what each process does; it can send messages.
        hear: takes the name of a process and each message of it.

    Raises:
        VirnucError: the first one that a process raised.
    """
    workers: dict[Connection, BaseProcess] = {}
    context = get_context("spawn")
    try:
        for name, call in calls.items():
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_run, args=(call, theirs), name=name)
            process.start()
            theirs.close()
            workers[ours] = process
        _listen(workers, hear)
        return ", ".join(f"{process.name}: {process.exitcode}" for process in workers.values())
    finally:
        for process in workers.values():
            process.terminate()
            process.join()


def _run(call: Callable[[Send], object], parent: Connection) -> None:
    try:
        call(parent.send)
    except VirnucError as error:
        parent.send(error)


def _listen(workers: Mapping[Connection, BaseProcess], hear: Callable[[str, Any], None]) -> None:
    """Follow the processes to their end."""
    listening = set(workers)
    while listening:
        for pipe in wait(list(listening)):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                listening.remove(pipe)
                workers[pipe].join()
                if workers[pipe].exitcode:
                    _log.warning("%s ended with code %s", workers[pipe].name, workers[pipe].exitcode)
                continue
            if isinstance(message, VirnucError):
                raise message
            hear(workers[pipe].name, message)


def this_process() -> str:
    """Return a name that no other process ever has: machine and container, number, and start time."""
    return f"{machine()} {os.getpid()} {_started(os.getpid())}"


def has_ended(process: str) -> bool:
    """Return whether a process named by `this_process` has ended; False for processes of other machines."""
    where, _, rest = process.rpartition("] ")
    pid, _, started = rest.partition(" ")
    return f"{where}]" == machine() and _started(int(pid)) != started


def machine() -> str:
    """Return a name for the space in which process numbers are unique: this machine and its container."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty if there is no process of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[19]
    except OSError:
        return ""
