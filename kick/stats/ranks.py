"""Rank correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def spearman(one: Floats, other: Floats) -> Floats:
    """Spearman's correlations over the last axis, the axes before it broadcast; NaN if either is constant.

    Equal values share their rank; a NaN in either gives NaN.
    """
    first, second = (_ranks(values) for values in (one, other))
    size = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    found: Floats = np.full(np.shape(size), np.nan)
    np.divide((first * second).sum(axis=-1), size, out=found, where=size > 0)
    return found


def _ranks(values: Floats) -> Floats:
    """Ranks about their mean."""
    found: Floats = rankdata(values, axis=-1) - (np.shape(values)[-1] + 1) / 2
    return found
