"""What is kept of dense's scores against what a variant costs, with the front that no other beats in both.

The costs: packed size, bits per weight, and tokens per second where `kick cost` measured them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from kick.analysis.ranking import Rank
from kick.report import palette, select, svg, wording

WIDTH, HEIGHT = 760.0, 300.0
LEAST = 3  # variants that a chart needs


@dataclass(frozen=True)
class CostAxis:
    """A cost: its column, what readers call it, the factor to their unit, its text, which way is good."""

    column: str
    name: str
    factor: float
    say: Callable[[float], str]
    less: bool = True


SIZE = CostAxis("bytes", "packed size (MB)", 1e-6, wording.megabytes)
AXES = (
    SIZE,
    CostAxis("bits_per_weight", "bits per weight", 1.0, lambda bits: f"{bits:.3g} bits"),
    CostAxis("decode", "measured speed (tokens per second)", 1.0, lambda speed: f"{speed:.3g}/s", less=False),
)


@dataclass(frozen=True)
class CostPoint:
    """A variant: its cost, the share of dense's scores kept, its method."""

    label: str
    method: str
    cost: float
    kept: float


@dataclass(frozen=True)
class Tradeoff:
    """A chart, what its cost is called, and its front in words."""

    name: str
    chart: Markup
    front: str


def tradeoffs(frame: pd.DataFrame, ranks: Mapping[str, Rank]) -> tuple[Tradeoff, ...]:
    """A chart per cost that at least three variants have, and that differs between them."""
    made = [(axis, chart(frame, ranks, axis)) for axis in AXES]
    return tuple(Tradeoff(axis.name, drawn, said(frame, ranks, axis)) for axis, drawn in made if drawn)


def points(frame: pd.DataFrame, ranks: Mapping[str, Rank], axis: CostAxis = SIZE) -> list[CostPoint]:
    """The ranked variants whose cost is known, dense among them, the cheapest first."""
    rows = select.by_label(frame[frame["replica"] == ""])
    found = [
        CostPoint(label, row["method"], float(row[axis.column]), ranks[label].kept)
        for label, row in rows.items()
        if label in ranks and wording.known(row[axis.column])
    ]
    return sorted(found, key=lambda one: (one.cost if axis.less else -one.cost, -one.kept))


def unbeaten(found: Sequence[CostPoint], ranks: Mapping[str, Rank]) -> list[CostPoint]:
    """The front of those that are ranked together: variants that train or see task data are not in it."""
    return front([one for one in found if not ranks[one.label].apart])


def front(found: Sequence[CostPoint]) -> list[CostPoint]:
    """Those that no other beats: every cheaper one keeps less. Of `points`, which are the cheapest first."""
    best: list[CostPoint] = []
    for one in found:
        if not best or one.kept > best[-1].kept:
            best.append(one)
    return best


def chart(frame: pd.DataFrame, ranks: Mapping[str, Rank], axis: CostAxis = SIZE) -> Markup | None:
    """The chart; None with fewer than three variants of known cost, or if none differ in it."""
    found = points(frame, ranks, axis)
    if len(found) < LEAST or len({one.cost for one in found}) == 1:
        return None
    drawn = svg.Drawing(WIDTH, HEIGHT, f"What is kept of dense's scores against {axis.name}")
    ends = [one.cost * axis.factor for one in found]
    pad = (max(ends) - min(ends)) * 0.06
    across = svg.Axis(max(0.0, min(ends) - pad), max(ends) + pad, 44, WIDTH - 12)
    up = svg.Axis(0.0, max(1.02, *(one.kept for one in found)) * 100, HEIGHT - 38, 12)
    _frame(drawn, across, up, axis)
    best = unbeaten(found, ranks)
    drawn.line([(across(one.cost * axis.factor), up(100 * one.kept)) for one in best], "front", "4 3")
    for one in found:
        text = f"{one.label}: {axis.say(one.cost)}, keeps {100 * one.kept:.1f} %"
        text += f" (rank {ranks[one.label].text})"
        place = (across(one.cost * axis.factor), up(100 * one.kept))
        drawn.mark(*place, palette.method_look(one.method), title=text, hollow=one not in best)
        if one in best:
            _name(drawn, one.label, *place)
    return drawn.render()


def _frame(drawn: svg.Drawing, across: svg.Axis, up: svg.Axis, axis: CostAxis) -> None:
    for value in up.ticks():
        drawn.line([(44, up(value)), (WIDTH - 12, up(value))], "grid")
        drawn.text(39, up(value) + 3.5, f"{value:g}", "tick", "end")
    for value in across.ticks(8):
        drawn.text(across(value), HEIGHT - 24, f"{value:g}", "tick", "middle")
    drawn.line([(44, HEIGHT - 38), (WIDTH - 12, HEIGHT - 38)], "axis")
    better = "smaller is better \u2190" if axis.less else "larger is better \u2192"
    drawn.text(44, HEIGHT - 6, "\u2191 kept of dense's scores (%)", "label")
    drawn.text(WIDTH - 12, HEIGHT - 6, f"{axis.name}, {better}", "label", "end")


def _name(drawn: svg.Drawing, label: str, x: float, y: float) -> None:
    end = x > WIDTH * 0.8
    at = (x + (-7 if end else 7), y + (14 if y < 40 else -6))
    drawn.text(*at, label, "label halo", "end" if end else "start")


def said(frame: pd.DataFrame, ranks: Mapping[str, Rank], axis: CostAxis = SIZE) -> str:
    """The front in words, the cheapest first: for readers who do not see the chart."""
    best = unbeaten(points(frame, ranks, axis), ranks)
    return ", ".join(f"{one.label} ({axis.say(one.cost)}, {100 * one.kept:.0f} %)" for one in best)
