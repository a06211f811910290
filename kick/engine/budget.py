"""How much is computed and kept at once, by device."""

from __future__ import annotations

import psutil
import torch

LEAST = 2**26  # bytes that the keys and values of all rows under way may take whatever the model, on a CPU
SHARE = 2  # they may take one part in so many of the weights: a step reads both, and more rows save little
ROWS = {"cpu": 64}  # more rows hardly make a step cheaper per row
TOKENS = {"cpu": 1024}


def batch_tokens(device: torch.device) -> int:
    """Tokens of one forward: enough for full speed, few enough for a small memory peak."""
    return TOKENS.get(device.type, 16384)


def slots(device: torch.device, weights: int) -> tuple[int, int]:
    """For generation: bytes of keys and values, and rows, at most in progress at once.

    weights: bytes of the model's.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2, 256
    free = psutil.virtual_memory().available // 4
    return min(max(LEAST, weights // SHARE), free), ROWS.get(device.type, 256)
