"""Cells that ended before all of their items were asked: what their record says, and their rows of a frame.

The headline of such a cell is estimated for all N items: dense's score over N plus the gap by strata
(`kick.stats.stratified`). Its other metrics are of the n items that were asked, beside dense's on the same
items, without p and verdict: the rule that ended the cell promises nothing about them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kick.analysis import items
from kick.analysis.cells import StoredCell, Unreadable
from kick.analysis.ended import Stop, stop_of
from kick.analysis.items import Items
from kick.analysis.rows import NO_TEST, number, plain_gap
from kick.analysis.rows import gap as gap_columns
from kick.stats import equivalence, stratified
from kick.stats.intervals import safe_exp
from kick.stats.metrics import Metric, support_of, units_of
from kick.stats.paired import How
from kick.stats.sequential import VERSION, Decision, Design, Rule, decide, looks
from kick.stats.stratified import Strata

NEAR = 1e-6  # by which a record may differ from what its samples say
SHOWN = {"worse": "not matching", "better": "not matching"}  # the frame's verdict; the gap says which


def stop(cell: StoredCell) -> Stop | None:
    """`stop_of` the cell. Raises Unreadable for a bad record."""
    try:
        return stop_of(cell.run)
    except ValueError as error:
        raise Unreadable(cell, str(error)) from error


def early(cell: StoredCell) -> bool:
    """Whether a cell ended before all of its items were asked."""
    found = stop(cell)
    return found is not None and found.early


def columns(cell: StoredCell) -> dict[str, Any]:
    """Columns that say how many items there are, and how the cell ended."""
    found = stop(cell)
    if found is None or not found.early:
        return {"of": math.nan, "stopped": "", "unasked_seconds": math.nan}
    spent = number(cell.run.seconds.get("answer"))
    rest = spent / found.asked * (found.of - found.asked) if found.asked else math.nan
    return {"of": float(found.of), "stopped": found.reason, "unasked_seconds": rest}


def looked(cell: StoredCell, metric: Metric) -> int:
    """How often the rule of a cell looks at it; 1 if it has none."""
    text, found = cell.run.cell.task.stop, stop(cell)
    return len(looks(found.of, Rule.of(text), metric.kind)) if text and found else 1


# ---------------------------------------------------------------------------------------- estimates


class Known(NamedTuple):
    """A metric of dense on all items, and of others on those items that all of them were asked.

    everything: all of dense's items; asked: the places `(n,)` of those that were asked and have a score
    everywhere; others: their scores, `(n,)` each.
    """

    everything: Items
    asked: NDArray[np.intp]
    others: tuple[items.Floats, ...]

    def dense(self, metric: Metric) -> items.Floats:
        """Dense's scores of all its items."""
        return self.everything.columns[metric.column]

    def strata(self, metric: Metric) -> Strata:
        """The strata of the items asked: by dense's own answer if it is right or wrong, else one."""
        scores = self.dense(metric)
        known = np.isfinite(scores)
        right = support_of(metric, self.everything.columns).of(scores[known]).binary
        return stratified.strata(scores[known] if right else np.zeros(known.sum()), _among(known, self.asked))

    def weights(self, metric: Metric) -> items.Floats | None:
        """The metric's weight of each item asked, as of words; None if it has none."""
        return self.everything.columns[metric.weight][self.asked] if metric.weight else None

    def units(self, metric: Metric) -> items.Floats | None:
        """The independent unit of each item asked; None if each is its own."""
        found = units_of(metric, self.everything.columns)
        return None if found is None else found[self.asked]


def _among(known: NDArray[np.bool_], places: NDArray[np.intp]) -> NDArray[np.intp]:
    """The places among the known items only."""
    found: NDArray[np.intp] = np.cumsum(known)[places] - 1
    return found


def known(dense: Items, metric: Metric, *others: Items) -> Known | None:
    """What is known of all of them; None if a side does not have the metric."""
    if not all(one.has(metric) for one in (dense, *others)):
        return None
    place = {item: row for row, item in enumerate(dense.ids)}
    rows = [{item: row for row, item in enumerate(one.ids) if item in place} for one in others]
    shared = [item for item in rows[0] if all(item in one for one in rows)]
    values = [
        one.columns[metric.column][[at[item] for item in shared]]
        for one, at in zip(others, rows, strict=True)
    ]
    asked = np.array([place[item] for item in shared], dtype=np.intp)
    whole = np.isfinite([dense.columns[metric.column][asked], *values]).all(axis=0)
    return Known(dense, asked[whole], tuple(one[whole] for one in values))


def estimate(dense: Items, theirs: Items, metric: Metric) -> tuple[float, float]:
    """(score, gap) of a cell over all of dense's items; NaN if they cannot be computed, and of metrics with
    weights."""
    found = known(dense, metric, theirs)
    if found is None or not len(found.asked) or metric.weight:
        return math.nan, math.nan
    before = items.aggregate(dense, metric)
    change = stratified.mean(found.others[0] - found.dense(metric)[found.asked], found.strata(metric))
    score = before * safe_exp(change) if metric.kind == "exp_mean" else before + change
    return score, score - before


# ---------------------------------------------------------------------------------------- a row


