"""When a variant's verdict is known before all items are asked: the rule, the looks, and what a look says.

A cell is asked in waves, in a fixed order; after each wave (a look) `decide` says whether its verdict is
reached. Dense has answered every item before. docs/statistics.md has the error rates.

    design = Design(dense, strata)                  # (N,), in the order of asking
    for n in looks(N, rule):
        decision = decide(design, values[:n], describe("acc"), rule)
        if decision.done:
            break
    replay(design, values, describe("acc"), rule)   # the same decision, of answers that are there already
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kick.records import canonical
from kick.stats import flip_looks, flips
from kick.stats.metrics import Metric

Floats = NDArray[np.float64]
Verdict = Literal["matching", "worse", "better", "undecided", ""]
Reason = Literal["decided", "futile", "precise", "all asked", "no rule", ""]  # "" while it goes on
VERSION = 1  # of the rule; part of every stopped cell's key
FIRST, FIRST_OF_FEW, FEW = 24, 16, 64  # items at the first look; of at most FEW items; what few are


@dataclass(frozen=True)
class Rule:
    """How a cell may end early.

    margin: the share of dense's score within which a variant matches. precision: the half-width of the 95 %
    interval, in the metric's unit (of shares: 0.02 is two points), that is asked for as well; None for none.
    futility: the cell ends undecided if the chance of a verdict at all items is below this share; 0 never.
    looks: numbers of items at which it is looked, None for those of `looks`.
    """

    margin: float = 0.05
    precision: float | None = None
    futility: float = 0.1
    looks: tuple[int, ...] | None = None
    version: int = VERSION

    @property
    def text(self) -> str:
        """The rule as JSON text, for a task's spec and so for the cell's key."""
        return canonical(asdict(self))

    @classmethod
    def of(cls, text: str) -> Rule:
        """The rule that `text` was taken of."""
        data = json.loads(text)
        return cls(**{**data, "looks": tuple(data["looks"]) if data["looks"] else None})


@dataclass(frozen=True)
class Design:
    """What is known before a variant is asked, items in the order in which they are asked.

    dense: its item scores `(N,)`, NaN if missing. strata: a whole number per item `(N,)`, of a group of items
    that are sampled at a rate of their own; all 0 for the uniform order.
    """

    dense: Floats
    strata: NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """What a look says. `done`: the cell may end here.

    gap: variant minus dense over all N items, as estimated; score: dense's mean over N plus gap; low, high:
    the gap's repeated 95 % interval, which holds at every look.
    """

    done: bool
    verdict: Verdict
    reason: Reason
    asked: int
    of: int
    score: float = math.nan
    gap: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def record(self) -> Mapping[str, Any]:
        """The decision as JSON values, for `Result.stopping`; NaN is None."""
        values = asdict(self)
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
            if name != "done"
        }


def looks(total: int, rule: Rule) -> tuple[int, ...]:
    """The numbers of items at which it is looked, growing, the last one `total`.

    The first at 24 items (16 if there are at most 64), the others by a constant factor: four looks for 96
    items, five for 256, six for 1,000, eight for 14,042.
    """
    if rule.looks:
        return (*(n for n in rule.looks if n < total), total)
    first = FIRST_OF_FEW if total <= FEW else FIRST
    if total <= first:
        return (total,)
    steps = round(1.95 + 0.8 * math.log(total / first))
    found = [round(first * (total / first) ** (step / steps)) for step in range(steps)]
    return (*dict.fromkeys(n for n in found if n < total), total)


def decide(design: Design, values: Floats, metric: Metric, rule: Rule) -> Decision:
    """What the first items say: `values` `(n,)` are the variant's scores of the first n items of `design`,
    NaN where one is missing.

    The verdict is that of the first look up to n that shows one, since its error is spent then; `done` is
    about n itself, which counts as the last look that it has reached. Metrics without a rule are asked in
    full, and their decision is done at N. At N the verdict is the fixed rule's (`kick.stats.paired`) at what
    the looks before have left of its 5 %, and the reason is "all asked" whatever it is.
    """
    values = np.asarray(values, dtype=float)
    asked, of = len(values), len(design.dense)
    if asked > of:
        raise ValueError(f"{asked} values of {of} items")
    pairs = np.column_stack([design.dense[:asked], values])
    known = pairs[np.isfinite(pairs).all(axis=1)]
    plain = asked and metric.compared and metric.kind == "mean" and metric.weight is None
    if plain and metric.support.of(known).binary:
        return _right_wrong(design, values, metric.higher_is_better, rule)
    return Decision(asked == of, "", "all asked" if asked == of else "no rule", asked, of)


def replay(design: Design, values: Floats, metric: Metric, rule: Rule) -> Decision:
    """The first decision that is done, of `values` `(n,)` that are there already, or the last one."""
    reached = [n for n in looks(len(design.dense), rule) if n < len(values)]
    for n in reached:
        decision = decide(design, values[:n], metric, rule)
        if decision.done:
            return decision
    return decide(design, values, metric, rule)


def _right_wrong(design: Design, values: Floats, higher_is_better: bool, rule: Rule) -> Decision:
    asked, of = len(values), len(design.dense)
    by = flip_looks.schedule(looks(of, rule), rule.margin, rule.futility, rule.precision)
    reached = [n for n in by.looks if n <= asked]
    counts = [count(design, values[:n]) for n in [*reached, asked]]
    found = flips.Asked(*(np.stack(parts)[:, None] for parts in zip(*counts, strict=True)))
    here, tail = found.of(-1), by.tails[max(len(reached) - 1, 0)]
    walked = flip_looks.walk(found.of(slice(-1)), by) if reached else None
    low, high = flips.interval(here, tail)
    share = float(here.all_right.sum() / max((here.all_right + here.all_wrong).sum(), 1))
    gap = float(flips.gap(here)[0])
    verdict: Verdict = "undecided"
    if share == 0:
        verdict = ""
    elif walked is not None and walked.verdict[0]:
        lower, higher = ("worse", "better") if higher_is_better else ("better", "worse")
        verdict = ("undecided", "matching", lower, higher)[walked.verdict[0]]  # type: ignore[assignment]
    reason: Reason = "" if walked is None else ("", "decided", "futile", "all asked")[walked.why[0]]
    return Decision(
        reason != "", verdict, reason, asked, of, share + gap, gap, float(low[0]), float(high[0])
    )  # fmt: skip


def count(design: Design, values: Floats) -> flips.Asked:
    """The counts `(h,)` per stratum after the first items; items without a score of either side are not
    counted, and if all were asked, neither is dense's answer to them."""
    n, dense = len(values), np.array(design.dense, dtype=float)
    if n == len(dense):
        dense[~np.isfinite(values)] = np.nan
    names, place = np.unique(design.strata, return_inverse=True)

    def per(chosen: NDArray[np.bool_], places: NDArray[np.intp] = place) -> Floats:
        return np.bincount(places[: len(chosen)][chosen], minlength=len(names)).astype(float)

    seen, there = dense[:n], np.isfinite(values)
    right, wrong = (seen == 1) & there, (seen == 0) & there
    lost, won = right & (values == 0), wrong & (values == 1)
    return flips.Asked(per(dense == 1), per(dense == 0), per(right), per(wrong), per(lost), per(won))
