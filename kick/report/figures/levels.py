"""Scores against how much was compressed: sparsity, N:M patterns, bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kick.report import select, wording
from kick.report.figures import style
from kick.report.figures.curves import PANELS, bits_panel, nm_panel, sparsity_panel
from kick.report.figures.entry import figure


def grid(rows: pd.DataFrame, panel: Callable[[Axes, pd.DataFrame], None]) -> Figure:
    """One panel per task."""
    tasks = select.tasks(rows)
    drawn, axes = style.panels(len(tasks))
    for ax, task in zip(axes, tasks, strict=True):
        part = select.of_task(rows, task)
        panel(ax, part)
        style.head(ax, wording.task_label(part.iloc[0]), style.measured(part))
    _legend(drawn, rows)
    return drawn


def _legend(drawn: Figure, rows: pd.DataFrame) -> None:
    extra: list[Patch | Line2D] = [style.interval_key()]
    extra += [style.noise_key()] if "noise" in rows and (rows["noise"] > 0).any() else []
    extra += style.orders_key(rows)
    extra += [style.estimate_key()] if style.estimates(rows).any() else []
    style.legend(drawn, select.method_order(rows[~rows["dense"]]), extra)


def of(kind: str, what: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Headline rows that differ from dense in `kind` of level only."""

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        return select.wanted(select.level(select.headlines(frame), kind), what)

    return rows


@figure("score_by_sparsity", "Score against sparsity", of("sparsity", "unstructured variant"))
def score_by_sparsity(rows: pd.DataFrame) -> Figure:
    """Every task's headline metric against unstructured sparsity."""
    return grid(rows, sparsity_panel)


@figure("score_by_bits", "Score against bits", of("bits", "quantized variant"))
def score_by_bits(rows: pd.DataFrame) -> Figure:
    """Every task's headline metric against bits per weight."""
    return grid(rows, bits_panel)


@figure("score_by_pattern", "Score by N:M pattern", of("nm", "N:M variant"))
def score_by_pattern(rows: pd.DataFrame) -> Figure:
    """Every task's headline metric by N:M pattern."""
    return grid(rows, nm_panel)


# ---------------------------------------------------------------------------------------- the paper's figures


