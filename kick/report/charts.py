"""The page's charts: score against sparsity, pattern and bits, and what perplexity hides."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from markupsafe import Markup

from kick.report import palette, select, svg, wording

# the columns that a chart of levels needs
DRAWN = (
    *select.SECTION,
    "task",
    "setting",
    "title",
    "label",
    "dense",
    "replica",
    "method",
    "place",
    "seed",
    "pattern",
    "sparsity",
    "bits",
    "metric",
    "unit",
    "higher_is_better",
    "value",
    "low",
    "high",
    "noise",
    "order_low",
    "order_high",
    "orders",
    "n",
    "of",
    "stopped",
    "same",
    "primary",
    "verdict",
    "foreign",
    "gap",
    "within_noise",
    "within_orders",
)
MOST = 60.0  # per cent that the perplexity chart shows; more is drawn at its edge
LINES = 16  # variants that the perplexity chart shows even if their perplexity is beyond its edge


def levels(rows: pd.DataFrame) -> Markup | None:
    """A task's headline rows against sparsity, pattern and bits; None without a level or a value."""
    rows = rows[list(DRAWN)]
    if not np.isfinite(rows["value"].astype(float)).any():
        return None
    dense = rows[rows["dense"]]
    plots = [plot for plot in (_sparsity(rows), _patterns(rows), _bits(rows)) if plot]
    if dense.empty or not plots:
        return None
    first = dense.iloc[0]
    unit, factor = first["unit"], wording.UNITS[first["unit"]][0]
    band = wording.noise_band(first)
    values = rows["value"].dropna()
    known = bool(len(values)) and values.min() > 0
    chart = svg.Chart(
        title=f"{wording.task_label(first)}: {wording.metric_label(first['metric'])} by level",
        plots=tuple(plots),
        dense=first["value"] * factor,
        noise=band and (band[0] * factor, band[1] * factor),
        dense_text=f"dense {wording.number(first['value'], unit)}",
        better_up=bool(first["higher_is_better"]),
        log=known and unit == "ratio" and values.max() > 5 * values.min(),
        write=_tick,
    )
    return svg.chart(chart)


