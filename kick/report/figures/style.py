"""Look of figures: a palette that colour-blind readers can tell apart, quiet axes, a paper's sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kick.report import palette, wording

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, QUIET, FAINT = "#222222", "#6b6b6b", "#d9d9d9"
NOISE = "#bdbdbd"
TITLE = 28  # characters of a panel's title that fit beside the next panel's
ORANGE, SKY, GREEN, BLUE, RED = (palette.COLORS[name] for name in ("orange", "sky", "green", "blue", "red"))
MANY, WIDE = 8, 5.0  # entries of a long legend, and the width that it needs, in inches
LINE = 0.17  # the height of a legend's line, in inches
HALO = [patheffects.withStroke(linewidth=1.6, foreground="white")]  # of text that lines may cross


def settings() -> dict[RcKeyType, Any]:
    """matplotlib's settings for all figures, to be used with `matplotlib.rc_context`."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [name for name in ("Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans") if name in there]
    return {
        "font.family": fonts,
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 7,
        "axes.labelsize": 8,
        "axes.labelcolor": QUIET,
        "axes.edgecolor": QUIET,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.4,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "lines.linewidth": 1.4,
        "lines.markersize": 4,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
    }


def panels(
    count: int, *, columns: int = 3, width: float = 2.35, height: float = 1.95
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most `columns` beside one another; sizes in inches per panel."""
    columns = min(columns, count)
    lines = -(-count // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08)
    figure = Figure(figsize=(width * columns + 0.3, height * lines + 0.45), layout=layout)
    axes = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for spare in axes[count:]:
        spare.remove()
    return figure, list(axes[:count])


def legend(figure: Figure, methods: Sequence[str], extra: Sequence[Line2D | Patch] = ()) -> None:
    """One legend for all panels, above them."""
    handles: list[Any] = []
    for name in methods:
        style = palette.method_look(name)
        handles.append(Line2D([], [], color=style.hex, marker=style.marker, linestyle=style.line, label=name))
    key(figure, [*handles, *extra])


def key(figure: Figure, handles: Sequence[Any]) -> None:
    """The legend of these handles above all panels, in as many lines as the figure's width asks for.

    A figure that is too small for its legend grows: panels keep their size.
    """
    if not handles:
        return
    widths = [0.62 + 0.062 * len(handle.get_label()) for handle in handles]
    if len(handles) > MANY:
        figure.set_figwidth(max(figure.get_figwidth(), WIDE))
    columns, lines = _columns(widths, figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + LINE * max(0, lines - 2))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, handlelength=2.0, columnspacing=1.3
    )


def _columns(widths: Sequence[float], room: float) -> tuple[int, int]:
    """Columns and lines of a legend, filled column by column: as few lines as the room allows."""
    for lines in range(1, len(widths) + 1):
        columns = [max(widths[at : at + lines]) for at in range(0, len(widths), lines)]
        if sum(columns) <= room:
            return len(columns), lines
    return 1, len(widths)


def scaled(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column in readers' units: shares in percent."""
    return rows[name] * rows["unit"].map(lambda unit: wording.UNITS[unit][0]).astype(float)


def head(axes: Axes, title: str, label: str = "") -> None:
    """A panel's title, left, in lines of TITLE characters, and the name of its y axis."""
    axes.set_title(textwrap.fill(title, TITLE))
    axes.set_ylabel(label)


def dense_line(axes: Axes, rows: pd.DataFrame, *, label: bool = True) -> None:
    """The dense score as a dashed line with its number, and the noise band around it."""
    dense = rows[rows["dense"]]
    if dense.empty:
        return
    value, band = float(scaled(dense, "value").iloc[0]), wording.noise_band(dense.iloc[0])
    axes.axhline(value, color=INK, linestyle=(0, (4, 2)), linewidth=0.8, zorder=2)
    if band:
        factor = wording.UNITS[dense["unit"].iloc[0]][0]
        axes.axhspan(band[0] * factor, band[1] * factor, color=NOISE, alpha=0.35, linewidth=0, zorder=0)
    if label:
        text = f"dense {wording.number(float(dense['value'].iloc[0]), dense['unit'].iloc[0])}"
        # the side that worse scores leave free; below 0 are the axis's numbers
        above = bool(dense["higher_is_better"].iloc[0]) or value == 0
        axes.annotate(
            text, (1, value), xycoords=("axes fraction", "data"), xytext=(-1, 2 if above else -2),
            textcoords="offset points", ha="right", va="bottom" if above else "top", fontsize=7, color=INK,
            zorder=5, path_effects=HALO,
        )  # fmt: skip


def estimates(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of cells that ended before all items were asked; published rows are not."""
    stopped = rows["stopped"] if "stopped" in rows else pd.Series("", rows.index)
    return stopped.fillna("").ne("")


def estimate_key() -> Line2D:
    """The legend's entry for marks of such rows."""
    return Line2D(
        [], [], color=INK, marker="o", markerfacecolor="white", linestyle="", label="hollow: ended early"
    )


def unclipped(axes: Axes, x: Any, y: Any, marker: str, **how: Any) -> None:
    """Marks that are whole at the axis's edge too; the layout takes no notice of them."""
    for line in axes.plot(x, y, marker=marker, linestyle="", clip_on=False, zorder=4, **how):
        line.set_in_layout(False)


def measured(rows: pd.DataFrame) -> str:
    """The metric of a panel's rows with its unit and how many items the task has."""
    label = wording.metric_label(rows.iloc[0]["metric"])
    of = rows["of"].fillna(rows["n"]) if "of" in rows else rows["n"]
    return f"{label}, n = {of.max():g}" if of.notna().any() else label


def interval_key() -> Line2D:
    """The legend's entry for intervals over items."""
    return Line2D(
        [], [], color=QUIET, marker="|", markersize=9, linestyle="", label="whisker, band: 95 % interval"
    )


def dense_key() -> Line2D:
    """The legend's entry for dense's score."""
    return Line2D([], [], color=INK, linestyle=(0, (4, 2)), linewidth=0.8, label="dense")


def noise_key() -> Patch:
    """The legend's entry for the noise band."""
    return Patch(facecolor=NOISE, alpha=0.35, label="noise of dense replicas")


def orders(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    """The range of each score over orders of the calibration, at the column `at`, as a thick pale line."""
    rows = rows[rows["orders"] > 1] if "orders" in rows else rows.iloc[:0]
    low, high = scaled(rows, "order_low"), scaled(rows, "order_high")
    axes.vlines(rows["at"], low, high, color=color, linewidth=4, alpha=0.35)


def orders_key(rows: pd.DataFrame) -> list[Patch | Line2D]:
    """The legend's entry for the ranges over orders; none if no row has one."""
    if "orders" not in rows or not (rows["orders"] > 1).any():
        return []
    return [Line2D([], [], color=QUIET, linewidth=4, alpha=0.5, label="other orders of the calibration")]


def percent_axis(axes: Axes, values: Sequence[float]) -> None:
    """Sparsity on the x axis, in percent."""
    axes.set_xlabel("sparsity (%)")
    top = max(values, default=1) or 1
    axes.set_xlim(-0.03 * top, top * 1.04)


def from_zero(axes: Axes, rows: pd.DataFrame) -> None:
    """A linear y axis that starts at 0, if no score or interval is below: heights can be compared."""
    ends = rows[["value", "low"]].to_numpy(float)
    if axes.get_yscale() == "linear" and not (ends < 0).any():
        high = np.nanmax(
            np.append(scaled(rows, "high").to_numpy(float), scaled(rows, "value").to_numpy(float))
        )
        axes.set_ylim(0, high * 1.06 if np.isfinite(high) and high > 0 else None)


def room_below(axes: Axes, rows: pd.DataFrame) -> None:
    """Room for the name of dense's line under it, where a logarithmic axis would end at the line."""
    if axes.get_yscale() == "log" and not rows["higher_is_better"].any():
        low, high = axes.get_ylim()
        axes.set_ylim(low / (high / low) ** 0.1, high)


def same_y(axes: Sequence[Axes]) -> None:
    """One y axis for several panels: the widest of theirs, by logarithm if one of them is."""
    used = [one for one in axes if one.axison]
    log = any(one.get_yscale() == "log" for one in used)
    lows, highs = zip(*(one.get_ylim() for one in used), strict=True) if used else ((), ())
    for one in used:
        if log:
            by_logarithm(one)
        low = min((low for low in lows if low > 0 or not log), default=None)
        one.set_ylim(low, max(highs))


def by_logarithm(axes: Axes) -> None:
    """A logarithmic y axis with its numbers written out."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))


def log_if_wide(axes: Axes, values: pd.Series, unit: str) -> None:
    """A logarithmic y axis if ratios such as perplexity span more than a factor of five."""
    known = values[values > 0]
    if unit == "ratio" and len(known) and known.max() > 5 * known.min():
        by_logarithm(axes)
