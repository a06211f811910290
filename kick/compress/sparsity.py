"""How much is pruned, and which weights those are.

`Sparsity` is a share ("0.5") or n:m ("2:4": n pruned of each m inputs in a row). `mask` keeps exactly the
number asked for: floor(share x size) of each comparison group goes, to the weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kick.model import counting

Group = Literal["row", "matrix"]
Ties = str  # "exact" or "authors", as the options of the methods say
_BUFFER = 2**18  # values that are selected from at a time


@dataclass(frozen=True)
class Sparsity:
    """A share of the weights, or n pruned of each m."""

    share: float
    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, value: object) -> Sparsity:
        """From 0.5, "0.5" or "2:4". Raises ValueError that says what would be right."""
        if isinstance(value, Sparsity):
            return value
        if isinstance(value, str) and ":" in value:
            return cls._pattern(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f'invalid sparsity {value!r}; give a share such as 0.5, or "n:m" such as "2:4"')
        try:
            share = float(value)
        except ValueError:
            raise ValueError(
                f'invalid sparsity {value!r}; give a share such as 0.5, or "n:m" such as "2:4"'
            ) from None
        if isinstance(value, int) and value > 60 and 0 < value // 60 < value % 60:
            raise ValueError(
                f'{value} is out of range; did you mean "{value // 60}:{value % 60}" in quotes? '
                "(YAML reads n:m without quotes as a number to the base 60)"
            )
        if not 0 <= share < 1:
            hint = f"; did you mean {share / 100:g}?" if 1 < share < 100 else ""
            raise ValueError(f"{value!r} is out of range; a share is at least 0 and below 1{hint}")
        return cls(share)

    @classmethod
    def _pattern(cls, text: str) -> Sparsity:
        parts = text.split(":")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f'invalid pattern {text!r}; "n:m" is two whole numbers, such as "2:4"')
        n, m = (int(part) for part in parts)
        if not 0 < n < m:
            raise ValueError(f"{text!r} is out of range; n:m is n pruned of each m, with 0 < n < m")
        return cls(n / m, n, m)

    @property
    def value(self) -> float | str:
        """As it is written in a matrix file: 0.5 or "2:4"."""
        return f"{self.n}:{self.m}" if self.m else self.share

    def __str__(self) -> str:
        return str(self.value)

    def count(self, size: int) -> int:
        """How many of a group of `size` are pruned: floor(share x size), the share taken as a decimal."""
        exact = Fraction(self.n, self.m) if self.m else Fraction(repr(self.share))
        return math.floor(exact * size)


def mask(saliency: Tensor, sparsity: Sparsity, group: Group = "row", ties: Ties = "exact") -> Tensor:
    """The weights to keep, True, by their saliency (out, in): the least salient of each group go.

    Args:
        group: what a share is compared within, a row or the whole matrix; n:m compares m inputs of a row.
        ties: "exact" prunes the first of equals until the number is reached; "authors" prunes, for a share of
            the matrix, everything up to the (k+1)-th smallest, as the published code does.

    Raises:
        ValueError: m does not divide the number of inputs.
    """
    if sparsity.m:
        rows, columns = saliency.shape
        if columns % sparsity.m:
            raise ValueError(f"{columns} inputs are not a multiple of {sparsity.m}, as {sparsity} needs")
        parts = saliency.reshape(rows * columns // sparsity.m, sparsity.m)
        return _smallest(parts, sparsity.n).reshape(rows, columns).logical_not_()
    if group == "row":
        return _smallest(saliency, sparsity.count(saliency.shape[1])).logical_not_()
    flat = saliency.reshape(1, -1)
    k = sparsity.count(flat.shape[1])
    if ties == "authors":
        return saliency > kth_smallest(flat, k + 1).reshape(())
    return _smallest(flat, k).logical_not_().reshape(saliency.shape)


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest (k from 1) of each row, (rows, 1)."""
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return values.kthvalue(k, dim=1, keepdim=True).values
    # numpy selects four times as fast as torch on a CPU, in place in a buffer that stays in the cache
    given, rows = values.numpy(), max(1, _BUFFER // values.shape[1])
    found, buffer = np.empty((len(given), 1), np.float32), np.empty((rows, given.shape[1]), np.float32)
    for start in range(0, len(given), rows):
        part = buffer[: len(given) - start]
        part[:] = given[start : start + rows]
        part.partition(k - 1, axis=1)
        found[start : start + rows] = part[:, k - 1 : k]
    return torch.from_numpy(found)


def _smallest(values: Tensor, k: int) -> Tensor:
    """True at exactly the k smallest of each row; of equal ones the first."""
    if k == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    if values.shape[1] <= 16:  # groups of n:m: few columns, many rows
        return _smallest_of_few(values, k)
    threshold = kth_smallest(values, k)
    below = values <= threshold
    if counting.nonzero(below) == k * len(below):  # each row has k or more: no row has a tie
        return below
    tied = below.sum(dim=1) > k
    if tied.any():
        rows = values[tied]
        less, equal = rows < threshold[tied], rows == threshold[tied]
        room = k - less.sum(dim=1, keepdim=True)
        below[tied] = less | (equal & (equal.cumsum(dim=1) <= room))
    return below


def _smallest_of_few(values: Tensor, k: int) -> Tensor:
    """`_smallest` by counting, for each of a few columns, how many come before it."""
    columns = values.t().contiguous()
    chosen = torch.empty_like(columns, dtype=torch.bool)
    for j, column in enumerate(columns):
        before = (columns[:j] <= column).sum(dim=0) + (columns[j + 1 :] < column).sum(dim=0)
        chosen[j] = before < k
    return chosen.t()
