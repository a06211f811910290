"""Ranks of variants with intervals: how much of dense's scores each keeps, on average over tasks.

A task's share is the score over dense's (dense's over the score where lower is better), between 0 and 2, so
that no task outweighs all others. Intervals are of draws: each share is drawn from a normal distribution as
wide as its 95 % interval, variants independently, which is wider than paired items would be. Ranks whose
intervals overlap are ties within the noise of items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kick.stats import metrics

DRAWS = 500
TASK = ["task", "setting"]


@dataclass(frozen=True)
class Rank:
    """A variant's place (1 is best), the interval of its rank, and the mean share of dense's scores kept."""

    place: int
    low: int
    high: int
    kept: float

    @property
    def text(self) -> str:
        """ "2", or "2-4" with a dash."""
        return str(self.low) if self.low == self.high else f"{self.low}\u2013{self.high}"


def ranks(frame: pd.DataFrame) -> Mapping[str, Rank]:
    """Label -> Rank of the variants of one section that were measured on all of its compared tasks.

    Dense is ranked beside them, keeping all of its own; replicas are not.
    """
    rows = frame[frame["primary"] & (frame["group"] == "") & (frame["replica"] == "")]
    compared = rows["metric"].map(lambda name: metrics.describe(name).compared)
    rows = rows[compared & rows["dense_value"].gt(0) & rows["value"].notna() & ~rows["foreign"]]
    rows = rows.drop_duplicates([*TASK, "label"])
    if rows.empty or rows["dense"].all():
        return {}
    shares = _shares(rows)
    means, deviations = (
        shares.pivot(index="label", columns="at", values=name) for name in ("share", "deviation")
    )
    means = means.dropna()
    if len(means) < 2:
        return {}
    found = _draw(means.to_numpy(), deviations.loc[means.index].fillna(0.0).to_numpy())
    kept = means.mean(axis=1).to_numpy()
    order = rankdata(-kept, method="min")
    low = np.floor(np.quantile(rankdata(-found, method="min", axis=1), 0.025, axis=0)).astype(int)
    high = np.ceil(np.quantile(rankdata(-found, method="max", axis=1), 0.975, axis=0)).astype(int)
    return {
        str(label): Rank(int(order[n]), int(low[n]), int(high[n]), float(kept[n]))
        for n, label in enumerate(means.index)
    }


def _shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Label, task, share of dense's score kept and its standard deviation by the interval of the ratio."""
    ratio = {name: 1 + rows[name] for name in ("relative", "relative_low", "relative_high")}
    up = rows["higher_is_better"]
    share, low, high = (one.where(up, 1 / one.clip(lower=0.5)).clip(0, 2) for one in ratio.values())
    share = share.where(~rows["dense"], 1.0)
    return pd.DataFrame(
        {
            "label": rows["label"],
            "at": rows["task"] + " " + rows["setting"],
            "share": share,
            "deviation": ((high - low).abs() / 3.92).where(~rows["dense"], 0.0),
        }
    )


def _draw(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """(draws, variants) mean shares, the same for the same results."""
    random = np.random.default_rng(0)
    drawn = np.empty((DRAWS, len(means)))
    for number in range(DRAWS):
        normal = random.standard_normal(means.shape)
        drawn[number] = np.clip(means + deviations * normal, 0, 2).mean(axis=1)
    return drawn


def said(found: Mapping[str, Rank]) -> str:
    """How the ranks are made, in a sentence; "" if there are none."""
    if not found:
        return ""
    return (
        "Rank: by the share of dense's scores kept, on average over the compared tasks (perplexity as "
        "dense's over the variant's); the interval is over items, and variants whose intervals overlap are "
        "tied."
    )
