"""Commands that read results: leaderboard, figures, compare."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kick import api
from kick.cli import panels
from kick.cli.terminal import Json, Plugins, Results, opened, print_json

app = typer.Typer()

OneFolder = Annotated[str, typer.Argument(help="a folder (or URL) of results")]
Named = Annotated[str, typer.Argument(help='a variant: its name (wanda-0.5) or its label ("wanda 50 %")')]


@app.command(rich_help_panel=panels.READ)
def leaderboard(
    results: Results,
    out: Annotated[str, typer.Option(help="the folder to write")],
    plugins: Plugins = None,
) -> None:
    """Write index.html (one self-contained page), leaderboard.csv, .md, .tex and .json."""
    from kick.analysis import frame
    from kick.report import leaderboard

    for file in leaderboard.render(frame.read([opened(folder) for folder in results]), Path(out)):
        print(file)


@app.command(rich_help_panel=panels.READ)
def figures(
    results: Results,
    out: Annotated[str, typer.Option(help="the folder to write")],
    paper: Annotated[str | None, typer.Option(help="llm-kick: the paper's figures and numbers")] = None,
    plugins: Plugins = None,
) -> None:
    """Write each figure as PNG and PDF, with the CSV behind it; with --paper its tables as well."""
    from kick.report import figures, tables

    read = api.results(results)
    for drawn in figures.draw(read, Path(out), paper=paper):
        files = ", ".join(map(str, drawn.files))
        print(f"{drawn.name}: {files}" if files else f"{drawn.name}: not drawn, {drawn.skipped}")
    for written in tables.write(read, Path(out), paper=paper) if paper else ():
        files = ", ".join(map(str, written.files))
        print(f"table {written.name}: {files or f'not written, {written.skipped}'}")


@app.command(rich_help_panel=panels.READ)
def compare(results: OneFolder, a: Named, b: Named, as_json: Json = False) -> None:
    """Compare two variants item by item: differences, intervals, and the items that flipped."""
    from kick.report import compare_view

    found = api.compare(results, a, b)
    if as_json:
        print_json(found.to_json())
    else:
        wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
        Console(width=wide).print(compare_view.view(found))  # into a file or a pipe a row stays one line
