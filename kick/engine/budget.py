"""How much is computed and kept at once, by device."""

from __future__ import annotations

import psutil
import torch

MIXED = 2**31  # bytes that the keys and values of all rows under way take at most, on a CPU
ROWS = {"cpu": 64}  # more rows hardly make a step cheaper per row
TOKENS = {"cpu": 1024}


def batch_tokens(device: torch.device) -> int:
    """Tokens of one forward: enough for full speed, few enough for a small memory peak."""
    return TOKENS.get(device.type, 16384)


def slots(device: torch.device) -> tuple[int, int]:
    """For generation: bytes of keys and values, and rows, at most in progress at once."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2, 256
    return min(MIXED, psutil.virtual_memory().available // 4), ROWS.get(device.type, 256)
