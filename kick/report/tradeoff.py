"""What is kept of dense's scores against size, with the front of variants that no other beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from kick.analysis.ranking import Rank
from kick.report import palette, select, svg, wording

WIDTH, HEIGHT = 760.0, 300.0


@dataclass(frozen=True)
class SizePoint:
    """A variant: its bytes in an ideal packed format, the share of dense's scores kept, its method."""

    label: str
    method: str
    size: float
    kept: float


def points(frame: pd.DataFrame, ranks: Mapping[str, Rank]) -> list[SizePoint]:
    """The ranked variants whose size is known, dense among them, the smallest first."""
    rows = select.by_label(frame[frame["replica"] == ""])
    found = [
        SizePoint(label, row["method"], float(row["bytes"]), ranks[label].kept)
        for label, row in rows.items()
        if label in ranks and wording.known(row["bytes"])
    ]
    return sorted(found, key=lambda one: (one.size, -one.kept))


def unbeaten(found: Sequence[SizePoint], ranks: Mapping[str, Rank]) -> list[SizePoint]:
    """The front of those that are ranked together: variants that train or see task data are not in it."""
    return front([one for one in found if not ranks[one.label].apart])


def front(found: Sequence[SizePoint]) -> list[SizePoint]:
    """Those that no other beats: every smaller one keeps less. Of `points`, which are in order of size."""
    best: list[SizePoint] = []
    for one in found:
        if not best or one.kept > best[-1].kept:
            best.append(one)
    return best


def chart(frame: pd.DataFrame, ranks: Mapping[str, Rank]) -> Markup | None:
    """The chart; None with fewer than three variants of known size."""
    found = points(frame, ranks)
    if len(found) < 3:
        return None
    best = unbeaten(found, ranks)
    drawn = svg.Drawing(WIDTH, HEIGHT, "What is kept of dense's scores against packed size")
    low, high = min(one.size for one in found) / 1e6, max(one.size for one in found) / 1e6
    pad = (high - low) * 0.06 or 1.0
    across = svg.Axis(max(0.0, low - pad), high + pad, 44, WIDTH - 12)
    up = svg.Axis(0.0, max(1.02, *(one.kept for one in found)) * 100, HEIGHT - 38, 12)
    for value in up.ticks():
        drawn.line([(44, up(value)), (WIDTH - 12, up(value))], "grid")
        drawn.text(39, up(value) + 3.5, f"{value:g}", "tick", "end")
    for value in across.ticks(8):
        drawn.text(across(value), HEIGHT - 24, f"{value:g}", "tick", "middle")
    drawn.line([(44, HEIGHT - 38), (WIDTH - 12, HEIGHT - 38)], "axis")
    drawn.text(WIDTH - 12, HEIGHT - 6, "packed size (MB), smaller is better \u2190", "label", "end")
    drawn.line([(across(one.size / 1e6), up(100 * one.kept)) for one in best], "front", "4 3")
    for one in found:
        x, y = across(one.size / 1e6), up(100 * one.kept)
        text = f"{one.label}: {wording.megabytes(one.size)}, keeps {100 * one.kept:.1f} %"
        text += f" (rank {ranks[one.label].text})"
        drawn.mark(x, y, palette.method_look(one.method), title=text, hollow=one not in best)
        if one in best:
            end = x > WIDTH * 0.8
            drawn.text(
                x + (-7 if end else 7),
                y + (14 if y < 40 else -6),
                one.label,
                "label halo",
                "end" if end else "start",
            )
    return drawn.render()


def said(frame: pd.DataFrame, ranks: Mapping[str, Rank]) -> str:
    """The front in words, the smallest first: for readers who do not see the chart."""
    best = unbeaten(points(frame, ranks), ranks)
    return ", ".join(f"{one.label} ({wording.megabytes(one.size)}, {100 * one.kept:.0f} %)" for one in best)
