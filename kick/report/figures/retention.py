"""What is left of each capability: variant over dense, side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kick.report import palette, select, wording
from kick.report.figures import style
from kick.report.figures.entry import figure

CAPABILITIES = {  # families of tasks -> what they ask of a model, in the order drawn
    "factoid_qa": "knowledge",
    "mcr_qa": "knowledge",
    "icra_qa_closed": "knowledge",
    "icra_qa_open": "reading",
    "conflict_qa": "reading",
    "reasoning": "reasoning",
    "languages_closed": "languages",
    "languages_open": "languages",
    "instruction_following": "instructions",
    "form": "form",
    "code": "code",
    "refusals": "refusals",
    "embeddings": "embeddings",
}
# of four choices; nDCG@10 of one right text among 88; an answer that is written is right by chance in no case
CHANCE = {"mcr_qa": 0.25, "embeddings": 0.052}
KNOWN = 0.5  # of dense's score above chance its lower bound must be: one right answer of 64 divides nothing
MOST = 250.0  # per cent, at which the axis ends


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Headline rows of tasks of a known capability whose dense score is shown to be above chance, and is
    known well enough to divide by."""
    rows = select.headlines(frame)
    rows = rows[rows["family"].isin(list(CAPABILITIES))]
    dense = rows[rows["dense"]]
    chance = dense["family"].map(CHANCE).fillna(0.0)
    known = (dense["low"] - chance) >= KNOWN * (dense["value"] - chance)
    able = dense[(dense["low"] > np.maximum(chance, 1e-9)) & known]
    places = [*select.SECTION, "task", "setting"]
    rows = rows[~rows["dense"]].merge(able[places].drop_duplicates(), on=places)
    rows = rows[rows["relative_low"].notna() & rows["relative"].notna()]
    return select.variant_order(select.wanted(rows, "variant on a task that dense can do"))


@figure("retention", "What is left, by capability", _rows)
def retention(rows: pd.DataFrame) -> Figure:
    """Each variant's score over dense's, in per cent with its 95 % interval, a panel per capability.

    Tasks that dense cannot do beyond chance, or of which its interval is wider than what it does, are not
    drawn: what is left of nothing says nothing.
    """
    rows = rows.assign(capability=rows["family"].map(CAPABILITIES))
    panels = [name for name in dict.fromkeys(CAPABILITIES.values()) if name in set(rows["capability"])]
    labels, tasks = list(dict.fromkeys(rows["label"])), list(dict.fromkeys(rows["task"]))
    drawn = Figure(figsize=(1.9 + 1.5 * len(panels), 1.3 + 0.24 * len(labels)), layout="constrained")
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, panels, strict=True):
        part = rows[rows["capability"] == name]
        own = list(dict.fromkeys(part["task"]))
        for row in select.records(part):
            look = palette.numbered(tasks.index(row["task"]))
            at = labels.index(row["label"]) + 0.5 * ((own.index(row["task"]) + 0.5) / len(own) - 0.5)
            value, low, high = (100 + 100 * row[key] for key in ("relative", "relative_low", "relative_high"))
            ax.hlines(at, low, min(high, MOST), color=look.hex, linewidth=0.9)
            ax.plot(min(value, MOST), at, look.marker, color=look.hex, markersize=4)
            if high > MOST:
                style.unclipped(ax, MOST, at, ">", color=look.hex, markersize=2.5)
        ax.axvline(100, color=style.QUIET, linewidth=0.8)
        ax.set_xlim(-2, min(MOST, max(130.0, ax.get_xlim()[1])))
        ax.set_title(name)
        ax.set_xlabel("% of dense")
        ax.grid(visible=False, axis="y")
        ax.grid(visible=True, axis="x")
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    most = rows.groupby("task")["of"].max()
    titles = {
        row["task"]: f"{wording.task_label(row)}, {wording.count(most[row['task']])}"
        for row in select.records(rows)
    }
    whisker = Line2D(
        [], [], color=style.QUIET, marker=">", markersize=2.5, label="95 % interval, \u25b6 goes on"
    )
    looks = [palette.numbered(place) for place in range(len(tasks))]
    style.key(
        drawn,
        [
            Line2D([], [], color=look.hex, marker=look.marker, label=titles[task])
            for task, look in zip(tasks, looks, strict=True)
        ]
        + [whisker],
    )
    return drawn
