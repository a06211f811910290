"""How much of each matrix is pruned, at one overall sparsity: more where one matrix alone did little harm.

The idea is that of Divergent Token Metrics (Deiseroth et al., arXiv 2311.01544, the part on sparsification):
components differ in how early the model diverges when they alone are pruned, so their sparsity should follow
their FDTM. The paper goes in rounds, with training in between. The rule here is one round, without training,
and is ours:

1. Matrices are taken in the order of their mean FDT, the earliest divergence first; ties by mean KL, the
   larger first, then by name.
2. A matrix is at q, from -1 (first) to 1 (last): the place of its middle weight among all weights, so
   that the mean of q over weights is 0.
3. Its share is s + spread * q, where s is the share that the method prunes of the whole model at the
   sparsity asked for, the same for every matrix (a little less than asked, if that is not a whole number of
   weights). So the mean share over weights is s.
4. Shares become whole numbers of weights. A method that compares within a row prunes the same number of each
   row, so a matrix moves by its number of rows. What rounding leaves is made up for to the last weight: by
   steps of the matrices that rounding took most from, then by the smallest set of steps that gives the rest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kick.compress.sparsity import Sparsity
from kick.errors import KickError


@dataclass(frozen=True)
class Pruned:
    """A matrix: its shape (rows, columns), and what pruning it alone did (mean FDT in tokens, KL in nats)."""

    name: str
    rows: int
    columns: int
    fdt: float = 0.0
    kl: float = 0.0

    @property
    def size(self) -> int:
        return self.rows * self.columns


def uniform(parts: Sequence[Pruned], sparsity: float, by_row: bool) -> dict[str, int]:
    """How many weights of each matrix go at the same share of all, as the methods count them."""
    if by_row:
        return {part.name: part.rows * Sparsity(sparsity).count(part.columns) for part in parts}
    return {part.name: Sparsity(sparsity).count(part.size) for part in parts}


def guided(parts: Sequence[Pruned], sparsity: float, spread: float, by_row: bool) -> dict[str, int]:
    """How many weights of each matrix go by the rule above; the sum is that of `uniform`, to the weight.

    Args:
        spread: how far the first and the last matrix lie from `sparsity`; more than 0, and within 0 to 1.
        by_row: whether the method prunes the same number of each row.

    Raises:
        KickError: a spread out of range, or no whole numbers that give the sum.
    """
    check_spread(sparsity, spread)
    places, steps = quantiles(parts), {part.name: part.rows if by_row else 1 for part in parts}
    total, size = sum(uniform(parts, sparsity, by_row).values()), sum(part.size for part in parts)
    wanted = {part.name: (total / size + spread * places[part.name]) * part.size for part in parts}
    counts = {name: max(0, math.floor(count / steps[name]) * steps[name]) for name, count in wanted.items()}
    _fill(counts, wanted, steps, total)
    sizes = {part.name: part.size for part in parts}
    for step in _moves(total - sum(counts.values()), set(steps.values())):
        own = [n for n in sorted(counts) if steps[n] == abs(step) and 0 <= counts[n] + step < sizes[n]]
        if own:  # the one that this brings nearest to what it should have
            counts[min(own, key=lambda name: (counts[name] + step - wanted[name]) / step)] += step
    if sum(counts.values()) != total or any(not 0 <= counts[name] < sizes[name] for name in counts):
        raise KickError(f"no whole numbers of weights around {sparsity:g} give {total} in all")
    return counts


def check_spread(sparsity: float, spread: float) -> None:
    """Raises KickError if shares `spread` above and below `sparsity` do not lie within 0 to 1."""
    most = round(min(sparsity, 1 - sparsity), 9)
    if not 0 < spread <= most:
        raise KickError(
            f"spread: got {spread:g}; expected: more than 0 and at most {most:g}, so that shares around "
            f"{sparsity:g} stay between 0 and 1"
        )


def quantiles(parts: Sequence[Pruned]) -> dict[str, float]:
    """q of each matrix, from -1 (most harm) to 1: the place of its middle weight among all."""
    total, before, found = sum(part.size for part in parts), 0, {}
    for part in sorted(parts, key=lambda part: (part.fdt, -part.kl, part.name)):
        found[part.name] = (2 * before + part.size) / total - 1
        before += part.size
    return found


def shares(counts: Mapping[str, int], parts: Sequence[Pruned]) -> dict[str, float]:
    """Each count as a share that gives it exactly, whether floor(share x size) is taken of rows or of all."""
    return {part.name: (counts[part.name] + 0.5) / part.size for part in parts}


def _fill(counts: dict[str, int], wanted: Mapping[str, float], steps: Mapping[str, int], total: int) -> None:
    """Give steps to those that rounding took most of, while a step fits into what is missing."""
    for name in sorted(counts, key=lambda name: ((counts[name] - wanted[name]) / steps[name], name)):
        if 0 < steps[name] <= total - sum(counts.values()):
            counts[name] += steps[name]


def _moves(rest: int, sizes: set[int]) -> list[int]:
    """The fewest steps, up or down, of these sizes that sum to `rest`; [] where there are none."""
    bound = abs(rest) + 2 * max(sizes, default=0)
    came: dict[int, tuple[int, int] | None] = {0: None}
    queue = deque([0])
    while queue and rest not in came:
        value = queue.popleft()
        for step in (sign * size for size in sorted(sizes) for sign in (1, -1)):
            if abs(value + step) <= bound and value + step not in came:
                came[value + step] = (value, step)
                queue.append(value + step)
    path: list[int] = []
    while rest in came and (last := came[rest]) is not None:
        rest, step = last
        path.append(step)
    return path
