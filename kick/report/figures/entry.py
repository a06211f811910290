"""The table of figures, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from kick.registry import Registry

Rows = Callable[[pd.DataFrame], pd.DataFrame]
Draw = Callable[[pd.DataFrame], Figure]


@dataclass(frozen=True)
class FigureEntry:
    """A figure: which rows of the frame it shows (they are its CSV), and how they are drawn.

    paper: the published figure that it redraws; published: the task family whose published numbers are
    beside ours; across: it compares base models, so it sees all matrices at once.
    """

    title: str
    rows: Rows
    draw: Draw
    paper: str = ""
    published: str = ""
    across: bool = False


known: Registry[FigureEntry] = Registry("figure")


def figure(
    name: str, title: str, rows: Rows, *, paper: str = "", published: str = "", across: bool = False
) -> Callable[[Draw], Draw]:
    """Register a function rows -> Figure.

    `rows` takes the frame and gives the rows to draw; it raises `select.Nothing` if there are none.
    """

    def enter(draw: Draw) -> Draw:
        known.add(name, FigureEntry(title, rows, draw, paper, published, across), draw.__module__)
        return draw

    return enter
