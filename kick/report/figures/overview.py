"""All variants at a glance: differences to dense, what perplexity hides, closed against open book."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kick.analysis import pairs
from kick.analysis.verdicts import WITHIN_NOISE, WITHIN_ORDERS
from kick.report import palette, select, wording
from kick.report.figures import levels, style
from kick.report.figures.entry import figure


def _differences(frame: pd.DataFrame) -> pd.DataFrame:
    rows = select.headlines(frame)
    rows = rows[~rows["dense"] & rows["dense_value"].ne(0) & (rows["verdict"] != "")]
    return select.variant_order(select.wanted(rows, "variant with a verdict"))


@figure("differences", "Differences to dense, with verdicts", _differences)
def differences(rows: pd.DataFrame) -> Figure:
    """Every variant's change as a share of the dense score, one column per task; better is to the right.

    Whiskers are intervals of the ratio, which of a score that is never negative do not pass -100 %.
    """
    tasks, labels = select.tasks(rows), list(dict.fromkeys(rows["label"]))
    width, height = 1.7 + 1.35 * len(tasks), 1.1 + 0.19 * len(labels)
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for ax, task in zip(axes, tasks, strict=True):
        _forest(ax, select.of_task(rows, task), labels)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    absent = {"", *({WITHIN_ORDERS} if not rows["within_orders"].any() else ())}
    looks = {name: look for name, look in palette.VERDICTS.items() if name not in absent}
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=look.hex, marker=look.marker, markerfacecolor=_face(name, look), label=name)
        for name, look in looks.items()
    ]
    if style.estimates(rows).any():
        handles.append(Line2D([], [], color=style.INK, linestyle=":", label="dotted: ended early"))
    within = f"within {wording.percent(select.margin(rows))} of dense"
    handles.append(Patch(facecolor=style.SKY, alpha=0.22, label=within))
    handles.append(
        Line2D([], [], color=style.INK, linewidth=1.1, label="95 % interval (\u2039 \u203a: goes on)")
    )
    style.key(drawn, [*handles, *style.orders_key(rows)])
    return drawn


def _face(verdict: str, look: palette.Look) -> str:
    """Hollow if nothing was shown."""
    return "white" if verdict in ("undecided", WITHIN_NOISE, WITHIN_ORDERS) else look.hex


def _forest(axes: Axes, rows: pd.DataFrame, labels: list[str]) -> None:
    shown = rows.assign(
        **{
            name: rows[of] * 100
            for name, of in (("at", "relative"), ("first", "relative_low"), ("second", "relative_high"))
        }
    )
    up = 1 if rows["higher_is_better"].iloc[0] else -1
    margin = 100 * select.margin(rows)
    axes.axvspan(-margin, margin, color=style.SKY, alpha=0.22, linewidth=0, zorder=0)
    axes.axvline(0, color=style.INK, linewidth=0.6, zorder=1)
    ends = shown[["at", "first", "second"]]
    reach = min(110.0, max(12.0, float(ends.abs().max().max()) * 1.05))
    for _, row in shown.iterrows():
        verdict, place = wording.verdict(row), labels.index(row["label"])
        look = palette.VERDICTS[verdict]
        line = ":" if row["stopped"] else "-"
        axes.plot([row["first"], row["second"]], [place] * 2, line, color=look.hex, linewidth=1.1, zorder=2)
        if row["orders"] > 1:
            over = [100 * (row[end] / row["dense_value"] - 1) for end in ("order_low", "order_high")]
            axes.plot(over, [place, place], color=look.hex, linewidth=4, alpha=0.35, zorder=1)
        at = np.clip(row["at"], -reach, reach)
        mark = "<" if at != row["at"] else look.marker  # worse is to the left, beyond the axis
        axes.plot(
            at, place, mark, color=look.hex, markerfacecolor=_face(verdict, look), markersize=4, zorder=3
        )
    best = min(reach, max(12.0, float((ends * up).max().max()) * 1.2))
    axes.set_xlim(-reach * 1.05 * up, best * up)  # better is to the right, so a loss's axis runs backwards
    _cut(axes, shown, labels)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    first = rows.iloc[0]
    axes.set_title(_short(wording.task_label(first)), fontsize=7.5)
    axes.set_xlabel(f"change, % of dense\n{wording.count(rows['of'].max())}", fontsize=7)


def _cut(axes: Axes, rows: pd.DataFrame, labels: list[str]) -> None:
    """An arrow at the axis's end for each interval that goes on beyond it."""
    left, right = map(float, axes.get_xlim())
    for row in select.records(rows):
        color, place = palette.VERDICTS[wording.verdict(row)].hex, labels.index(row["label"])
        ends = sorted((row["first"], row["second"]), reverse=left > right)
        turn = 1 if left < right else -1
        for end, beyond, mark in (
            (left, turn * ends[0] < turn * left, "$\u2039$"),
            (right, turn * ends[1] > turn * right, "$\u203a$"),
        ):
            if beyond:
                style.unclipped(axes, end, place, mark, color=color, markersize=4.5)


