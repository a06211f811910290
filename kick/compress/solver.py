"""Column by column through a weight, each column's error spread over the columns still to come.

SparseGPT and GPTQ are this sweep with another rule for what a column becomes. It works on W^T, (in, out), so
that a column's weights lie together, and takes all linears with one input at once.

There are two ways to the same result. With U, H^-1 = U^T U, each error is spread over all columns to come, so
that they are at any time what they would be rounded from. With V = U^-1, H = V V^T, a column is made up for
what was lost before it when its turn comes: it becomes w_j + sum over i < j of (w_i - q_i) V_ij / V_jj, where
w are the weights as they were first. That spares the inverse, if nobody looks at the columns in between.
With H reversed in rows and columns one Cholesky factor gives both: if PHP = L L^T, then V = P L P.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import blas, lapack
from torch import Tensor

from kick.compress.context import Calibration
from kick.errors import CellFailed

BLOCK = 128  # columns whose error is spread over the rest at once
PANEL = 32  # columns inside a block whose error is spread over the block at once
LEAF = 96  # rows of a factor that LAPACK takes whole
_PAD = 16  # floats after each row: rows a multiple of 4096 bytes apart push each other out of the cache
_MOST_DAMPING = 1.0  # of the mean diagonal; past that the Hessian says nothing


def silence(hessian: Tensor) -> Tensor:
    """The inputs that were always zero, (in,) bool; their diagonal becomes 1 and disturbs nothing."""
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    return dead


class Factor(NamedTuple):
    """An upper triangular matrix (in, in): U where `inverse`, else V."""

    upper: Tensor
    inverse: bool


def factor(
    hessian: Tensor, damping: float, name: str, calibration: Calibration, inverse: bool = True
) -> Factor:
    """U or V of a silenced Hessian, of which the upper triangle is read and all is overwritten.

    Damping is a share of the mean diagonal. Where the Hessian is not positive definite, ten times the damping
    is tried, up to the mean diagonal itself, and noted in run.json.

    Raises:
        CellFailed: not positive definite at the largest damping.
    """
    diagonal = hessian.diagonal()  # a view: torch.diag would be a copy, and damping it would do nothing
    mean = float(diagonal.mean())
    diagonal += damping * mean
    applied = damping
    while (upper := _factor(hessian, inverse)) is None:
        more = max(10 * applied, 1e-4)
        if more > _MOST_DAMPING:
            raise CellFailed(
                f"the Hessian of {name} is not positive definite with {applied:g} of its mean diagonal "
                "added; use more or longer calibration sequences, or a larger damping"
            )
        diagonal += (more - applied) * mean
        applied = more
    if applied != damping:
        calibration.note("more damping", linear=name, asked=damping, used=applied)
    return Factor(upper, inverse)


def _factor(hessian: Tensor, inverse: bool) -> Tensor | None:
    """U or V; None, with the Hessian as it was, where that is not positive definite.

    On the CPU they take the Hessian's memory, as fresh pages cost time. C's rows are Fortran's columns, so
    that what BLAS works on is the transpose: the lower triangle becomes U^T.
    """
    if hessian.device.type == "cpu" and hessian.dtype == torch.float32 and hessian.is_contiguous():
        done = _invert_factor(hessian.numpy().T) if inverse else _reverse_factor(hessian.numpy())
        return hessian.triu_() if done else None
    lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if failed or not torch.isfinite(lower.diagonal()).all():
        return None
    if not inverse:
        return lower.flip(0, 1)
    unit = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, unit, upper=False).flip(0, 1)


def _reverse_factor(matrix: np.ndarray) -> bool:
    """Put V in the upper triangle of A = V V^T, in place. False, A as it was: there is none."""
    reverse = np.ascontiguousarray(matrix[::-1, ::-1])
    factored, failed = lapack.spotrf(reverse.T, lower=0, clean=0, overwrite_a=1)
    if failed or not np.isfinite(factored.diagonal()).all():
        return False
    matrix[:] = factored.T[::-1, ::-1]
    return True


def _invert_factor(matrix: np.ndarray) -> bool:
    """Put L with A^-1 = L L^T in the lower triangle of A, in place. False, A as it was: there is none.

    Halves are taken apart and put together by triangular products, which are faster than LAPACK's factor and
    inverse of the whole. A = W^T W with W = [[W1, 0], [K, W2]]: A22 = W2^T W2, K = W2^-T A21,
    A11 - K^T K = W1^T W1, and the corner of L = W^-1 is -W2^-1 K W1^-1. LAPACK has R^T R of the reversed A.
    """
    size = len(matrix)
    if size <= LEAF:
        factored, failed = lapack.spotrf(np.asfortranarray(matrix[::-1, ::-1]), lower=0, overwrite_a=1)
        if failed or not np.isfinite(factored.diagonal()).all():
            return False
        matrix[:] = lapack.strtri(factored, lower=0, overwrite_c=1)[0][::-1, ::-1]
        return True
    half = slice(0, size // 2), slice(size // 2, size)
    first, corner, second = (np.asfortranarray(matrix[half[i], half[j]]) for i, j in ((0, 0), (1, 0), (1, 1)))
    if not _invert_factor(second):
        return False
    corner = blas.strmm(1.0, second, corner, lower=1, trans_a=1, overwrite_b=1)
    first = blas.ssyrk(-1.0, corner, beta=1.0, c=first, trans=1, lower=1, overwrite_c=1)
    if not _invert_factor(first):
        return False
    corner = blas.strmm(-1.0, second, corner, lower=1, overwrite_b=1)
    corner = blas.strmm(1.0, first, corner, lower=1, side=1, overwrite_b=1)
    for (i, j), part in (((0, 0), first), ((1, 0), corner), ((1, 1), second)):
        matrix[half[i], half[j]] = part
    return True


def across(weights: Sequence[Tensor]) -> Tensor:
    """W^T, (in, all out), float32 and in memory of its own, of weights (out, in) with the same input."""
    return torch.cat([weight.float().t() for weight in weights], dim=1)


def apart(columns: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The weights (out, in) that W^T (in, all out) stands for, views of so many rows each."""
    return [part.t() for part in columns.split(list(sizes), dim=1)]


