"""What a step took beside its passes: seconds, CPU seconds, and the peak of memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from kick.model.structure import device_of


def stopwatch(model: Any) -> Callable[[], dict[str, Any]]:
    """What gives, when it is called, the time since now and the peak of memory until then, as JSON values.

    CPU seconds are those of all threads of the process. The peak is since the process began, or since whoever
    runs it let the kernel count anew.
    """
    start, cpu = time.monotonic(), time.process_time()
    return lambda: {
        "seconds": round(time.monotonic() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_memory": peak(model),
    }


def peak(model: Any) -> int:
    """Peak bytes of this process so far, or of the GPU that the model is on."""
    device = device_of(model)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
