"""How an error of 5 % is spent over several looks at growing data.

Lan and DeMets (1983): a function of the share of the information says how much error is spent by then; Hwang,
Shih and DeCani (1990) give the family, of which gamma = -2 spends little early. The bounds are those of a
normal mean with independent increments, by recursive integration (Armitage, McPherson and Rowe 1969; Jennison
and Turnbull 2000, chapter 19).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.float64]
GAMMA = -2.0
REACH = 8.0  # standard deviations beyond which nothing is integrated
NODES = 240  # of the integration, at least


def spent(share: float, alpha: float, gamma: float = GAMMA) -> float:
    """The error spent by a `share` of the information, of `alpha` in all."""
    return alpha * math.expm1(-gamma * share) / math.expm1(-gamma)


@lru_cache(maxsize=64)
def bounds(shares: tuple[float, ...], alpha: float, gamma: float = GAMMA) -> tuple[float, ...]:
    """The one-sided normal bounds at looks with these shares of the information, growing, the last one 1.

    Under no effect, the chance that the statistic passes any of the first k bounds is what is spent by then.
    """
    found: list[float] = []
    places, density = np.zeros(1), np.ones(1)  # of the sum of increments, where no bound was passed
    before = before_spent = 0.0
    for share in shares:
        sd, total = math.sqrt(share - before), math.sqrt(share)
        now = spent(share, alpha, gamma)

        def over(
            bound: float, new: float = now - before_spent, sd: float = sd, total: float = total,
            places: Floats = places, density: Floats = density,
        ) -> float:  # fmt: skip
            return float(density @ special.ndtr((places - bound * total) / sd)) - new

        bound = float(optimize.brentq(over, -REACH, REACH, xtol=1e-10))
        found.append(bound)
        low, high = -REACH * total, bound * total
        at, weights = _nodes(max(NODES, math.ceil(4 * (high - low) / sd)))
        ends = low + (high - low) * at
        kernel = np.exp(-(((ends[:, None] - places) / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi))
        density = (kernel @ density) * weights * (high - low)
        places, before, before_spent = ends, share, now
    return tuple(found)


def levels(shares: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    """The one-sided level at each look: the chance beyond its bound, at that look alone."""
    return tuple(float(special.ndtr(-bound)) for bound in bounds(shares, alpha))


@lru_cache(maxsize=16)
def _nodes(count: int) -> tuple[Floats, Floats]:
    """Places and weights of Gauss and Legendre on 0 to 1."""
    at, weights = special.roots_legendre(count)
    return (at + 1) / 2, weights / 2