def _short(title: str, width: int = 18) -> str:
    """The title in lines of about `width` characters."""
    lines = [""]
    for word in title.split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------- perplexity


@figure("perplexity_hides", "What perplexity hides", select.beside_perplexity, paper="Fig 1")
def perplexity_hides(rows: pd.DataFrame) -> Figure:
    """Each task's change against the rise of perplexity; the shaded corner is hidden from it."""
    tasks = select.tasks(rows)
    drawn, axes = style.panels(len(tasks), height=2.1)
    for ax, task in zip(axes, tasks, strict=True):
        _against(ax, select.of_task(rows, task))
    within = wording.percent(select.margin(rows))
    said = f"perplexity within {within}, task more than {within} down"
    corner = Patch(facecolor=style.ORANGE, alpha=0.2, label=said)
    filled = Line2D([], [], color=style.INK, marker="o", linestyle="", label="filled: loss shown")
    whisker = Line2D(
        [], [], color=style.QUIET, marker="^", markersize=2.5, label="95 % interval, \u25b2 goes on"
    )
    style.legend(drawn, select.method_order(rows), [filled, corner, whisker])
    return drawn


RISE = 20.0  # times dense's perplexity, beyond which it hides nothing


def _against(axes: Axes, rows: pd.DataFrame) -> None:
    beyond = rows["ratio"] > RISE
    rows = rows[~beyond] if not beyond.all() else rows
    right = max(1.3, float(rows["ratio"].max()) * 1.1)
    sign = np.where(rows["higher_is_better"], 100.0, -100.0)
    shown = rows.assign(at=rows["relative"] * sign)
    lowest = np.minimum(shown["relative_low"] * sign, shown["relative_high"] * sign)
    floor = min(-20.0, float(lowest.min()) * 1.05)
    margin = select.margin(rows)
    axes.add_patch(
        Rectangle(
            (0.9, floor), 0.1 + margin, -100 * margin - floor, color=style.ORANGE, alpha=0.2, linewidth=0
        )
    )
    axes.axhline(0, color=style.INK, linewidth=0.6)
    for _, row in shown.iterrows():
        look = palette.method_look(row["method"])
        bounds = np.array([[row["relative_low"]], [row["relative_high"]]]) * 100
        reach = np.abs(np.sort(bounds * (1 if row["higher_is_better"] else -1), axis=0) - row["at"])
        face = look.hex if wording.verdict(row) in ("worse", "better") else "white"
        axes.errorbar(
            row["ratio"], row["at"], reach, fmt=look.marker if look.marker not in "x+_" else "o",
            color=look.hex, markerfacecolor=face, markersize=4, elinewidth=0.6, markeredgewidth=0.9,
        )  # fmt: skip
    for _, row in select.hidden(shown).nsmallest(1, "at").iterrows():
        place = row["ratio"], row["at"]
        axes.annotate(
            row["label"], place, (6, -4), textcoords="offset points", fontsize=6.5, path_effects=style.HALO
        )
    axes.set_xscale("log")
    axes.set_xlim(0.95, right)
    top = max(10.0, float(shown["at"].max()) * 1.3)
    axes.set_ylim(floor, top)
    on = shown[np.maximum(shown["relative_low"] * sign, shown["relative_high"] * sign) > top]
    for ratio, method in zip(on["ratio"], on["method"], strict=True):
        color = palette.method_look(method).hex
        style.unclipped(axes, ratio, top, "^", color=color, markersize=2.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if right > 3 else (1.0, 1.1, 1.2, 1.5, 2.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}\u00d7"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    left_out = f"; {beyond.sum()} beyond {RISE:g}\u00d7 not drawn" if 0 < beyond.sum() < len(beyond) else ""
    axes.set_xlabel(f"perplexity, of dense ({wording.count(rows['of'].max())}{left_out})")
    style.head(axes, wording.task_label(rows.iloc[0]), "change (% of dense)")


def _corpus_and_facts(frame: pd.DataFrame) -> pd.DataFrame:
    rows = select.headlines(frame)
    chosen = pd.concat([select.family(rows, "perplexity"), select.family(rows, "factoid_qa")])
    return levels.leveled(chosen, "perplexity or factoid variant")


@figure("perplexity_and_knowledge", "Perplexity beside knowledge", _corpus_and_facts, paper="Fig 1")
def perplexity_and_knowledge(rows: pd.DataFrame) -> Figure:
    """Perplexity against compression, above a knowledge task's score."""
    return levels.three_ways(rows, levels.by_task(rows))


# ---------------------------------------------------------------------------------------- books


def _books(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["task"].str.contains(select.PAIRED, regex=False) & (frame["replica"] == "")]
    alone = rows.groupby(["base", "setting", "task"])["dense"].transform("all")
    rows = rows[~alone.astype(bool)]  # dense alone has nothing to be compared with: the others ended early
    return select.variant_order(select.wanted(rows, "variant asked all items with the book closed and open"))


def _told_apart(rows: pd.DataFrame) -> pd.Series:
    """Each row's label, with what tells its bar from others of that label: base, setting, tasks."""
    label = rows["label"].astype(str)
    for column in ("base", "setting", "task"):
        if rows[column].nunique() > 1:
            label = label + ", " + rows[column].astype(str).str.replace("|", " and ", regex=False)
    return label


_QUADRANTS = {
    "known_and_read": (style.BLUE, "right closed and open"),
    "known_not_read": (style.RED, "right closed, wrong open"),
    "read_only": (style.SKY, "right open only"),
    "neither": (style.FAINT, "wrong both times"),
}


@figure("closed_open", "Closed against open book", _books, paper="Fig 4")
def closed_open(rows: pd.DataFrame) -> Figure:
    """The four outcomes an item can have, and what is lost of what dense had: knowledge and reading apart."""
    rows = rows.assign(label=_told_apart(rows))
    labels = list(dict.fromkeys(rows["label"]))
    drawn = Figure(figsize=(7.2, 1.4 + 0.19 * len(labels)), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    start = np.zeros(len(labels))
    for name in pairs.QUADRANTS:
        color, text = _QUADRANTS[name]
        values = rows[rows["metric"] == name].set_index("label")["value"].reindex(labels).to_numpy() * 100
        left.barh(range(len(labels)), values, left=start, color=color, height=0.72, label=text)
        start = start + np.nan_to_num(values)
    for name, shift, look in (
        ("knowledge_lost", -0.14, palette.Look("blue", "o", "-")),
        ("reading_lost", 0.14, palette.Look("orange", "s", "-")),
    ):
        part = rows[(rows["metric"] == name) & ~rows["dense"]]
        at = np.array([labels.index(label) for label in part["label"]]) + shift
        text = name.replace("_", " ")
        right.plot(part["value"] * 100, at, look.marker, color=look.hex, label=text, markersize=4)
        right.hlines(at, part["low"] * 100, part["high"] * 100, color=look.hex, linewidth=0.8)
    left.set_xlim(0, 100)
    left.set_yticks(range(len(labels)), labels)
    left.set_ylim(len(labels) - 0.4, -0.6)
    right.set_xlim(-1, 101)
    n = wording.count(rows[rows["metric"].isin(pairs.QUADRANTS)]["n"].max())
    for ax, title, text in (
        (left, "outcome of each question", f"% of items, {n}"),
        (right, "lost of what dense had", "%; line: 95 % interval"),
    ):
        ax.set_title(title)
        ax.set_xlabel(text)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    right.grid(axis="x")
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    drawn.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.1, handlelength=1.2)
    return drawn
