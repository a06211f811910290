"""What training brought back of what pruning took, a panel per task."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kick.report import palette, select, wording
from kick.report.figures import style
from kick.report.figures.entry import figure

LEAST, MOST = -50.0, 150.0  # per cent, at which the axis ends
WIDTH = 18  # characters of a title that fit above a panel


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Headline rows with an interval of the share: pruning is shown to take something there."""
    rows = select.headlines(frame)
    rows = rows[rows["recovered_low"].notna()]
    return select.variant_order(
        select.wanted(rows, "recovered variant on a task of which pruning is shown to take something")
    )


@figure("recovered", "What training brought back", _rows)
def recovered(rows: pd.DataFrame) -> Figure:
    """(recovered - pruned) / (dense trained alike - pruned) in per cent, with its 95 % interval over items.

    0 is the pruned model, 100 the dense one with the same training. Colours tell what was pruned. Seeds of a
    form are lines of their own, so that their spread is seen beside the intervals.
    """
    tasks = list(dict.fromkeys(rows["task"]))
    labels, pruned = list(dict.fromkeys(rows["label"])), list(dict.fromkeys(rows["recovered_of"]))
    drawn = Figure(figsize=(2.4 + 1.5 * len(tasks), 1.2 + 0.22 * len(labels)), layout="constrained")
    axes = drawn.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for ax, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task]
        for row in select.records(part):
            look, at = palette.numbered(pruned.index(row["recovered_of"])), labels.index(row["label"])
            shares = [100 * row[key] for key in ("recovered", "recovered_low", "recovered_high")]
            value, low, high = np.clip(shares, LEAST, MOST)
            ax.hlines(at, low, high, color=look.hex, linewidth=0.9)
            ax.plot(value, at, look.marker, color=look.hex, markersize=4)
            if min(shares) < LEAST:
                style.unclipped(ax, LEAST, at, "<", color=look.hex, markersize=2.5)
            if max(shares) > MOST:
                style.unclipped(ax, MOST, at, ">", color=look.hex, markersize=2.5)
        for at in (0, 100):
            ax.axvline(at, color=style.QUIET, linewidth=0.8)
        ax.set_xlim(LEAST - 5, MOST + 5)
        ax.set_title(textwrap.fill(wording.task_label(part.iloc[0]), WIDTH))
        ax.set_xlabel("% brought back")
        ax.grid(visible=False, axis="y")
        ax.grid(visible=True, axis="x")
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    looks = [palette.numbered(place) for place in range(len(pruned))]
    style.key(
        drawn,
        [
            Line2D([], [], color=look.hex, marker=look.marker, label=name)
            for name, look in zip(pruned, looks, strict=True)
        ],
    )
    return drawn
