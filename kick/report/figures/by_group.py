"""Multiple choice by discipline, or by category of items."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kick.analysis import groups
from kick.report import palette, select, wording
from kick.report.figures import levels, style
from kick.report.figures.entry import figure

PANELS = 12  # the paper's four disciplines three ways; of more groups a dot per variant can still be read
ACROSS = 4


def _disciplines(frame: pd.DataFrame) -> pd.DataFrame:
    chosen = select.by_group(select.family(frame[frame["replica"] == ""], "mcr_qa"))
    if not set(chosen["group"]) & set(groups.DISCIPLINES):
        chosen = chosen[chosen["group"].isin(sorted(set(chosen["group"]))[:8])]
    return levels.leveled(chosen, "multiple choice with subjects")


@figure("mcr_qa_by_group", "Multiple choice by discipline", _disciplines, paper="Fig 3")
def mcr_qa_by_group(rows: pd.DataFrame) -> Figure:
    """Accuracy by discipline (MMLU), as the paper's panels, or by category, a dot per variant."""
    names = list(dict.fromkeys(rows["group"]))
    if len(names) * rows["kind"].nunique() <= PANELS:
        return levels.three_ways(rows, [(name, rows[rows["group"] == name]) for name in names])
    return _dots(rows, names)


def _dots(rows: pd.DataFrame, names: list[str]) -> Figure:
    """A panel per group: a line per variant with its score and interval, dense as a line down."""
    rows = rows.drop_duplicates(["group", "variant", "metric"])
    labels = list(dict.fromkeys(select.variant_order(rows[~rows["dense"]])["label"]))
    across = min(ACROSS, len(names))
    down = -(-len(names) // across)
    size = (1.5 + 1.45 * across, 0.55 + down * (0.75 + 0.17 * len(labels)))
    drawn = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06))
    axes = drawn.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        _group(ax, rows[rows["group"] == name], labels)
        ax.set_xlabel("accuracy (%)", fontsize=7)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    axes[0].set_xlim(0, 100)
    style.legend(drawn, select.method_order(rows[~rows["dense"]]), [style.interval_key(), style.dense_key()])
    return drawn


def _group(axes: Axes, rows: pd.DataFrame, labels: list[str]) -> None:
    dense = rows[rows["dense"]]
    for value in style.scaled(dense, "value"):
        axes.axvline(value, color=style.INK, linestyle=(0, (4, 2)), linewidth=0.8)
    for row in select.records(rows[~rows["dense"]]):
        look, place = palette.method_look(row["method"]), labels.index(row["label"])
        value, low, high = (row[name] * wording.UNITS[row["unit"]][0] for name in ("value", "low", "high"))
        axes.hlines(place, low, high, color=look.hex, linewidth=0.9, alpha=0.7)
        style.unclipped(axes, value, place, look.marker, color=look.hex, markersize=3.5)
    axes.set_title(f"{rows['group'].iloc[0]}, n = {np.nanmax(rows['n']):g}", fontsize=7.5)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
