"""`kick new`: what a user starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kick.printable import say

app = typer.Typer(no_args_is_help=True, help="Start something of your own: a task.")


@app.callback()
def new() -> None:
    """Start something of your own."""


@app.command()
def task(
    table: Annotated[Path, typer.Argument(help="questions and answers, as CSV, TSV, JSON lines or Parquet")],
    out: Annotated[Path, typer.Option(help="the folder to write")] = Path("my_tasks"),
    name: Annotated[str | None, typer.Option(help="the name of the task; by default the table's")] = None,
    question: Annotated[str | None, typer.Option(help="the column of questions")] = None,
    answer: Annotated[str | None, typer.Option(help="the column of answers")] = None,
    choices: Annotated[
        str | None, typer.Option(help="the column of choices, or several: a,b,c,d; none: open questions")
    ] = None,
) -> None:
    """Write a task file from a table; columns are found by their names, or named.

    With a column of choices (a list, or text as a | b | c), or several (a, b, c, d), it is multiple choice:
    the answer is a choice's text, letter or number. Else answers are generated and compared by words.
    """
    from kick.tasks.new import Columns, write

    named = tuple(part.strip() for part in choices.split(",")) if choices is not None else None
    named = () if choices == "none" else named
    written, data = write(table, out, Columns(question, answer, named), name)
    print(written)
    print(data)
    say(f"next: name {written.stem!r} under `tasks` in a matrix, then: kick run MATRIX --tasks {out}")