def headline(cell: StoredCell, metric: Metric, dense: Items, theirs: Items) -> dict[str, Any]:
    """The columns of a stopped cell's headline metric; `doubt` says what its samples do not confirm."""
    told = stop(cell)
    assert told is not None
    again = replayed(cell.run.cell.task.stop, metric, dense, theirs)
    doubt = _doubt(told, again, (len(theirs.ids), len(dense.ids)))
    verdict = told.verdict
    if again is not None:
        verdict, gap, low, high = again.verdict, again.gap, again.low, again.high
    elif math.isfinite(told.gap):
        gap, low, high = told.gap, told.low, told.high
    else:
        gap, low, high = estimate(dense, theirs, metric)[1], math.nan, math.nan
    if metric.ends_at_dense:
        best = max(gap, 0.0) if metric.higher_is_better else min(gap, 0.0)
        low, high = (low, min(high, best)) if metric.higher_is_better else (max(low, best), high)
    own = theirs.columns[metric.column]
    return {
        **ends(items.score(dense, metric), gap, low, high, metric),
        "stderr": math.nan,
        "n": int(np.isfinite(own).sum()),
        "missing": int(np.isnan(own).sum()),
        **_flips(known(dense, metric, theirs), metric),
        "doubt": doubt,
        "verdict": SHOWN.get(verdict, verdict),
    }


def replayed(rule: str, metric: Metric, dense: Items, theirs: Items) -> Decision | None:
    """What the rule says of a cell's items, in the order in which they were asked, once more.

    None if the rule is of another version than this one's, or has no estimate for this metric.
    """
    by = Rule.of(rule) if rule else None
    if by is None or by.version != VERSION or not (dense.has(metric) and theirs.has(metric)):
        return None
    place = {item: row for row, item in enumerate(dense.ids)}
    asked = [place[item] for item in theirs.ids if item in place]
    order = np.array([*asked, *sorted(set(place.values()) - set(asked))], dtype=np.intp)
    design = Design.of({name: values[order] for name, values in dense.columns.items()}, metric)
    values = theirs.columns[metric.column][[item in place for item in theirs.ids]]
    found = decide(design, values, metric, by)
    return found if math.isfinite(found.gap) else None


def _doubt(told: Stop, again: Decision | None, held: tuple[int, int]) -> str:
    """What the samples say otherwise than the record; "" if they confirm it. `held`: items that the cell and
    dense have."""
    if held != (told.asked, told.of):
        stored = f"{held[0]} are stored beside {held[1]} of dense"
        return f"its record says {told.asked} of {told.of} items, and {stored}"
    if again is None:
        return ""
    if again.verdict != told.verdict:
        return f"its record says {told.verdict!r}, and the rule says {again.verdict!r} of its samples"
    if not again.done:
        return f"the rule would not have ended it after {told.asked} items"
    for name in ("gap", "low", "high"):
        said, found = getattr(told, name), getattr(again, name)
        if math.isfinite(said) and math.isfinite(found) and abs(said - found) > NEAR * (1 + abs(found)):
            return f"its record says a {name} of {said:.6g}, and its samples say {found:.6g}"
    return ""


def decided(told: Stop) -> bool:
    """Whether the rule had a verdict to give on a cell of which all items were asked: looks had spent part of
    its error, so this verdict counts and not the one of all items at once."""
    return not told.early and told.reason != "no rule" and math.isfinite(told.gap)


def _flips(found: Known | None, metric: Metric) -> dict[str, float]:
    """Items of those asked that were lost, won, and scored the same."""
    if found is None:
        return {}
    pairs = np.column_stack([found.dense(metric)[found.asked], found.others[0]])
    same = {"same": float((pairs[:, 0] == pairs[:, 1]).sum())}
    if not metric.support.of(pairs).binary:
        return same
    flips = equivalence.outcomes(pairs)
    return same | {"lost": float(flips.lost), "won": float(flips.won)}


def ends(before: Mapping[str, float], gap: float, low: float, high: float, metric: Metric) -> dict[str, Any]:
    """The columns of a score and its gap by dense's score and the gap's interval.

    The interval of the score takes in dense's own: half-widths add up as standard errors do.
    """
    dense, support = before["value"], metric.support
    down, up = gap - low, high - gap
    score = dense + gap
    first = score - math.hypot(down, dense - before["low"])
    last = score + math.hypot(up, before["high"] - dense)
    relative = [value / dense if dense > 0 else math.nan for value in (gap, low, high)]
    if support.low >= 0 or metric.kind == "exp_mean":
        first, relative[1] = max(first, 0.0), max(relative[1], -1.0)
    return {
        "value": score,
        "low": max(first, support.low),
        "high": min(last, support.high),
        "dense_value": dense,
        "gap": gap,
        "gap_low": low,
        "gap_high": high,
        **dict(zip(("relative", "relative_low", "relative_high"), relative, strict=True)),
    }


def other(metric: Metric, dense: Items, theirs: Items, how: How) -> dict[str, Any]:
    """The columns of another metric of a stopped cell: the paired difference on the items asked."""
    found = items.difference(dense, theirs, metric, how=how)
    if found is None:
        return {}
    before, after = (items.aggregate(side, metric) for side in items.align(dense, theirs))
    return plain_gap(after, before) | gap_columns(found) | NO_TEST


def unread(stop: Stop, dense: float) -> dict[str, Any]:
    """The columns of a stopped cell's headline metric by its record alone; `dense`: dense's score."""
    dense = stop.score - stop.gap if math.isnan(dense) else dense
    return {"value": stop.score, "low": math.nan, "high": math.nan, "stderr": math.nan} | plain_gap(
        stop.score, dense
    )
