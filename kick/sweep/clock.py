"""Seconds of parts of a job, and the peak of its memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """A context whose seconds are added to those under `name`."""
    start = time.perf_counter()
    yield
    seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def reset_peak() -> None:
    """Let the kernel count this process's peak memory anew, where it can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if RESET.exists():
        RESET.write_text("5")


def peak() -> int:
    """Bytes: the accelerator's peak if there is one, else the process's since `reset_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():
        found = [line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
        if found:
            return int(found[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
