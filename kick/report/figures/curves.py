"""Panels of a score against how much was compressed: sparsity, N:M patterns, bits.

Methods are drawn beside one another, a little apart, so that equal ones do not hide each other. A line joins
levels that were measured; to a method's only level none leads, but for a dotted one from dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes

from kick.report import palette, select
from kick.report.figures import style

APART = 0.018  # of the axis, between two methods at one level
WIDEST = 0.11  # of the axis, between the first and the last of many
BANDS = 3  # up to so many methods have bands in one panel; of more only whiskers can be told apart
LEVELS = 4  # a band takes so many levels; between fewer it would claim what was not measured


def curve(axes: Axes, rows: pd.DataFrame, column: str, reach: float | None = None) -> None:
    """One metric against a column of numbers: a line with intervals per method; dense as a line.

    Several calibration seeds of a recipe are joined at their mean, with a dot for each. `reach`: the width of
    the axis, if it is not that of the numbers.
    """
    rows = rows.assign(at=rows[column].fillna(0.0))
    dense = rows[rows["dense"]]
    style.dense_line(axes, rows)
    start = dense.assign(at=0.0) if column == "sparsity" else dense.iloc[:0]
    if len(start):
        low, high = (style.scaled(start, name).iloc[0] for name in ("low", "high"))
        axes.vlines(0, low, high, color=style.INK, linewidth=0.8)
    methods = select.method_order(rows[~rows["dense"]])
    reach = reach or float(rows["at"].max() - rows["at"].min()) or 1.0
    for name, shift in zip(methods, shifts(len(methods), reach), strict=True):
        part = rows[rows["method"] == name]
        part = part.assign(at=part["at"] + shift)
        _interval(axes, part, palette.method_look(name), len(methods))
        style.orders(axes, part, palette.method_look(name).hex)
        _line(axes, part, start, name)
    style.log_if_wide(axes, rows["value"], rows["unit"].iloc[0])
    style.from_zero(axes, rows)
    style.room_below(axes, rows)


def shifts(count: int, reach: float) -> list[float]:
    """How far each of `count` methods is moved along an axis of width `reach`, in order."""
    step = reach * min(APART, WIDEST / max(count - 1, 1))
    return [step * (number - (count - 1) / 2) for number in range(count)]


def _interval(axes: Axes, rows: pd.DataFrame, look: palette.Look, methods: int) -> None:
    """The interval over items: whiskers, or a band over many levels of few methods."""
    ends = pd.DataFrame({"at": rows["at"], **{name: style.scaled(rows, name) for name in ("low", "high")}})
    mean = ends.groupby("at").mean()
    if methods <= BANDS and len(mean) >= LEVELS:
        axes.fill_between(mean.index, mean["low"], mean["high"], color=look.hex, alpha=0.12, linewidth=0)
    else:
        axes.vlines(mean.index, mean["low"], mean["high"], color=look.hex, alpha=0.6, linewidth=0.8)


def _line(axes: Axes, rows: pd.DataFrame, dense: pd.DataFrame, method: str) -> None:
    look = palette.method_look(method)
    scores = pd.DataFrame({"at": rows["at"], "value": style.scaled(rows, "value")})
    mean = scores.groupby("at")["value"].mean()
    start = pd.Series(style.scaled(dense, "value").to_numpy(), dense["at"], dtype=float)
    whole = pd.concat([start, mean])
    if len(mean) > 1:
        axes.plot(whole.index, whole, color=look.hex, linestyle=look.line)
    elif len(start):
        axes.plot(whole.index, whole, color=look.hex, linestyle=(0, (1, 3)), linewidth=0.8)
    marks(axes, mean, style.estimates(rows).groupby(rows["at"]).any(), look)
    again = scores[scores.duplicated("at", keep=False)]
    axes.plot(again["at"], again["value"], ".", color=look.hex, markersize=3, alpha=0.6)


def marks(axes: Axes, mean: pd.Series, early: pd.Series, look: palette.Look) -> None:
    """The marks of scores by their place, hollow where the cell ended early; none is cut at the axis."""
    for face, shown in ((look.hex, mean[~early]), ("white", mean[early])):
        style.unclipped(axes, shown.index, shown, look.marker, color=look.hex, markerfacecolor=face)


def sparsity_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """A task's score against sparsity in percent."""
    curve(axes, rows.assign(sparsity=rows["sparsity"] * 100), "sparsity")
    style.percent_axis(axes, list(rows["sparsity"] * 100))


def bits_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """A task's score against bits per weight, fewer to the right, evenly spaced."""
    levels = sorted(set(rows["bits"].dropna()), reverse=True)
    place = {bits: number for number, bits in enumerate(levels)}
    _places(axes, rows.assign(place=rows["bits"].map(place)), [f"{bits:g}" for bits in levels])
    axes.set_xlabel("bits per weight")


def nm_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """A task's score by N:M pattern, dense as a line."""
    ours = rows[~rows["dense"]]
    patterns = sorted(set(ours["pattern"]), key=lambda text: tuple(map(int, text.split(":"))))
    if not patterns:
        style.dense_line(axes, rows)
        return
    place = {pattern: number for number, pattern in enumerate(patterns)}
    _places(axes, rows.assign(place=rows["pattern"].map(place)), patterns)
    axes.set_xlabel("N:M pattern")


def _places(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    """Evenly spaced levels with these names, their numbers in the column `place`."""
    curve(axes, rows, "place", reach=float(len(names)))
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)


PANELS: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
    "sparsity": sparsity_panel,
    "nm": nm_panel,
    "bits": bits_panel,
}
