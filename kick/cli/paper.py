"""The command `kick paper`: a paper's matrix is run, drawn, and its claims get a verdict each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kick import api
from kick.cli import panels
from kick.cli.terminal import DataRoot, opened
from kick.errors import KickError
from kick.printable import say
from kick.registry import unknown

if TYPE_CHECKING:
    from pathlib import Path

    from kick.analysis.claims import Tested
    from kick.analysis.frame import Results
    from kick.analysis.papers_file import Paper

app = typer.Typer()
ALL = "all"
SCORINGS = OURS, PUBLISHED = "kick", "published"


@app.command(rich_help_panel=panels.READ)
def paper(
    name: Annotated[str, typer.Argument(help="llm-kick, or with --results any paper, a claims file, or all")],
    scale: Annotated[str, typer.Option(help="tiny, small or full: which of its matrices is run")] = "tiny",
    results: Annotated[
        list[str] | None,
        typer.Option("--results", help="results that exist, in place of a run; again for more"),
    ] = None,
    out: Annotated[str, typer.Option(help="the folder of the report")] = "paper",
    runs: Annotated[
        str, typer.Option("--runs", help="the folder of results that a run writes to")
    ] = "results",
    scoring: Annotated[
        str, typer.Option(help="published adds a table of the paper's own, flawed scores")
    ] = OURS,
    data_root: DataRoot = None,
    workers: Annotated[int | None, typer.Option(help="jobs in parallel")] = None,
    offline: Annotated[bool, typer.Option(help="do not contact the hub")] = False,
) -> None:
    """Run a paper's matrix, draw its figures, and write report.md: its claims with a verdict each."""
    from kick.analysis import claims, frame, papers_file
    from kick.report import figures, leaderboard, published_scoring, tables, wording

    if scoring not in SCORINGS:
        raise KickError(f"--scoring: {unknown('scoring', scoring, SCORINGS)}")
    papers = [papers_file.paper(one) for one in (papers_file.names() if name == ALL else [name])]
    status, folders = 0, list(results or ())
    if name == ALL and not folders:
        raise KickError("all papers are tested on results that exist: name them with --results")
    if not folders:
        for matrix in dict.fromkeys(one.matrix(scale) for one in papers):
            status, made = _run(matrix, runs, data_root, workers, offline)
            folders.append(made)
    read = frame.read([opened(one) for one in folders])
    found = [(one, claims.tested(one, read)) for one in papers]
    folder = wording.folder_for(out)
    _report(found, read, folder)
    _print(found)
    if not results:
        leaderboard.render(read, folder)
        figures.draw(read.frame, folder / "figures", paper="llm-kick" if name == "llm-kick" else None)
    if scoring == PUBLISHED:
        for file in tables.save(published_scoring.table(read), folder / "table-published-scoring"):
            print(file)
    say(f"the report is {folder / 'report.md'}")
    raise typer.Exit(status)


def _report(found: Sequence[tuple[Paper, Sequence[Tested]]], read: Results, folder: Path) -> None:
    """Write report.md and report.json."""
    from kick.report import claims_view, wording

    limits = [wording.LIMITS[base] for base in dict.fromkeys(read.frame["base"]) if base in wording.LIMITS]
    models = [
        f"{base} (matrix {', '.join(dict.fromkeys(part['matrix']))})"
        for base, part in read.frame.groupby("base", sort=False)
    ]
    report = claims_view.markdown(found, models, [*limits, *read.notes])
    (folder / "report.md").write_text(report, encoding="utf-8")
    values = json.dumps(claims_view.values(found), indent=1, allow_nan=False)
    (folder / "report.json").write_text(values + "\n", encoding="utf-8")


def _print(found: Sequence[tuple[Paper, Sequence[Tested]]]) -> None:
    for one, tested in found:
        for claim in tested:
            reason = f" ({claim.reason})" if claim.reason else ""
            print(f"{one.name} {claim.claim.name}: {claim.verdict}{reason}")


def _run(
    matrix: str, runs: str, data_root: str | None, workers: int | None, offline: bool
) -> tuple[int, str]:
    """Run a preset; its exit status and the folder of its results."""
    from kick.sweep.run import RunOptions

    options = RunOptions(
        out=runs, data_root=data_root, workers=workers, offline=offline, command=("kick", *sys.argv[1:])
    )
    ran = api.run(matrix, options=options)
    return ran.status, str(ran.folder)
