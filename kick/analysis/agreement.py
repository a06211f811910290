"""Perplexity against truth: does it put the variants in the order in which the tasks do?

Spearman's rank correlation of what is kept of dense's perplexity and of a task's score, over the variants of
a section (dense left out, and those that train or see task data), with the interval of draws within the
items' noise (`kick.analysis.ranking`). Of several perplexity tasks the first one counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kick.analysis import ranking
from kick.stats.ranks import spearman

LEAST = 4  # variants, below which an order says nothing


@dataclass(frozen=True)
class Agreement:
    """Spearman's rho of a task's order and perplexity's over `variants` variants, with its 95 % interval.

    corpus: the title of the perplexity task if there are several, "" if it is the only one.
    """

    task: str
    rho: float
    low: float
    high: float
    variants: int
    corpus: str = ""


@dataclass(frozen=True)
class Flattered:
    """A variant with its rank by perplexity and by the mean of all other tasks; 1 is best."""

    label: str
    by_perplexity: int
    by_tasks: int


def agreement(frame: pd.DataFrame) -> tuple[list[Agreement], list[Flattered]]:
    """Of each task and of the mean of all, and the variants that perplexity ranks above the tasks' mean.

    Both are empty without perplexity, another task, or at least four variants.
    """
    frame = ranking.alike(frame)
    means, deviations = ranking.kept(frame)
    corpus = frame[frame["metric"].str.endswith("perplexity") & frame["primary"]]["title"]
    dense = set(frame[frame["dense"]]["label"])
    keep = [label for label in means.index if label not in dense]
    by = [task for task in means.columns if task in set(corpus)]
    others = [task for task in means.columns if task not in set(corpus)]
    if not by or not others or len(keep) < LEAST:
        return [], []
    means, deviations = means.loc[keep, [by[0], *others]], deviations.loc[keep, [by[0], *others]]
    now = _rhos(means.to_numpy())
    spread = _rhos(ranking.drawn(means, deviations))
    low, high = np.nanquantile(spread, (0.025, 0.975), axis=0)
    names, corpus_of = [*others, "mean of the tasks"], by[0] if len(by) > 1 else ""
    found = [
        Agreement(name, float(now[n]), float(low[n]), float(high[n]), len(keep), corpus_of)
        for n, name in enumerate(names)
    ]
    return found, _flattered(means, others, by[0])


def _rhos(shares: np.ndarray) -> np.ndarray:
    """Rank correlations (..., tasks) of perplexity, first in (..., variants, tasks), with each other column
    and with the mean of the others; NaN for a column without an order."""
    with_mean = np.concatenate([shares, shares[..., 1:].mean(axis=-1, keepdims=True)], axis=-1)
    columns = np.moveaxis(with_mean, -1, -2)
    return spearman(columns[..., :1, :], columns[..., 1:, :])


def _flattered(means: pd.DataFrame, others: list[str], by: str) -> list[Flattered]:
    first = rankdata(-means[by], method="min").astype(int)
    second = rankdata(-means[others].mean(axis=1), method="min").astype(int)
    found = [
        Flattered(str(label), int(one), int(two))
        for label, one, two in zip(means.index, first, second, strict=True)
        if one < two
    ]
    return sorted(found, key=lambda one: one.by_perplexity - one.by_tasks)
