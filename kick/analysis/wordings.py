"""How much accuracy depends on the prompt, and whether compression raises that; which words move answers.

`prompt_spread` is the standard deviation over prompts of their accuracies. Of n items each accuracy has
sampling noise of its own, which would look like spread: its expected share, estimated from how much items
differ between prompts, is taken off (the variance component of a two-way analysis of variance). Intervals
are percentiles of bootstrapped items, from whose draws that noise is taken off twice, once for the sample and
once for the draw. A difference to dense draws the same items for both.

`prompt_worst` is the least of the accuracies, each variant's own worst prompt. `influence_rho` is Spearman's
correlation of the words' influences with dense's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kick.analysis.cells import StoredCell, by_asked, describe
from kick.analysis.items import Floats, Items, align
from kick.analysis.pairs import Keeping
from kick.analysis.rows import RESAMPLES, plain_gap
from kick.analysis.stopped import early
from kick.stats import metrics
from kick.stats.ranks import spearman
from kick.stats.resample import resampled_means

LEAST = 8  # items, below which nothing is said
TAILS = [0.025, 0.975]
DRAWS = 2000  # of words, whose ranks are made anew in each
PROMPT = "acc@p"


def rows(cells: Sequence[StoredCell], kept: Keeping) -> Iterator[dict[str, Any]]:
    """The spread and the worst prompt of every variant on tasks of several prompts, beside dense's, and how
    far its words' influences are dense's."""
    for asked in by_asked(cell for cell in cells if _measured(cell)).values():
        dense = next((cell for cell in asked if cell.variant.dense), None)
        for cell in asked:
            other = [dense] if dense else []
            make = functools.partial(_statistics, cell, dense)
            found = kept.get(cell, ["wordings", cell.role, cell, *other], make)
            facts = {**describe(cell), "seconds": 0.0, "compress_seconds": 0.0} if found else {}
            yield from ({**facts, "group": "", **row} for row in found)


def _measured(cell: StoredCell) -> bool:
    names = {score.metric for score in cell.run.scores}
    return (f"{PROMPT}2" in names or "influence" in names) and not early(cell)


def _statistics(cell: StoredCell, dense: StoredCell | None) -> list[dict[str, Any]]:
    theirs, ours = align(cell.items(), (dense or cell).items())
    compared = dense is not None and not cell.variant.dense
    if "influence" in theirs.columns:
        return _influences(theirs, ours) if compared else []
    mine, before = (_by_prompt(one) for one in (theirs, ours))
    known = np.isfinite(mine).all(axis=1) & np.isfinite(before).all(axis=1)
    if known.sum() < LEAST or mine.shape != before.shape:
        return []
    pair = (mine[known], before[known])
    missing = int((~known).sum())
    return [_row(name, pair, missing, compared, bool(dense)) for name in ("prompt_spread", "prompt_worst")]


def _by_prompt(items: Items) -> Floats:
    """Right or wrong `(n, prompts)`."""
    names = [name for name in items.columns if name.startswith(PROMPT)]
    return np.column_stack([items.columns[name] for name in sorted(names, key=lambda name: int(name[5:]))])


def noise(right: Floats) -> float:
    """The variance over prompts that accuracies of `right` `(n, prompts)` have by sampling items alone."""
    n = len(right)
    left = right - right.mean(axis=0)
    return float(left.var(axis=1, ddof=1).sum()) / (n * (n - 1))


def spread(means: Floats, taken: float) -> Floats:
    """Standard deviations `(draws,)` of accuracies `(draws, prompts)`, less the variance `taken`."""
    return np.sqrt(np.maximum(0.0, means.var(axis=1, ddof=1) - taken))


def _row(
    name: str, pair: tuple[Floats, Floats], missing: int, compared: bool, beside: bool
) -> dict[str, Any]:
    """A row of the frame: a value with its interval, and its difference to dense's."""
    values, draws = [], []
    n, prompts = pair[0].shape
    drawn = resampled_means(np.hstack(pair), RESAMPLES)
    for own, means in zip(pair, (drawn[:, :prompts], drawn[:, prompts:]), strict=True):
        at = own.mean(axis=0)[None]
        if name == "prompt_spread":
            values.append(float(spread(at, noise(own))[0]))
            draws.append(spread(means, 2 * noise(own)))
        else:
            values.append(float(at.min()))
            draws.append(means[:, int(at.argmin())])  # of the prompt that is worst here
    row = _facts(name, values[0], draws[0], n, missing)
    row |= plain_gap(values[0], values[1] if beside else float("nan"))
    if compared:
        ends = np.quantile(draws[0] - draws[1], TAILS)
        row |= {"gap_low": min(float(ends[0]), row["gap"]), "gap_high": max(float(ends[1]), row["gap"])}
    return row


def _facts(name: str, value: float, draws: Floats, n: int, missing: int) -> dict[str, Any]:
    metric = metrics.describe(name)
    low, high = np.quantile(draws, TAILS)
    return {
        "metric": name,
        "primary": False,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
        "value": value,
        "low": min(float(low), value),
        "high": max(float(high), value),
        "stderr": float(draws.std(ddof=1)),
        "n": n,
        "units": n,
        "missing": missing,
    }


def _influences(theirs: Items, ours: Items) -> list[dict[str, Any]]:
    mine, before = (one.columns["influence"] for one in (theirs, ours))
    known = np.isfinite(mine) & np.isfinite(before)
    n = int(known.sum())
    if n < LEAST:
        return []
    pair = np.column_stack([mine[known], before[known]])
    value = float(spearman(*pair.T))
    places = np.random.default_rng(0).integers(n, size=(DRAWS, n))
    draws = spearman(pair[places, 0], pair[places, 1])
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or len(draws) < DRAWS // 2:
        return []
    return [_facts("influence_rho", value, draws, n, len(known) - n) | plain_gap(value, float("nan"))]
