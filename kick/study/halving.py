"""Successive halving: many arms tried briefly, the better part of them longer, until one is left.

Kevin Jamieson, Ameet Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization.
AISTATS 2016, arXiv 1502.07943. The rungs share the time about equally: an arm that is kept has `keep` times
the units of the rung before. What is tried again starts anew, with the schedule of its own length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

ArmT = TypeVar("ArmT", bound=Hashable)


@dataclass(frozen=True)
class Rung:
    """How many arms are tried, each with so many units."""

    arms: int
    units: int


def ladder(arms: int, keep: int, seconds: float, each: float, per_unit: float, step: int) -> list[Rung]:
    """The rungs that so many seconds allow, for trials of `each` seconds and `per_unit` more per unit.

    Units are multiples of `step`. Empty if the time does not suffice for a step per arm on every rung.
    """
    counts = [arms]
    while counts[-1] > 1:
        counts.append(math.ceil(counts[-1] / keep))
    counts = counts[:-1] or [1]  # the last rung is of the arms among which the best is chosen
    weighted = sum(count * keep**place for place, count in enumerate(counts))
    first = (seconds - sum(counts) * each) / (per_unit * weighted)
    steps = math.floor(first / step)
    if steps < 1:
        return []
    return [Rung(count, steps * step * keep**place) for place, count in enumerate(counts)]


@dataclass(frozen=True)
class Halved(Generic[ArmT]):
    """The best arm, with its loss, the number of units that it was tried with, and whether every rung was
    done in the time."""

    arm: ArmT
    loss: float
    units: int
    whole: bool


def halve(
    arms: Sequence[ArmT],
    rungs: Sequence[Rung],
    trial: Callable[[ArmT, int], float],
    time_left: Callable[[], bool],
) -> Halved[ArmT]:
    """Climb the rungs; equal losses keep the order of `arms`.

    trial: the loss of an arm after so many units, infinite if it has none. time_left: asked before each
    trial; a rung that is cut off does not count, but for the first.
    """
    left, best = list(arms), None
    for rung in rungs:
        losses: dict[ArmT, float] = {}
        for arm in left[: rung.arms]:
            if not time_left() and (best is not None or losses):
                break
            losses[arm] = trial(arm, rung.units)
        whole = len(losses) == min(rung.arms, len(left))
        if not whole and best is not None:
            return Halved(best.arm, best.loss, best.units, False)
        left = sorted(losses, key=lambda arm: losses[arm])
        best = Halved(left[0], losses[left[0]], rung.units, whole)
        if not whole:
            return best
    if best is None:
        raise ValueError("no rungs")
    return best
