"""How large the files are that `kick compress` writes of a model in memory: counted, not written.

One integer grid for all matrices is stored packed (`kick.compress.checkpoint`); everything else as dense
values of the checkpoint's own type, pruned weights as zeros among them. Masks, which no loader needs, and the
files' headers of some kilobytes are not counted.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from kick.compress.checkpoint import DEQUANTIZED, MERGED, PACKED, one_grid
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.model.footprint import distinct
from kick.model.shipped import ORIGIN, Origin
from kick.model.structure import named_linears

HALF = 2  # bytes of a packed matrix's scale, unless `kick compress --dtype float32` is asked for
_SIDES = (".side_down", ".side_up")


def written(model: nn.Module, calibration: Calibration) -> dict[str, Any]:
    """`shipped_bytes` and `shipped_as` of what `kick compress` would write of the model.

    Args:
        calibration: the one that the recipe was carried out with: it holds the formats.
    """
    tensors = {name: one for name, one in distinct(model).items() if not name.endswith(_SIDES)}
    grid = one_grid(model, calibration.formats)
    size, kind = 0, "dense"
    if grid is not None:
        kind = f"{PACKED}, {grid.bits} bits"
        for name, _, linear in named_linears(model):
            value = _value(model, f"{name}.weight", linear.weight)
            size += packed_size(linear.weight, grid, min(value, HALF))
            tensors.pop(f"{name}.weight", None)
    elif any(hasattr(module, "side_down") for module in model.modules()):
        kind = MERGED
    elif calibration.formats:
        kind = DEQUANTIZED
    size += sum(tensor.numel() * _value(model, name, tensor) for name, tensor in tensors.items())
    return {"shipped_bytes": size, "shipped_as": kind}


def packed_size(weight: Tensor, grid: Grid, value: int) -> int:
    """Bytes of a matrix `(out, in)` in compressed-tensors' packed format, its scales of `value` bytes.

    A word of four bytes holds as many codes as fit into it whole; zero points are packed likewise.
    """
    rows, columns = weight.shape
    groups = 1 if grid.group_size == -1 else columns // grid.group_size
    per_word = 32 // grid.bits
    codes = 4 * rows * math.ceil(columns / per_word)
    zeros = 0 if grid.symmetric else 4 * math.ceil(rows / per_word) * groups
    shape = 2 * 8
    return codes + zeros + rows * groups * value + shape


def _value(model: nn.Module, name: str, tensor: Tensor) -> int:
    """Bytes of a value of a tensor as it is written: as in the checkpoint, if the model comes from one."""
    origin: Origin | None = getattr(model, ORIGIN, None)
    if origin is None or not tensor.is_floating_point():
        return tensor.element_size()
    return origin.values.get(name, origin.value)