class Arithmetic(NamedTuple):
    """The calls that rules are written in: `view` makes a tensor what they take, in the same memory.

    A column is little work, so that what a call costs by itself decides: numpy's, on a CPU, cost a third of
    torch's.
    """

    view: Callable[[Tensor], Any]
    round: Callable
    maximum: Callable
    minimum: Callable
    multiply: Callable
    divide: Callable
    subtract: Callable


_NUMPY = Arithmetic(
    lambda x: x.detach().numpy(), np.rint, np.maximum, np.minimum, np.multiply, np.divide, np.subtract
)
_TORCH = Arithmetic(lambda x: x, torch.round, torch.maximum, torch.minimum, torch.mul, torch.div, torch.sub)


def arithmetic(columns: Tensor) -> Arithmetic:
    """What the rules of a sweep over these columns are given."""
    return _NUMPY if columns.device.type == "cpu" else _TORCH


# A rule writes what a column becomes: (its number, its weights (out,) as they stand, where they go (out,)).
# Both are the arithmetic's views, and may be of the same memory.
Rule = Callable[[int, Any, Any], None]
# Called as a block starts, with its first and last + 1 column: with U all of W^T is then up to date.
Opening = Callable[[int, int], None]


def sweep(columns: Tensor, factor: Factor, opening: Opening, rule: Rule, step: int = 1) -> Tensor:
    """What the rule makes of each column, in order: (in, out). W^T is used up: errors take its place.

    Args:
        columns: W^T, (in, out), float32, contiguous.
        factor: U; V where `opening` does not look at columns and `step` is 1.
        opening: called at the start of each block of about BLOCK columns.
        rule: called for each column; it may look at `step` columns from there on.
        step: columns that the rule looks at together; those are all up to date when it is given the first.
    """
    if columns.dtype != torch.float32 or not columns.is_contiguous():
        raise TypeError("a sweep works in place on contiguous float32; BLAS would change a copy of others")
    inputs, outputs = columns.shape
    panel = step * max(1, PANEL // step)
    block = panel * max(1, BLOCK // panel)
    made = columns.new_empty(inputs, outputs + _PAD)[:, :outputs]
    now = columns if factor.inverse else made  # what is brought up to date
    upper, diagonal = factor.upper, factor.upper.diagonal()
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        opening(start, end)
        if factor.inverse:  # what a unit of each of these columns' errors takes off the columns from here on
            spread = upper[start:end, start:] / diagonal[start:end, None]
        else:
            spread = upper[:end, start:end] / -diagonal[start:end]
            before, spread = spread[:start].t(), spread[start:]
            torch.addmm(columns[start:end], before, columns[:start], alpha=-1, out=made[start:end])
        for left in range(start, end, panel):
            right = min(left + panel, end)
            own = spread[left - start : right - start, left - start :]
            errors = columns[left:right]
            parts = now[left:right], errors, made[left:right]
            _panel(parts, own[:, : right - left], (rule, left, step))
            if right < end:
                now[right:end].addmm_(own[:, right - left : end - left].t(), errors, alpha=-1)
        if factor.inverse and end < inputs:
            now[end:].addmm_(spread[:, end - start :].t(), columns[start:end], alpha=-1)
    return made


def _panel(parts: tuple[Tensor, Tensor, Tensor], spread: Tensor, ruled: tuple[Rule, int, int]) -> None:
    """The sweep over a few columns, `parts`: as they are now, those whose place errors take, what comes out.

    A column by itself is brought up to date as it is reached. Where the rule looks at several, all columns to
    come are, after each.
    """
    rule, first, step = ruled
    now, errors, _ = parts
    do = arithmetic(now)
    update = _updates(now, errors, spread) if step == 1 else None
    for i, (value, column, new) in enumerate(zip(*map(do.view, parts), strict=True)):
        if update is not None and i:
            update(i)
        rule(first + i, value, new)
        do.subtract(column, new, out=column)
        if step > 1:
            now[i + 1 :].addr_(spread[i, i + 1 :], errors[i], alpha=-1)


def _updates(now: Tensor, errors: Tensor, spread: Tensor) -> Callable[[int], None]:
    """What takes the errors of the columns before the i-th off it."""
    if arithmetic(now) is _TORCH:

        def in_torch(i: int) -> None:
            now[i].addmv_(errors[:i].t(), spread[:i, i], alpha=-1)

        return in_torch
    values, behind = _NUMPY.view(now), _NUMPY.view(errors)
    shares = np.ascontiguousarray(_NUMPY.view(spread).T)

    def update(i: int) -> None:
        blas.sgemv(-1.0, behind[:i].T, shares[i, :i], beta=1.0, y=values[i], overwrite_y=1)

    return update
