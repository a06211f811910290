"""Simulated studies: how often a rule says what, and after how many items. Thousands at once.

For tests of the rule's error, for docs/statistics.md, and for "what can this matrix show?".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kick.stats import flip_looks
from kick.stats.equivalence import LIMIT
from kick.stats.flip_looks import Codes
from kick.stats.flips import Asked, Floats
from kick.stats.sequential import Rule, schedule

VERDICTS = ("undecided", "matching", "lower", "higher")


@dataclass(frozen=True)
class Population:
    """Items of right/wrong scores: the shares that dense has right, that are lost of these, and that are won
    of all others."""

    right: float
    lost: float
    won: float = 0.0

    @property
    def change(self) -> float:
        """The true change as a share of dense's score."""
        return ((1 - self.right) * self.won - self.right * self.lost) / self.right

    @classmethod
    def changed(cls, right: float, change: float, other: float = 0.0) -> Population:
        """The population with this true `change` (as a share of dense's score), in which a share `other` of
        all items flips against its direction."""
        fewer, more = other, other + abs(change) * right
        lost, won = (more, fewer) if change < 0 else (fewer, more)
        if lost > right + 1e-12 or won > 1 - right + 1e-12:
            raise ValueError(f"a change of {change} with {other} against it is impossible at {right}")
        return cls(right, min(lost / right, 1.0), min(won / (1 - right), 1.0) if right < 1 else 0.0)


@dataclass(frozen=True)
class Studies:
    """Simulated studies, `(r,)` each: codes of `VERDICTS` with stopping and of the fixed rule at all items,
    why each ended (codes of `kick.stats.flip_looks`), and how many items were asked of `total`."""

    total: int
    verdict: Codes
    fixed: Codes
    why: Codes
    asked: Codes

    def share(self, verdict: str) -> float:
        """The share of studies with this verdict."""
        return float((self.verdict == VERDICTS.index(verdict)).mean())

    @property
    def agreement(self) -> float:
        """The share of studies whose verdict is the fixed rule's at all items."""
        return float((self.verdict == self.fixed).mean())


@dataclass(frozen=True)
class Layer:
    """A stratum: its share of the items, how often they are asked compared with others, and what they are."""

    share: float
    rate: float
    truth: Population


def simulate(
    truth: Population | Sequence[Layer], total: int, rule: Rule, runs: int, seed: int = 0
) -> Studies:
    """Simulate studies of `total` right/wrong items in a random order, dense known on all of them.

    With layers, the items of each look are spread over them by share and rate, until a layer is all asked.
    """
    by = schedule(total, rule)
    layers = [Layer(1.0, 1.0, truth)] if isinstance(truth, Population) else truth
    found = counts(layers, by.looks, runs, seed)
    walked = flip_looks.walk(found, by)
    fixed = flip_looks.shown(found.of(-1), rule.margin, np.full(runs, LIMIT), last=True)
    return Studies(total, walked.verdict, fixed, walked.why, np.asarray(by.looks)[walked.look])


def counts(layers: Sequence[Layer], at: tuple[int, ...], runs: int, seed: int) -> Asked:
    """Counts `(looks, r, h)` at these looks, the last one at all items."""
    rng = np.random.default_rng([seed, at[-1]])
    sizes = rng.multinomial(at[-1], [layer.share for layer in layers], runs)
    rates = np.array([layer.rate for layer in layers])
    asked = np.stack([allotted(sizes, rates, n) for n in at])
    new = np.maximum(np.diff(asked, axis=0, prepend=0), 0)
    right = rng.binomial(new, [layer.truth.right for layer in layers])
    wrong = new - right
    lost = rng.binomial(right, [layer.truth.lost for layer in layers])
    won = rng.binomial(wrong, [layer.truth.won for layer in layers])
    parts = [np.cumsum(part, axis=0).astype(float) for part in (right, wrong, lost, won)]
    all_right, all_wrong = (np.broadcast_to(part[-1], part.shape) for part in parts[:2])
    return Asked(all_right, all_wrong, *parts)


def allotted(sizes: Codes, rates: Floats, n: int) -> Codes:
    """How many of the first `n` items are of each stratum `(r, h)`, of strata of these sizes that are asked
    at these rates: in proportion to both, but not more than there are."""
    given = np.zeros(sizes.shape)
    for _ in rates:  # each round fills a stratum or gives all
        room = sizes - given
        weight = np.where(room > 0, rates * sizes, 0.0)
        left = n - given.sum(axis=1, keepdims=True)
        given += np.minimum(room, left * weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12))
    upto = np.floor(given.cumsum(axis=1) + 1e-6).astype(np.int64)
    upto[:, -1] = n
    return np.diff(upto, axis=1, prepend=0)
