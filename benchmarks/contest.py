"""Two ways to do the same work, in turns, in CPU time: a line of the benchmark's table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Line:
    """One row of the table: CPU seconds of both sides, their ratio, what it should be at least."""

    work: str
    against: str
    ratio: float
    target: float
    ours: float
    theirs: float
    note: str = ""


def timed(work: Callable):
    """(result, CPU seconds) of a call."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def contest(names: tuple[str, str], target: float, ours: Callable, theirs: Callable, same: Callable) -> Line:
    """Ours, theirs, ours. `same(our result, their result)` asserts and gives a note."""
    first, before = timed(ours)
    other, theirs_s = timed(theirs)
    _, after = timed(ours)
    mean = (before + after) / 2
    return Line(*names, theirs_s / mean, target, mean, theirs_s, same(first, other))


def show(lines: list[Line]) -> None:
    """The table."""
    table = Table("work", "against", "ours, CPU s", "theirs", "ratio", "at least", "note")
    for line in lines:
        seconds = [f"{x:.1f}" if x < 1e6 else f"{x / 1e6:.0f} MB" for x in (line.ours, line.theirs)]
        table.add_row(line.work, line.against, *seconds, f"{line.ratio:.2f}", f"{line.target:g}", line.note)
    Console(width=170).print(table)
