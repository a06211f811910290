"""Resamples of items: the means of rows drawn with replacement."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 10_000
_CHUNK = 4_000_000  # item draws held in memory at once
_FEW = 200  # items, up to which a table of draws is faster than a multinomial


def resampled_means(columns: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means `(resamples, c)` of `columns` `(n, c)` over items drawn with replacement, rows kept whole.

    Few items share one table of draws; few distinct rows (right/wrong items) are drawn as one multinomial;
    all else item by item in chunks. Memory stays near 100 MB, and 10,000 resamples of 14,000 items take about
    a second.
    """
    n = len(columns)
    rng = np.random.default_rng(seed)
    if n > _FEW:
        rows, counts = distinct(columns)
        if len(rows) <= max(16, n // 20):
            return rng.multinomial(n, counts / n, size=resamples) @ rows / n
    if n * resamples <= _CHUNK:
        return _draws(n, resamples, seed) @ columns / n
    means = np.empty((resamples, columns.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = rng.integers(0, n, size=(stop - start, n), dtype=np.int32)
        for column in range(columns.shape[1]):
            means[start:stop, column] = columns[:, column][drawn].mean(axis=1)
    return means


@lru_cache(maxsize=3)
def _draws(n: int, resamples: int, seed: int) -> Floats:
    """Counts of each item in each resample, `(resamples, n)`: the same for all scores of n items."""
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def distinct(columns: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The distinct rows of `columns` `(n, c)` and how often each occurs."""
    if columns.shape[1] != 2:
        return np.unique(columns, axis=0, return_counts=True)
    pairs = np.ascontiguousarray(columns).view(np.complex128).ravel()  # sorts ten times as fast as rows
    rows, counts = np.unique(pairs, return_counts=True)
    return np.column_stack([rows.real, rows.imag]), counts
