"""Tables: what one is, which are known, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from kick.registry import Registry
from kick.report import wording

Cells = tuple[tuple[str, ...], ...]
LAST = 100  # the place of a table that names none


@dataclass(frozen=True)
class Table:
    """Text cells under their column heads, and the frame's rows behind them.

    best: (line, column) of cells whose score is bold in LaTeX; stars: marks of significance beside scores
    there, by the same places.
    """

    title: str
    heads: tuple[str, ...]
    cells: Cells
    rows: pd.DataFrame
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()
    stars: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Markdown: a GitHub table under its title, with the note beneath."""
        lines = [self.heads, tuple("---" if i == 0 else "---:" for i in range(len(self.heads))), *self.cells]
        body = "\n".join(f"| {' | '.join(markdown_text(cell) for cell in line)} |" for line in lines)
        note = f"\n{markdown_text(self.note)}\n" if self.note else ""
        return f"### {markdown_text(self.title)}\n\n{body}\n{note}"

    def csv(self) -> str:
        """The rows behind the cells, with full numbers."""
        return wording.csv(self.rows)

    def latex(self) -> str:
        """LaTeX: a table for the packages booktabs and amssymb."""
        body = [[self._cell(i, j) for j in range(len(line))] for i, line in enumerate(self.cells)]
        lines = [" & ".join(line) + r" \\" for line in ([*map(_latex, self.heads)], *body)]
        said = " ".join(filter(None, (self.note, BEST if self.best else "", STARS if self.stars else "")))
        note = rf"\par\smallskip\footnotesize {_latex(said)}" if said else ""
        parts = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.heads) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *([note] if note else []),
            r"\end{table}",
        ]
        return "\n".join(parts) + "\n"

    def _cell(self, line: int, column: int) -> str:
        """A cell's LaTeX, the score at its start bold if it is among the best, with its stars."""
        text, at = self.cells[line][column], (line, column)
        score, blank, rest = text.partition(" ")
        bold = rf"\textbf{{{_latex(score)}}}" if at in self.best else _latex(score)
        stars = f"$^{{{self.stars[at]}}}$" if at in self.stars else ""
        return bold + stars + blank + _latex(rest)


BEST = "Bold: the best variant of a column, and those that the noise of dense replicas cannot tell from it."
STARS = "* p < 0.05, ** p < 0.01 against dense, adjusted over the matrix (Holm)."
Make = Callable[[pd.DataFrame], Table]


@dataclass(frozen=True)
class TableEntry:
    """A registered table: its title, its function, the paper's number if it redraws one.

    place: tables are written by it, then by name.
    """

    title: str
    make: Make
    paper: str = ""
    place: int = LAST


known: Registry[TableEntry] = Registry("table")


def table(name: str, title: str, *, paper: str = "", place: int = LAST) -> Callable[[Make], Make]:
    """Register a function frame -> Table; it raises `select.Nothing` if the frame cannot feed it."""

    def enter(make: Make) -> Make:
        known.add(name, TableEntry(title, make, paper, place), make.__module__)
        return make

    return enter


def markdown_text(text: str) -> str:
    """Text that is nothing but text in Markdown and in the HTML that it may hold."""
    return " ".join(text.translate(_MARKDOWN).splitlines())


_MARKDOWN = str.maketrans({mark: "\\" + mark for mark in "\\`*_{}[]<>#|!"} | {"&": "&amp;"})
_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\u2212": r"$-$",
        "\u00b1": r"$\pm$",
        "\u25bc": r"$\blacktriangledown$",
        "\u25b2": r"$\blacktriangle$",
        "\u2248": r"$\approx$",
        "\u2260": r"$\neq$",
        "\u2265": r"$\geq$",
        "\u00d7": r"$\times$",
        "\u2013": "--",
        "\u2026": r"\ldots{}",
        "\u00a0": "~",
        "\u2009": r"\,",
    }
)


def _latex(text: str) -> str:
    return " ".join(text.split("\n")).translate(_TEX)
