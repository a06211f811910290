"""How much is computed and kept at once, by device."""

from __future__ import annotations

import psutil
import torch

from kick.engine import limits


def batch_tokens(device: torch.device) -> int:
    """Tokens of one forward: enough for full speed, few enough for a small memory peak."""
    return limits.TOKENS if device.type == "cpu" else 16384


def slots(device: torch.device, weights: int) -> tuple[int, int]:
    """For generation: bytes of keys and values, and rows, at most in progress at once.

    weights: bytes of the model's.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2, 256
    free = psutil.virtual_memory().available // 4
    return min(limits.cache(weights), free), limits.ROWS if device.type == "cpu" else 256
