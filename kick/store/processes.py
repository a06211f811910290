"""Processes by name: this machine since its last start, and whether a process of it still lives."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from functools import cache

import psutil


@cache
def machine() -> str:
    """This machine since its last start, and this process-id space: where process ids can be compared."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # no Linux: the name alone
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            parts.append(file.read().strip()[:8])
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return ":".join(parts)


def started(pid: int) -> int | None:
    """Start of the process, in clock ticks since boot (no wall clock); None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            parts = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0 if not os.path.exists("/proc/self/stat") and psutil.pid_exists(pid) else None
    return None if parts[0] in "ZX" else int(parts[19])


@cache
def mark(pid: int) -> str:
    """A process as part of a file name."""
    return f"{hashlib.sha256(machine().encode()).hexdigest()[:6]}-{pid}"


def left_by_dead(mark_found: str) -> bool:
    """Whether the `mark` is of a process of this machine that is gone; of another machine it is not known."""
    place, _, pid = mark_found.partition("-")
    return place == mark(os.getpid()).partition("-")[0] and pid.isdigit() and started(int(pid)) is None
