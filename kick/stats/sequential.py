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
from kick.stats.intervals import aggregate
from kick.stats.mean_looks import Distances, Graded, Logs
from kick.stats.metrics import Kind, Metric, support_of, units_of
from kick.stats.support import Support

Floats = NDArray[np.float64]
Verdict = Literal["matching", "worse", "better", "undecided", ""]
Reason = Literal["decided", "futile", "precise", "all asked", "no rule", ""]  # "" while it goes on
VERSION = 1  # of the rule; part of every stopped cell's key
FIRST, FIRST_OF_FEW, FEW = 24, 16, 64  # items at the first look; of at most FEW items; what few are
FIRST_WINDOWS = 8  # of text, at the first look
GROWTH = 1.6  # of the items from look to look, of more than `flip_looks.SMALL`


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
    futility: float = 0.15
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
    that are sampled at a rate of their own; all 0 for the uniform order, which all scores but right/wrong
    ones must have. weights, units `(N,)`: the metric's columns of these names (words of a document, document
    of a window), None if it has none. support: what an item's score can be, None for what the metric says.
    """

    dense: Floats
    strata: NDArray[np.int64]
    weights: Floats | None = None
    units: Floats | None = None
    support: Support | None = None

    @classmethod
    def of(
        cls, columns: Mapping[str, Floats], metric: Metric, strata: NDArray[np.int64] | None = None
    ) -> Design:
        """The design of dense's sample columns `(N,)`, all that the metric reads among them."""
        dense = np.asarray(columns[metric.column], dtype=float)
        return cls(
            dense,
            np.zeros(len(dense), dtype=np.int64) if strata is None else strata,
            columns.get(metric.weight) if metric.weight else None,
            units_of(metric, columns),
            support_of(metric, columns),
        )


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


def looks(total: int, rule: Rule, kind: Kind = "mean") -> tuple[int, ...]:
    """The numbers of items at which it is looked, growing, the last one `total`.

    The first at 24 items (16 if there are at most 64; 8 windows of a perplexity, `kind` "exp_mean"), the
    others by a constant factor: four looks for 96 items, five for 256. Beyond that each has about 1.6 times
    the items of the one before, nine looks for 1,000 and fifteen for 14,042: a cell that could end between
    two looks waits for the later one.
    """
    if rule.looks:
        return (*(n for n in rule.looks if n < total), total)
    first = FIRST_OF_FEW if total <= FEW else FIRST
    if kind == "exp_mean":
        first = FIRST_WINDOWS
    if total <= first:
        return (total,)
    grown = math.log(total / first)
    steps = round(1.95 + 0.8 * grown if total <= flip_looks.SMALL else grown / math.log(GROWTH))
    found = [round(first * (total / first) ** (step / steps)) for step in range(steps)]
    return (*dict.fromkeys(n for n in found if n < total), total)


def decide(design: Design, values: Floats, metric: Metric, rule: Rule) -> Decision:
    """What the first items say: `values` `(n,)` are the variant's scores of the first n items of `design`,
    NaN where one is missing.

    The verdict is that of the first look up to n that shows one, since its error is spent then; `done` says
    whether the cell may end at one of these looks. Metrics without a rule are asked in full, and their
    decision is done at N. At N the verdict is the fixed rule's (`kick.stats.paired`): of right/wrong items at
    its own 5 % if there are at most 256, else at what the looks before have left of it; the reason is "all
    asked" whatever it is. gap, low and high are of all n items.

    Raises ValueError for more values than items, and for strata of scores that are not right or wrong.
    """
    values = np.asarray(values, dtype=float)
    asked, of = len(values), len(design.dense)
    if asked > of:
        raise ValueError(f"got {asked} values of {of} items")
    kind = family(design, values, metric, rule)
    if kind == "flips":
        return _flips(design, values, metric, rule)
    if kind == "none":
        return Decision(asked == of, "", "all asked" if asked == of else "no rule", asked, of)
    if design.strata.any() and len(np.unique(design.strata)) > 1:
        raise ValueError(f"strata are for right/wrong items; {metric.name} is not right or wrong")
    return _means(design, values, metric, rule)


def replay(design: Design, values: Floats, metric: Metric, rule: Rule) -> Decision:
    """The first decision that is done, of `values` `(n,)` that are there already, or the last one."""
    for n in looks(len(design.dense), rule, metric.kind):
        if n < len(values) and (decision := decide(design, values[:n], metric, rule)).done:
            return decision
    return decide(design, values, metric, rule)


def family(
    design: Design, values: Floats, metric: Metric, rule: Rule
) -> Literal["flips", "graded", "logs", "distances", "none"]:
    """Which rule holds for the metric and the scores that are there."""
    pairs = _known(design, values)
    if not metric.compared:
        return "none" if rule.precision is None or metric.weight or metric.kind != "mean" else "distances"
    if not len(pairs) or (metric.weight and design.weights is None):
        return "none"
    if metric.kind == "exp_mean":
        return "logs"
    support = (design.support or metric.support).of(pairs)
    if metric.weight or not support.bounded or support.low < 0:
        return "none"
    return "flips" if support.binary else "graded"


def _known(design: Design, values: Floats) -> Floats:
    """The pairs `(n, 2)` of which both scores are there."""
    pairs = np.column_stack([design.dense[: len(values)], values])
    return pairs[np.isfinite(pairs).all(axis=1)]


