"""Tables: frame -> Markdown, CSV and LaTeX. A new one is a function with @table.

    @table("my_table", "What it shows")
    def my_table(frame: DataFrame) -> Table: ...

The text cells are what the frame's rows say, written by `kick.report.wording`; the CSV holds the rows behind
them with their full numbers. A function raises `select.Nothing` where the frame cannot feed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kick.registry import Registry
from kick.report import select, wording

Cells = tuple[tuple[str, ...], ...]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Text cells under their column heads, and the frame's rows behind them."""

    title: str
    heads: tuple[str, ...]
    cells: Cells
    rows: pd.DataFrame
    note: str = ""

    def markdown(self) -> str:
        """As a GitHub table under its title, with the note beneath."""
        lines = [self.heads, tuple("---" if i == 0 else "---:" for i in range(len(self.heads))), *self.cells]
        body = "\n".join(f"| {' | '.join(markdown_text(cell) for cell in line)} |" for line in lines)
        note = f"\n{markdown_text(self.note)}\n" if self.note else ""
        return f"### {markdown_text(self.title)}\n\n{body}\n{note}"

    def csv(self) -> str:
        """The rows behind the cells, with full numbers."""
        return wording.csv(self.rows)

    def latex(self) -> str:
        """As a booktabs table."""
        lines = [" & ".join(map(_latex, line)) + r" \\" for line in (self.heads, *self.cells)]
        note = rf"\par\smallskip\footnotesize {_latex(self.note)}" if self.note else ""
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


@dataclass(frozen=True)
class TableEntry:
    """A registered table: its title, the function, the paper's number where it redraws one."""

    title: str
    make: Callable[[pd.DataFrame], Table]
    paper: str = ""


tables: Registry[TableEntry] = Registry("table")


def table(name: str, title: str, paper: str = "") -> Callable[[Callable], Callable]:
    """Register a function frame -> Table."""

    def enter(make: Callable[[pd.DataFrame], Table]) -> Callable[[pd.DataFrame], Table]:
        tables.add(name, TableEntry(title, make, paper))
        return make

    return enter


NOTE = (
    "Score with its 95 % interval over items, then the paired difference to dense: "
    "= matching (within 5 % of dense, shown), \u25bc worse, \u25b2 better, ? undecided at this n, "
    "~ inside the noise of a dense replica."
)


def score_cell(row: Row) -> str:
    """A cell: "54.2 [47.7 to 65.2] \u22125.0 \u25bc"."""
    unit = row["unit"]
    text = f"{wording.number(row['value'], unit)} [{wording.span(row['low'], row['high'], unit)}]"
    if row["dense"]:
        return text
    mark = wording.MARKS[wording.verdict(row)]
    return f"{text} {wording.number(row['gap'], unit, signed=True)} {mark}".rstrip()


def crossed(rows: pd.DataFrame, title: str, cell: Callable[[Row], str] = score_cell) -> Table:
    """Variants down, tasks across, in the customary order."""
    rows = select.variant_order(rows)
    tasks = select.tasks(rows)
    labels = list(dict.fromkeys(rows["label"]))
    heads = ["variant"]
    columns = []
    for task in tasks:
        part = select.by_label(select.of_task(rows, task))
        first = next(iter(part.values()))
        metric = wording.metric_label(first["metric"])
        heads.append(f"{wording.task_label(first)}: {metric}, n = {first['n']}")
        columns.append(part)
    lines = [
        (label, *(cell(part[label]) if label in part else wording.NOTHING for part in columns))
        for label in labels
    ]
    return Table(title, tuple(heads), tuple(lines), rows, NOTE)


@table("scores", "Scores of every variant on every task")
def scores(frame: pd.DataFrame) -> Table:
    """The headline metrics, replicas included."""
    rows = select.wanted(select.headlines(frame, replicas=True), "score")
    return crossed(rows, "Scores of every variant on every task")


