"""What a step took beside its passes: CPU seconds, and the peak of memory."""

from __future__ import annotations

import resource
from typing import Any

import torch

from kick.model.structure import device_of


def peak(model: Any) -> int:
    """Peak bytes of this process so far, or of the GPU that the model is on."""
    device = device_of(model)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
