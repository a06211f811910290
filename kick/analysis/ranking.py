"""Ranks of variants with intervals: how much of dense's scores each keeps, on average over tasks.

A task's share is the score over dense's (dense's over the score where lower is better), between 0 and 2, so
that no task outweighs all others. Intervals are of draws: each share is drawn from a normal distribution as
wide as its 95 % interval, variants independently, which is wider than paired items would be. Ranks whose
intervals overlap are ties within the noise of items. Variants that train or see data of the tasks are ranked
apart from those that do neither, and without the tasks whose documents share text with what one of them was
trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kick.analysis.frame_rows import headlines
from kick.stats import metrics

DRAWS = 500


@dataclass(frozen=True)
class Rank:
    """A variant's place (1 is best), the interval of its rank, and the mean share of dense's scores kept.

    apart: it trains or sees task data, and so is ranked among such variants and dense, not among all.
    """

    place: int
    low: int
    high: int
    kept: float
    apart: bool = False

    @property
    def text(self) -> str:
        """ "2", or "2-4" with a dash."""
        return str(self.low) if self.low == self.high else f"{self.low}\u2013{self.high}"


def ranks(frame: pd.DataFrame) -> Mapping[str, Rank]:
    """Label -> Rank of the variants of one section that were measured on all of its compared tasks.

    Dense is ranked beside them, keeping all of its own; replicas are not. Those of `apart` are ranked with
    dense alone, if there are others.
    """
    others = _ranked(frame[~apart(frame)])
    own = _ranked(frame[apart(frame) | frame["dense"]])
    return {label: replace(rank, apart=bool(others)) for label, rank in own.items()} | others


def apart(rows: pd.DataFrame) -> pd.Series:
    """Whether the variant of each row updates weights by gradient descent, or sees data of the tasks."""
    return rows["trains"] | rows["task_data"]


def alike(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of dense and of the variants that are not `apart`; all rows if all variants are."""
    ours = frame[~apart(frame)]
    return frame if ours["dense"].all() else ours


def _ranked(frame: pd.DataFrame) -> dict[str, Rank]:
    means, deviations = kept(frame)
    if len(means) < 2:
        return {}
    found = drawn(means, deviations).mean(axis=2)
    shares = means.mean(axis=1).to_numpy()
    order = rankdata(-shares, method="min")
    low = np.floor(np.quantile(rankdata(-found, method="min", axis=1), 0.025, axis=0)).astype(int)
    high = np.ceil(np.quantile(rankdata(-found, method="max", axis=1), 0.975, axis=0)).astype(int)
    return {
        str(label): Rank(int(order[n]), int(low[n]), int(high[n]), float(shares[n]))
        for n, label in enumerate(means.index)
    }


def kept(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares of dense's scores kept and their standard deviations: a row per label, a column per task title.

    Of variants, and dense, that were measured on all compared tasks of the section; empty if there are none.
    """
    rows = headlines(frame)
    compared = rows["metric"].map(lambda name: metrics.describe(name).compared)
    rows = rows[compared & rows["dense_value"].gt(0) & rows["value"].notna() & ~rows["foreign"]]
    leaked = set(rows.loc[rows["leaked"].gt(0), "title"])  # a variant was trained on text of the task
    rows = rows[~rows["title"].isin(leaked)].drop_duplicates(["title", "label"])
    if rows.empty or rows["dense"].all():
        return pd.DataFrame(), pd.DataFrame()
    shares = _shares(rows)
    means, deviations = (
        shares.pivot(index="label", columns="at", values=name) for name in ("share", "deviation")
    )
    known = means.notna().all(axis=1) & deviations.notna().all(axis=1)  # without an interval there is no rank
    return means[known], deviations[known]


def _shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Label, task, share of dense's score kept and its standard deviation by the interval of the ratio."""
    ratio = {name: 1 + rows[name] for name in ("relative", "relative_low", "relative_high")}
    up = rows["higher_is_better"]
    share, low, high = (one.where(up, 1 / one.clip(lower=0.5)).clip(0, 2) for one in ratio.values())
    share = share.where(~rows["dense"], 1.0)
    return pd.DataFrame(
        {
            "label": rows["label"],
            "at": rows["title"],
            "share": share,
            "deviation": ((high - low).abs() / 3.92).where(~rows["dense"], 0.0),
        }
    )


def drawn(means: pd.DataFrame, deviations: pd.DataFrame) -> np.ndarray:
    """(DRAWS, variants, tasks): the shares, each drawn anew, the same for the same results."""
    random = np.random.default_rng(0)
    middle, wide = means.to_numpy(), deviations.to_numpy()
    return np.clip(middle + wide * random.standard_normal((DRAWS, *middle.shape)), 0, 2)


def said(found: Mapping[str, Rank]) -> str:
    """How the ranks are made, in a sentence; "" if there are none."""
    if not found:
        return ""
    away = " Variants that train or see data of the tasks are ranked apart, with dense alone."
    return (
        "Rank: by the share of dense's scores kept, on average over the compared tasks (perplexity as "
        "dense's over the variant's); the interval is over items, and variants whose intervals overlap are "
        "tied." + away * any(rank.apart for rank in found.values())
    )
