"""Long contexts: the score by depth and length, a grid of panels per kind and variant."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kick.printable import counted
from kick.report import select, wording
from kick.report.figures import style
from kick.report.figures.entry import figure

TASK = re.compile(r"kick_long_([a-z]+)_(\d+)")
DEPTH = re.compile(r"depth (\d+) %")
MOST = 16  # variants of one figure


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Headline scores of the long-context tasks by depth, with the columns kind, tokens and depth."""
    rows = frame[(frame["replica"] == "") & frame["group"].str.match(DEPTH)]
    headline = frame[frame["primary"]][["task", "metric"]].drop_duplicates()
    rows = rows.merge(headline, on=["task", "metric"])
    rows = rows.copy()  # in one piece, so that columns are added fast
    found = rows["task"].str.extract(f"^{TASK.pattern}$")
    rows = rows.assign(kind=found[0], tokens=pd.to_numeric(found[1]))
    rows = select.wanted(rows[rows["kind"].notna()], "long-context task (kick_long)")
    rows = rows.assign(depth=pd.to_numeric(rows["group"].str.extract(DEPTH, expand=False)))
    return select.variant_order(rows)


@figure("depth_by_length", "Long contexts: score by depth and length", _rows)
def depth_by_length(rows: pd.DataFrame) -> Figure:
    """Depth down, length to the right, the score as a shade and a number; a line of panels per variant.

    More variants than MOST are cut at those that come first in tables; the CSV has all.
    """
    labels, kinds = list(dict.fromkeys(rows["label"]))[:MOST], list(dict.fromkeys(rows["kind"]))
    width, height = 1.2 + 1.75 * len(kinds), 0.75 + 1.05 * len(labels)
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(len(labels), len(kinds), squeeze=False)
    lengths = {kind: sorted(set(rows[rows["kind"] == kind]["tokens"])) for kind in kinds}
    for line, label in zip(axes, labels, strict=True):
        for ax, kind in zip(line, kinds, strict=True):
            part = rows[(rows["label"] == label) & (rows["kind"] == kind)]
            _panel(ax, part.pivot_table("value", "depth", "tokens").reindex(columns=lengths[kind]))
            if label == labels[0]:
                ax.set_title(kind)
            if label != labels[-1]:
                ax.tick_params(labelbottom=False)
        line[0].set_ylabel(str(label), rotation=0, ha="right", va="center", color=style.INK, fontsize=7.5)
    drawn.supxlabel(_said(rows), fontsize=8, color=style.QUIET)
    drawn.supylabel(" ")
    return drawn


def _said(rows: pd.DataFrame) -> str:
    """What the axes, numbers and shades are, of how many items, and how wide their intervals can be."""
    said = "tokens of the prompt across, depth of the place down; number and shade: the score in %"
    least, most = int(rows["n"].min()), int(rows["n"].max())
    items = f"{least} to {most} items" if least < most else counted(least, "item")
    wide = 100 * (rows["high"] - rows["low"]).max()
    ends = f"; a 95 % interval is up to {wide:.0f} points wide" if np.isfinite(wide) else ""
    return f"{said}\n{items} per cell{ends}"


def _panel(axes: Axes, table: pd.DataFrame) -> None:
    """One grid: depths down, lengths across."""
    axes.grid(visible=False)
    axes.set_xticks(range(len(table.columns)), [f"{length:g}" for length in table.columns], fontsize=6.5)
    axes.set_yticks(range(len(table.index)), [f"{depth:g} %" for depth in table.index], fontsize=6.5)
    if table.isna().all(axis=None):
        axes.set_xlim(-0.5, len(table.columns) - 0.5)
        axes.text(0.5, 0.5, "not asked", transform=axes.transAxes, ha="center", va="center", fontsize=7)
        return
    values = table.to_numpy(dtype=float)
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (down, across), value in np.ndenumerate(values):
        ink = "white" if value > 0.6 else style.INK
        text = f"{100 * value:.0f}" if np.isfinite(value) else wording.NOTHING
        axes.text(across, down, text, ha="center", va="center", color=ink, fontsize=6.5)