_RAISED = str.maketrans("0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def _tick(value: float) -> str:
    """A tick of the y axis, at most six characters wide: "0.5", "20,000", "10\u2079", "2\u00b710\u2079"."""
    if abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"
    digits, _, power = f"{value:.1e}".partition("e")
    ten = f"10{str(int(power)).translate(_RAISED)}"
    return ten if float(digits) == 1 else f"{float(digits):g}\u00b7{ten}"


def _sparsity(rows: pd.DataFrame) -> svg.Plot | None:
    shown = select.level(rows, "sparsity")
    if shown.empty:
        return None
    shown = shown.assign(at=shown["sparsity"] * 100)
    top = float(shown["at"].max())
    ticks = svg.Axis(0, top, 0, 1).ticks()
    start = shown[shown["dense"]].assign(at=0.0)
    lines = _lines(shown[~shown["dense"]], start)
    return svg.Plot("sparsity (%)", tuple((tick, f"{tick:g}") for tick in ticks), (0.0, top), lines)


def _patterns(rows: pd.DataFrame) -> svg.Plot | None:
    shown = select.level(rows, "nm")
    shown = shown[~shown["dense"]]
    if shown.empty:
        return None
    names = sorted(set(shown["pattern"]), key=lambda text: tuple(map(int, text.split(":"))))
    shown = shown.assign(at=shown["pattern"].map(names.index))
    ticks = tuple((float(place), name) for place, name in enumerate(names))
    return svg.Plot("N:M", ticks, (-0.5, len(names) - 0.5), _lines(shown, shown.iloc[:0]))


def _bits(rows: pd.DataFrame) -> svg.Plot | None:
    shown = select.level(rows, "bits")
    if shown.empty:
        return None
    widths = sorted(set(shown["bits"].dropna()), reverse=True)
    shown = shown[~shown["dense"]]
    shown = shown.assign(at=shown["bits"].map(widths.index))
    ticks = tuple((float(place), f"{bits:g}") for place, bits in enumerate(widths))
    return svg.Plot("bits per weight", ticks, (-0.4, len(widths) - 0.6), _lines(shown, shown.iloc[:0]))


def _lines(rows: pd.DataFrame, start: pd.DataFrame) -> tuple[svg.Curve, ...]:
    lines = []
    for name in select.method_order(rows):
        part = rows[rows["method"] == name].sort_values(["at", "seed"])
        points = [*_points(start, title=False), *_points(part)]
        lines.append(svg.Curve(palette.method_look(name), tuple(points), part["at"].nunique() > 1))
    return tuple(lines)


def _points(rows: pd.DataFrame, *, title: bool = True) -> Iterable[svg.Point]:
    for row in select.records(rows):
        factor = wording.UNITS[row["unit"]][0]
        if not math.isfinite(row["value"]):
            continue
        text = f"{row['label']}: {wording.number(row['value'], row['unit'])}"
        text += f" [{wording.span(row['low'], row['high'], row['unit'])}]"
        if not title:
            yield svg.Point(row["at"], row["value"] * factor, math.nan, math.nan, "")
        else:
            names = ("value", "low", "high", "order_low", "order_high")
            value, low, high, *ends = (row[name] * factor for name in names)
            over, said = (ends[0], ends[1]) if row["orders"] > 1 else None, wording.ended(row)
            text += f", {wording.orders(row)}" if over else ""
            text += f"; {said}" if said else ""
            yield svg.Point(row["at"], value, low, high, text, over, hollow=bool(said))


def methods(frame: pd.DataFrame) -> list[tuple[str, Markup]]:
    """(name, sample) of the methods that the charts show, for their legend."""
    rows = pd.concat([select.level(select.headlines(frame), kind) for kind in ("sparsity", "nm", "bits")])
    names = select.method_order(rows[~rows["dense"]])
    return [(name, svg.swatch(palette.method_look(name))) for name in names]


def hides(rows: pd.DataFrame) -> Markup:
    """One line per variant: by how much perplexity says it is worse, and by how much each task does.

    `rows`: as `select.beside_perplexity` gives them. Worse is to the right. Of many variants those whose
    perplexity is beyond the edge are left out: it hides nothing of them.
    """
    everyone = rows.sort_values("ratio", kind="stable").drop_duplicates("label")
    inside = int((100 * (everyone["ratio"] - 1) < MOST).sum())
    labels = list(everyone["label"])[: max(inside, LINES)]
    looks = {task: palette.numbered(place) for place, task in enumerate(select.tasks(rows))}
    left, step, top = 16 + 6.2 * max(map(len, labels)), 22.0, 26.0
    drawn = svg.Drawing(
        760, top + step * len(labels) + 34, "Loss by perplexity and by task, in per cent of dense"
    )
    if more := len(everyone) - len(labels):
        said = f"{more} more, of perplexity worse by more than {MOST:g} %, are not drawn"
        drawn.text(8, top + step * len(labels) + 27, said, "label")
    across = svg.Axis(-15, MOST, left, drawn.width - 14)
    bottom, margin = top + step * len(labels), 100 * select.margin(rows)
    drawn.add(
        "rect", x=across(-margin), y=top - 8, class_="margin", height=bottom - top + 4,
        width=across(margin) - across(-margin),
    )  # fmt: skip
    for tick in across.ticks(8):
        drawn.line([(across(tick), top - 8), (across(tick), bottom - 4)], "axis" if tick == 0 else "grid")
        drawn.text(
            across(tick), bottom + 11, wording.number(tick / 100, "share", signed=True)[:-2], "tick", "middle"
        )
    drawn.text(across(across.high), bottom + 27, "% worse than dense \u2192", "label", "end")
    for place, label in enumerate(labels):
        y = top + step * place + 4
        drawn.text(left - 8, y + 4, label, "label", "end")
        _hidden_line(drawn, rows[rows["label"] == label], (across, y), looks)
    return drawn.render()


def _hidden_line(drawn: svg.Drawing, rows: pd.DataFrame, place: tuple[svg.Axis, float], looks: dict) -> None:
    across, y = place
    ratio = float(rows["ratio"].iloc[0])
    losses = {}
    for row in select.records(rows):
        loss = -100 * row["relative"] * (1 if row["higher_is_better"] else -1)
        losses[(row["task"], row["setting"])] = (loss, row)
    ends = [min(loss, MOST) for loss, _ in losses.values()] + [min(100 * (ratio - 1), MOST)]
    drawn.line([(across(max(min(ends), -15)), y), (across(max(ends)), y)], "grid strong")
    for task, (loss, row) in losses.items():
        text = f"{wording.task_label(row)}: {loss:+.1f} %, {wording.ended(row) or wording.verdict(row)}"
        shown = min(max(loss, -15), MOST)
        hollow = wording.verdict(row) not in ("worse", "better")
        drawn.mark(across(shown), y, looks[task], title=text, hollow=hollow)
    at = across(min(100 * (ratio - 1), MOST))
    drawn.add(
        "rect", Markup("<title>perplexity: {:+.1f} %</title>").format(100 * (ratio - 1)),
        x=at - 1.6, y=y - 8, width=3.2, height=16, class_="mark c-ink",
    )  # fmt: skip


def hides_legend(rows: pd.DataFrame) -> list[tuple[str, Markup]]:
    """(task, sample) of the marks in `hides`."""
    found = []
    for place, task in enumerate(select.tasks(rows)):
        drawn = svg.Drawing(12, 12, "")
        drawn.mark(6, 6, palette.numbered(place))
        found.append((wording.task_label(select.of_task(rows, task).iloc[0]), drawn.render()))
    return found