@table("gaps", "Differences to dense with interval, p and verdict")
def gaps(frame: pd.DataFrame) -> Table:
    """A line a variant and task: what was tested, and what came of it."""
    rows = select.headlines(frame)
    rows = select.variant_order(select.wanted(rows[~rows["dense"]], "variant beside the dense model"))
    lines = [
        (
            row["label"],
            f"{wording.task_label(row)}: {wording.metric_label(row['metric'])}",
            wording.number(row["gap"], row["unit"], signed=True),
            wording.signed_span(row["gap_low"], row["gap_high"], row["unit"]),
            wording.p_value(row["p"]),
            wording.p_value(row["p_holm"]),
            wording.verdict(row),
            wording.number(row["detectable"], row["unit"]),
            str(row["n"]),
        )
        for row in select.records(rows)
    ]
    heads = ("variant", "task", "gap", "95 % interval", "p", "p (Holm)", "verdict", "detectable", "n")
    note = "Detectable: the smallest true gap that this many items show in 80 % of studies at alpha 5 %."
    return Table("Differences to dense", heads, tuple(lines), rows, note)


@table("seeds", "Spread over calibration seeds")
def seeds(frame: pd.DataFrame) -> Table:
    """Mean and standard deviation over seeds, apart from the interval over items."""
    rows = select.headlines(frame)
    rows = rows[rows["seeds"] > 1]
    rows = select.wanted(rows, "recipe with several calibration seeds")
    rows = rows.drop_duplicates([*select.SECTION, "task", "setting", "recipe"])
    rows = rows.assign(label=rows["label"].str.replace(r", seed \d+$", "", regex=True))

    def cell(row: Row) -> str:
        mean, sd = (wording.number(row[name], row["unit"]) for name in ("seed_mean", "seed_sd"))
        return f"{mean} \u00b1 {sd} ({row['seeds']:g})"

    found = crossed(rows, "Mean and standard deviation over calibration seeds (number of seeds)", cell)
    return Table(found.title, found.heads, found.cells, found.rows, "Not an interval over items.")


def _four(frame: pd.DataFrame) -> pd.DataFrame:
    names = ("factoid_qa", "mcr_qa", "icra_qa_open", "summarization", "instruction_following")
    return pd.concat([select.family(select.headlines(frame), name) for name in names])


@table("eight_bit", "8-bit methods", paper="Table 2")
def eight_bit(frame: pd.DataFrame) -> Table:
    """The paper's table 2: what 8 bits cost."""
    rows = select.level(_four(frame), "bits")
    rows = rows[rows["dense"] | (rows["bits"] == 8)]
    select.wanted(rows[~rows["dense"]], "8-bit variant")
    return crossed(rows, "8 bits")


@table("pruning_by_task", "Unstructured pruning by task, to 50 %", paper="Table 3")
def pruning_by_task(frame: pd.DataFrame) -> Table:
    """The paper's table 3: pruning on four tasks."""
    rows = select.level(_four(frame), "sparsity")
    rows = rows[rows["sparsity"] <= 0.5]
    select.wanted(rows[~rows["dense"]], "unstructured variant of at most 50 %")
    return crossed(rows, "Unstructured pruning by task")


@table("closed_open", "Knowledge lost and reading lost", paper="Fig 4")
def closed_open(frame: pd.DataFrame) -> Table:
    """Of what dense knows with the book closed, and of what it only reads, the shares now wrong."""
    rows = frame[frame["metric"].isin(["knowledge_lost", "reading_lost"]) & (frame["replica"] == "")]
    rows = select.variant_order(select.wanted(rows, "task asked with the book closed and open"))
    heads = ("variant", "lost of dense's", "share (%)", "95 % interval", "n")
    lines = [
        (
            row["label"],
            "knowledge" if row["metric"] == "knowledge_lost" else "reading",
            wording.number(row["value"], "share"),
            wording.span(row["low"], row["high"], "share"),
            str(row["n"]),
        )
        for row in select.records(rows[~rows["dense"]])
    ]
    return Table("Knowledge lost and reading lost", heads, tuple(lines), rows)


def make_all(frame: pd.DataFrame, names: Sequence[str] = ()) -> dict[str, Table]:
    """Every table that the frame can feed, a section's name added where there are several."""
    made: dict[str, Table] = {}
    for name in names or tables:
        for section, rows in select.sections(frame):
            try:
                made[f"{name} ({section})" if section else name] = tables[name].make(rows)
            except select.Nothing:
                continue
    return made


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
        "\u2013": "--",
        "\u2009": r"\,",
    }
)


def _latex(text: str) -> str:
    return " ".join(text.split("\n")).translate(_TEX)
