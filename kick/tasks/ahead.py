"""Which looks at a cell's answers are asked for in one call: waves that would read more than all items do.

Prompts that begin alike, such as a subject's examples, are read once per call. In waves they are read again
in each wave that has one of them. Where that outweighs what an early end saves, all items are asked at once;
the looks are gone through afterwards, and what the cell stores is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean

from kick.tasks.task import Item

SHARED = 64  # characters of a common beginning, about 16 tokens, from which an engine reads it once
MANY = 1000  # at the sizes of the paper's data sets 16 % of the items are asked (docs/benchmarks.md)


def calls(items: Sequence[Item], looks: Sequence[int]) -> list[list[int]]:
    """The looks in order, in parts of one call each: a look a call, or all looks in one.

    They are in one if waves are expected to read at least as much as one call with all items. Expected is
    that of two cells one is asked all items and one ends at any of the looks up to half of them; of more
    than MANY items hardly a cell is asked all, so that waves always pay.
    """
    if len(items) > MANY:
        return [[look] for look in looks]
    starts = [0, *looks[:-1]]
    read = list(accumulate(characters(items[a:b]) for a, b in zip(starts, looks, strict=True)))
    early = [so_far for look, so_far in zip(looks, read, strict=True) if 2 * look <= len(items)] or read
    expected = (read[-1] + fmean(early)) / 2
    return [list(looks)] if expected >= characters(items) else [[look] for look in looks]


def characters(items: Sequence[Item]) -> int:
    """Characters that are read if the items' requests are answered in one call."""
    contexts = sorted(request.context for item in items for request in item.requests)
    length = sum(map(len, contexts)) + sum(len(r.tokens) for item in items for r in item.requests)
    common = [_common(one, other) for one, other in pairwise(contexts)]
    return length - sum(shared for shared in common if shared >= SHARED)


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike, by halving: texts can be long."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