def _flips(design: Design, values: Floats, metric: Metric, rule: Rule) -> Decision:
    """The decision on right/wrong items."""
    asked, by = len(values), schedule(len(design.dense), rule)
    reached = [n for n in by.looks if n <= asked]
    counts = [count(design, values[:n]) for n in [*reached, asked]]
    found = flips.Asked(*(np.stack(parts)[:, None] for parts in zip(*counts, strict=True)))
    here, code, why = found.of(-1), flip_looks.UNDECIDED, flip_looks.GOING
    if reached:
        walked = flip_looks.walk(found.of(slice(-1)), by)
        code, why = int(walked.verdict[0]), int(walked.why[0])
    low, high = flips.interval(here, by.tails[max(len(reached) - 1, 0)])
    dense = float(here.all_right.sum() / max((here.all_right + here.all_wrong).sum(), 1))
    change = float(flips.gap(here)[0]), float(low[0]), float(high[0])
    return _decision(design, asked, (code, why), metric, dense, change)


def count(design: Design, values: Floats) -> flips.Asked:
    """The counts `(h,)` per stratum after the first items; items without a score of either side are not
    counted, and if all were asked, neither is dense's answer to them."""
    n, dense = len(values), np.array(design.dense, dtype=float)
    if n == len(dense):
        dense[~np.isfinite(values)] = np.nan
    names, place = np.unique(design.strata, return_inverse=True)

    def per(chosen: NDArray[np.bool_]) -> Floats:
        return np.bincount(place[: len(chosen)][chosen], minlength=len(names)).astype(float)

    seen, there = dense[:n], np.isfinite(values)
    right, wrong = (seen == 1) & there, (seen == 0) & there
    lost, won = right & (values == 0), wrong & (values == 1)
    return flips.Asked(per(dense == 1), per(dense == 0), per(right), per(wrong), per(lost), per(won))


def _means(design: Design, values: Floats, metric: Metric, rule: Rule) -> Decision:
    """The decision on graded items, windows of text and distances."""
    code, why, reached = walk(design, values, metric, rule)
    tails = schedule(len(design.dense), rule, metric.kind).tails
    gap, low, high = sample(design, values, metric, rule).interval(tails[reached])
    dense = aggregate(design.dense, metric.kind, design.weights)
    unit = dense if metric.kind == "exp_mean" else 1.0
    return _decision(design, len(values), (code, why), metric, dense, (gap * unit, low * unit, high * unit))


def walk(design: Design, values: Floats, metric: Metric, rule: Rule) -> tuple[int, int, int]:
    """Walk through the looks at graded items, windows or distances until one ends the cell.

    Codes (`kick.stats.flip_looks`) of the verdict and of why it ended, and the index of the last look.
    """
    by = schedule(len(design.dense), rule, metric.kind)
    code, why, reached = flip_looks.UNDECIDED, flip_looks.GOING, 0
    for at, n in enumerate(by.looks):
        if n > len(values) or why != flip_looks.GOING:
            break
        reached, last = at, n == by.looks[-1]
        found = sample(design, values[:n], metric, rule)
        code = code or found.shown(by.levels[at], last)
        if code or (rule.futility > 0 and found.chance(by.levels[-1]) < rule.futility):
            why = flip_looks.DECIDED if code else flip_looks.FUTILE
        if rule.precision is not None:
            _, low, high = found.interval(by.tails[at])
            why = why if (high - low) / 2 <= rule.precision else flip_looks.GOING  # NaN is not precise
        why = flip_looks.ALL if last else why
    return code, why, reached


def sample(design: Design, values: Floats, metric: Metric, rule: Rule) -> Graded | Logs | Distances:
    """The first items as the rule of their kind reads them, if they are not right or wrong."""
    n, dense = len(values), np.asarray(design.dense, dtype=float)
    support = design.support or metric.support
    if not metric.compared:
        known = values[np.isfinite(values)]
        return Distances(known, aggregate(dense), support.of(known))
    if metric.kind == "exp_mean":
        weights = np.ones(n) if design.weights is None else design.weights[:n]
        there = np.isfinite(values) & np.isfinite(dense[:n]) & np.isfinite(weights)
        units = None if design.units is None else design.units[:n][there]
        return Logs((values - dense[:n])[there], weights[there], units, len(dense), rule.margin)
    there = np.isfinite(values) & np.isfinite(dense[:n])
    pairs, rest = np.column_stack([dense[:n], values])[there], dense[n:][np.isfinite(dense[n:])]
    return Graded(pairs, np.concatenate([pairs[:, 0], rest]), support.of(pairs), rule.margin)


def schedule(total: int, rule: Rule, kind: Kind = "mean") -> flip_looks.Schedule:
    """The looks of the rule with their levels."""
    at, usual = looks(total, rule, kind), rule.looks is None
    return flip_looks.schedule(at, rule.margin, rule.futility, rule.precision, usual)


def _decision(
    design: Design,
    asked: int,
    said: tuple[int, int],
    metric: Metric,
    dense: float,
    change: tuple[float, float, float],
) -> Decision:
    """The decision; `said`: codes of the verdict and of why it ended, `change`: gap, low and high."""
    lower: Verdict = "worse" if metric.higher_is_better else "better"
    higher: Verdict = "better" if metric.higher_is_better else "worse"
    verdicts: tuple[Verdict, ...] = ("undecided", "matching", lower, higher)
    verdict = verdicts[said[0]]
    if not metric.compared or dense == 0:
        verdict = ""
    ended: Reason = "futile" if metric.compared else "precise"
    reasons: tuple[Reason, ...] = ("", "decided", ended, "all asked")
    reason = reasons[said[1]]
    score = change[0] + (0.0 if math.isnan(dense) else dense)
    return Decision(said[1] != flip_looks.GOING, verdict, reason, asked, len(design.dense), score, *change)
