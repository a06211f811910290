"""`kick site`: an index over a folder of leaderboards, and results from elsewhere added to it."""

from __future__ import annotations

from typing import Annotated

import typer

from kick.cli import panels
from kick.cli.reading import OneFolder
from kick.printable import counted, plain, say

app = typer.Typer(cls=panels.Site, help="Index a folder of leaderboards; submit adds results to it.")
LEADERBOARDS = "leaderboards"


@app.callback()
def site() -> None:
    """Index a folder of leaderboards, as `kick site FOLDER`; `submit` adds results from elsewhere."""


@app.command()
def build(folder: Annotated[str, typer.Argument(help="a folder of leaderboards")] = LEADERBOARDS) -> None:
    """Write the index.html of a folder of leaderboards: a link to each, and what it shows."""
    from kick.report.site import build

    print(build(folder))


@app.command()
def submit(
    results: OneFolder,
    into: Annotated[str, typer.Option(help="the folder of leaderboards")] = LEADERBOARDS,
    name: Annotated[str | None, typer.Option(help="the leaderboard's folder; by default the matrix")] = None,
    dry: Annotated[bool, typer.Option("--check", help="only check the results; write nothing")] = False,
) -> None:
    """Check results from elsewhere, and add their leaderboard, or refuse them with the reasons.

    Each cell is checked against its checksums, its key and its own items. Needs no model.
    """
    from kick.interop import submission

    files, found = ([], submission.accepted(results)) if dry else submission.submit(results, into, name)
    for note in found.notes:
        say(f"note: {plain(note)}")
    say(f"{counted(len(found.runs), 'cell')} checked")
    for file in files:
        print(file)