def by_levels(name: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The headline rows of a task family, with the kind of level each differs in."""

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        return leveled(select.family(select.headlines(frame), name), f"variant on {name.replace('_', ' ')}")

    return rows


def leveled(chosen: pd.DataFrame, what: str) -> pd.DataFrame:
    """The rows that differ from dense in one kind of level, once a kind, with it as column `kind`.

    Of cells that ended early the headline metric alone is drawn: the others are of the items asked, and the
    line of dense is of all.
    """
    chosen = chosen[chosen["primary"] | chosen["stopped"].eq("")]
    parts = [select.level(chosen, kind).assign(kind=kind) for kind in PANELS]
    rows = pd.concat(parts)
    alone = rows.groupby(["kind", "task", "setting", "metric"])["dense"].transform("all")
    return select.wanted(rows[~alone.astype(bool)], what)  # not dense alone: the others ended early


def three_ways(rows: pd.DataFrame, lines: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """A line of panels for each (title, rows): unstructured, N:M and bits, as far as there are any.

    The panels of a line have one y axis. Published rows get a panel of their own, last. If there is one kind
    only, the lines are beside one another.
    """
    kinds = [kind for kind in PANELS if (rows["kind"] == kind).any()]
    printed = rows[rows["kind"] == "published"]
    columns = len(kinds) + bool(len(printed))
    drawn, axes = style.panels(columns * len(lines), columns=columns if columns > 1 else 3)
    for number, (title, part) in enumerate(lines):
        spaces = axes[number * columns : (number + 1) * columns]
        for ax, kind in zip(spaces, kinds, strict=False):
            shown = part[part["kind"] == kind]
            if len(shown):
                PANELS[kind](ax, shown)
            else:
                ax.set_axis_off()
        style.same_y(spaces[: len(kinds)])
        style.head(spaces[0], title, style.measured(part))
        if len(printed) and number == 0:
            _published_panel(spaces[-1], printed)
        elif len(printed):
            spaces[-1].remove()
    _legend(drawn, rows)
    return drawn


def _published_panel(axes: Axes, rows: pd.DataFrame) -> None:
    sparsity_panel(axes, rows)
    unit = wording.UNITS[rows["unit"].iloc[0]][2]
    style.head(axes, f"published: {rows['base'].iloc[0]}", f"{rows['metric'].iloc[0]} ({unit})")
    axes.yaxis.label.set_fontsize(7)


def by_task(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows) of each task that is ours."""
    ours = rows[rows["kind"] != "published"]
    parts = [select.of_task(ours, task) for task in select.tasks(ours)]
    return [(wording.task_label(part.iloc[0]), part) for part in parts]


@figure("factoid_qa", "Factoid questions", by_levels("factoid_qa"), paper="Fig 2", published="factoid_qa")
def factoid_qa(rows: pd.DataFrame) -> Figure:
    """Closed-book facts against sparsity, N:M pattern and bits."""
    return three_ways(rows, by_task(rows))


@figure("mcr_qa", "Multiple choice", by_levels("mcr_qa"), paper="Fig 3", published="mcr_qa")
def mcr_qa(rows: pd.DataFrame) -> Figure:
    """Multiple choice against sparsity, N:M pattern and bits."""
    return three_ways(rows, by_task(rows))


def _retrieval(frame: pd.DataFrame) -> pd.DataFrame:
    chosen = pd.concat([select.family(frame, f"icra_qa_{book}") for book in ("closed", "open")])
    chosen = chosen[(chosen["replica"] == "") & (chosen["group"] == "")]
    return leveled(chosen[chosen["metric"].isin(["exact_match", "f1"])], "closed- or open-book variant")


@figure("icra_qa", "Retrieval questions, closed and open book", _retrieval, paper="Fig 4")
def icra_qa(rows: pd.DataFrame) -> Figure:
    """Exact match and F1 with the book closed and open."""
    lines = []
    for task in select.tasks(rows):
        part = select.of_task(rows, task)
        for metric in ("exact_match", "f1"):
            shown = part[part["metric"] == metric]
            if len(shown):
                lines.append((wording.task_label(shown.iloc[0]), shown))
    return three_ways(rows, lines)


def _summaries(frame: pd.DataFrame) -> pd.DataFrame:
    chosen = select.family(frame[(frame["replica"] == "") & (frame["group"] == "")], "summarization")
    judged = chosen["metric"].str.startswith(("judge_c", "judge_f", "judge_r", "rouge"))
    return leveled(chosen[judged & ~chosen["metric"].eq("judge_failure")], "summary variant")


@figure("summarization", "Summaries", _summaries, paper="Fig 5", published="summarization")
def summarization(rows: pd.DataFrame) -> Figure:
    """ROUGE, and the judge's four criteria if there is one, named as what they are."""
    ours = rows[rows["kind"] != "published"]
    names = list(dict.fromkeys(ours["metric"]))
    return three_ways(rows, [("summaries", ours[ours["metric"] == name]) for name in names])


def _instructions(frame: pd.DataFrame) -> pd.DataFrame:
    chosen = select.family(frame[(frame["replica"] == "") & (frame["group"] == "")], "instruction_following")
    chosen = chosen[chosen["metric"].isin(["judge", "distinct", "distinct_tokens"])]
    return leveled(chosen, "instruction-following variant")


@figure(
    "instruction_following",
    "Instruction following",
    _instructions,
    paper="Fig 6",
    published="instruction_following",
)
def instruction_following(rows: pd.DataFrame) -> Figure:
    """The judge's grade and the distinct tokens of an answer."""
    ours = rows[rows["kind"] != "published"]
    names = list(dict.fromkeys(ours["metric"]))
    return three_ways(rows, [("instructions", ours[ours["metric"] == name]) for name in names])
