"""Which process did something, told so that another one can see whether it has ended."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Return what names this process for ever: machine and container, number, and time of its start."""
    return f"{machine()} {os.getpid()} {_started(os.getpid())}"


def has_ended(process: str) -> bool:
    """Return whether a process named by `this_process` is known to have ended; of other machines nothing is known."""
    where, _, rest = process.rpartition("] ")
    pid, _, started = rest.partition(" ")
    return f"{where}]" == machine() and _started(int(pid)) != started


def machine() -> str:
    """Name the space in which a process number means something: this machine and its container."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the machine did; empty if there is none of that number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[19]
    except OSError:
        return ""
