"""Commands that exchange results with other programs and the hub: export, import, push, pull."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kick.cli import panels
from kick.cli.reading import OneFolder
from kick.cli.terminal import DataRoot, TaskFolders, opened, print_table
from kick.errors import KickError
from kick.printable import counted, plain, say
from kick.registry import unknown

Repository = Annotated[str, typer.Argument(help="a data set repository of the hub: owner/name")]

app = typer.Typer()
FORMS = ("lm-eval",)


@app.command(rich_help_panel=panels.SHARE)
def export(
    results: OneFolder,
    to: Annotated[str, typer.Option(help="the form of the files: lm-eval")],
    out: Annotated[Path, typer.Option(help="the folder to write; a folder per variant is made in it")],
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
) -> None:
    """Write stored results as another program's files: lm-eval's results_*.json and samples_*.jsonl."""
    if to not in FORMS:
        raise KickError(f"--to: {unknown('form', to, FORMS)}")
    from kick.interop import export as interop_export

    how = interop_export.ExportOptions(data_root, tuple(tasks or ()))
    for one in interop_export.export(opened(results), out, how):
        for file in one.files:
            print(file)
        for left in one.left:
            print(f"{one.variant}: left out: {left}")


@app.command("import", rich_help_panel=panels.SHARE)
def take(
    files: Annotated[list[str], typer.Argument(help="lm-eval's samples_*.jsonl, or JSON logs of Inspect")],
    into: Annotated[str, typer.Option(help="the folder of a matrix's results")],
    variant: Annotated[
        str, typer.Option(help="what the answers become; dense: what others are compared with")
    ],
    task: Annotated[str | None, typer.Option(help="the task, in place of the name in the files")] = None,
    scorer: Annotated[str | None, typer.Option(help="which score of an Inspect log counts")] = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
) -> None:
    """Take answers that another program stored as cells, paired with ours by the hash of the document."""
    from kick.interop import imported

    how = imported.ImportOptions(
        variant=variant,
        task=task,
        scorer=scorer,
        data_root=data_root,
        task_folders=tuple(tasks or ()),
        command=("kick", *sys.argv[1:]),
    )
    made = imported.import_files(files, into, how)
    print_table(imported.HEADS, [one.row() for one in made])
    print(f"{counted(len(made), 'cell')} imported into {into}")


@app.command(rich_help_panel=panels.SHARE)
def push(
    results: OneFolder,
    repository: Repository,
    yes: Annotated[bool, typer.Option("--yes", help="send it; without, only say what would be sent")] = False,
    public: Annotated[bool, typer.Option("--public", help="a new repository is for everyone to see")] = False,
    unshown: Annotated[
        bool,
        typer.Option("--unshown", help="send cells too whose answers no page shows, as to harmful requests"),
    ] = False,
) -> None:
    """Send results to the hub as a data set with a data card. A dry run unless told --yes."""
    from kick.interop import hub_repository

    what = hub_repository.prepare(results, repository, unshown=unshown)
    for left in what.left:
        say(f"left out: {left}; --unshown sends it")
    print(
        f"{counted(what.cells, 'cell')}, {len(what.files) + len(what.texts)} files, {what.size / 1e6:,.1f} MB"
    )
    if not yes:
        print(f"the data card, README.md:\n\n{plain(what.card, keep=chr(10))}")
        say(f"a dry run: nothing was sent to {repository}; --yes sends it")
        return
    print(hub_repository.push(what, private=not public))


@app.command(rich_help_panel=panels.SHARE)
def pull(
    repository: Repository,
    out: Annotated[str, typer.Option(help="the folder of results to take them into")] = "results",
    revision: Annotated[str | None, typer.Option(help="a commit, branch or tag")] = None,
) -> None:
    """Take results from a data set repository of the hub; cells that are there already stay."""
    from kick.interop import hub_repository

    found = hub_repository.pull(repository, out, revision)
    for left in found.left:
        say(f"left out: {left}")
    print(f"{counted(found.taken, 'cell')} taken, {found.known} there already, of commit {found.commit}")
    for folder in found.folders:
        print(folder)
