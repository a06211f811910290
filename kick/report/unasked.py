"""What the cells that ended early did not ask, and what it would cost to ask."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from kick.report import select, wording
from kick.sweep.progress.board import duration


@dataclass(frozen=True)
class Unasked:
    """A summary, and a line per cell: variant, task, asked, how it ended, items not asked, their time."""

    summary: str
    lines: tuple[tuple[str, ...], ...]


HEADS = ("variant", "task", "asked", "ended", "not asked", "would take")


def unasked(frame: pd.DataFrame) -> Unasked | None:
    """Of the cells of a section; None if all items of all cells were asked."""
    rows = select.variant_order(select.headlines(frame, replicas=True))
    early = rows[rows["stopped"] != ""]
    if early.empty:
        return None
    asked, all_items = int((rows["n"] + rows["missing"]).sum()), int(rows["of"].sum())
    time = _time(early["unasked_seconds"].sum(skipna=False))
    share = f"{100 * asked / all_items:.0f}\u00a0%"
    summary = (
        f"{len(early)} of {len(rows)} cells ended before all of their items were asked: {asked:,} of "
        f"{all_items:,} items were ({share}). The other {all_items - asked:,} would "
        f"take {time} of answering at each cell's own rate, beside loading and compressing the models; a run "
        "without stopping asks these alone."
    )
    return Unasked(summary, tuple(_line(row) for row in select.records(early)))


def _line(row: wording.Row) -> tuple[str, ...]:
    asked = int(row["n"] + row["missing"])
    return (
        str(row["label"]),
        wording.task_label(row),
        f"{asked} of {row['of']}",
        wording.ended(row, why=True).partition(", ")[2],
        str(row["of"] - asked),
        _time(row["unasked_seconds"]),
    )


def _time(seconds: float) -> str:
    return duration(seconds if wording.known(seconds) else None)
