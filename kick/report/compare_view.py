"""A comparison of two variants for the terminal: a table of tasks, then the items that flipped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kick.analysis.compare import Compared, ComparedTask
from kick.printable import counted, plain
from kick.report import wording

ANSWER = 160  # characters of an answer in the terminal


def _table(found: Compared) -> Table:
    title = plain(f"a: {found.a_label}, b: {found.b_label} (matrix {found.matrix}, base model {found.base})")
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ("a", "b", "b \u2212 a", "95 % interval", "p", "Holm", "verdict", "flips")
    table.add_column("task", min_width=14, overflow="fold")
    for text in heads:
        table.add_column(text, justify="right", no_wrap=text != "verdict")
    for task in found.tasks:
        gap, unit = task.difference, task.unit
        numbers = (
            wording.number(task.a, unit),
            wording.number(task.b, unit),
            wording.number(gap.gap, unit, signed=True),
            wording.signed_span(gap.low, gap.high, unit),
            wording.p_value(gap.p),
            wording.p_value(task.p_holm),
            Text(task.verdict or wording.NOTHING),
            wording.NOTHING if gap.lost is None else f"{wording.MINUS}{gap.lost} +{gap.won}",
        )
        about = plain(f"{wording.metric_label(task.metric)}, {_counted(task)}")
        name = Text(plain(task.title)).append(f"\n{about}", style="dim")
        for side, band in (("a", task.a_band), ("b", task.b_band)):
            if band:
                over = f"{side}: {wording.span(band.low, band.high, unit)} in {band.count} orders"
                name.append(f"\n{over}", style="dim")
        table.add_row(name, *numbers)
    return table


def _counted(task: ComparedTask) -> str:
    """ "n = 60 of 256, b stopped early", "n = 96, all 96 answers identical"."""
    gap = task.difference
    ended = f"{' and '.join(task.stopped)} stopped early" if task.stopped else ""
    same = f"all {gap.n} {task.identical} identical" if task.identical else ""
    across = "two engines: no verdict" if task.across else ""
    count = wording.count(gap.n, gap.units, task.of if ended else None)
    return ", ".join(filter(None, (count, ended, same, across)))


def _flips(task: ComparedTask, found: Compared, most: int = 10) -> Iterable[Text]:
    shown = [flip for flip in task.flips if flip.a_answer or flip.b_answer]
    if not shown:
        return
    yield Text(f"\n{plain(task.title)}: {counted(len(shown), 'item')} changed", style="bold")
    for flip in shown[:most]:
        yield Text(
            f"  {_line(wording.question(flip.question, ANSWER))}  [expected: {_line(flip.target)}]",
            style="dim",
        )
        yield Text(f"    {plain(found.a_label)} ({flip.a_score:.2f}): {_line(flip.a_answer)}")
        yield Text(f"    {plain(found.b_label)} ({flip.b_score:.2f}): {_line(flip.b_answer)}")
    if len(shown) > most:
        yield Text(f"  and {len(shown) - most} more; --json has them all", style="dim")


def _line(text: str) -> str:
    """Model text in one line of the terminal, controls and escape sequences made visible."""
    return wording.visible(" ".join(text.split()), ANSWER)


def view(found: Compared) -> Group:
    """For the terminal: a table of tasks, then the items that flipped."""
    parts: list[Any] = [_table(found)]
    for task in found.tasks:
        parts += _flips(task, found)
    if found.missing:
        parts.append(Text(plain(f"only one of the two has: {', '.join(found.missing)}"), style="dim"))
    return Group(*parts)
