"""How many values of a tensor are not zero: numpy counts ten times as fast as torch on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def nonzero(tensor: Tensor) -> int:
    """How many values are not zero, or True."""
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.bool):
        return int(np.count_nonzero(tensor.detach().numpy()))
    return int(torch.count_nonzero(tensor))


def zeros(tensor: Tensor) -> int:
    """How many values are zero, or False."""
    return tensor.numel() - nonzero(tensor)
