"""The command line: each command calls one function and prints what it gives.

Exit status 0 is success, 1 a cell failed (the rest ran), 2 wrong usage or configuration. Results go to
standard output; progress and errors go to standard error. A traceback is shown only with --debug.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from kick import __version__, paths
from kick.cli import about, advise, new, panels, paper, reading, running, share, site, study
from kick.cli.terminal import printable_streams, unwinding
from kick.errors import CellFailed, KickError
from kick.printable import say

app = typer.Typer(
    cls=panels.Grouped,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measures what compression does to a language model.",
)

for _part in (running, reading, advise, paper, share, about):
    app.add_typer(_part.app)
app.add_typer(new.app, name="new", rich_help_panel=panels.RUN)
app.add_typer(study.app, name="study", rich_help_panel=panels.STUDY)
app.add_typer(site.app, name="site", rich_help_panel=panels.SHARE)


def main(arguments: list[str] | None = None) -> None:
    """The `kick` command. Ends the process with the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    printable_streams()
    if not os.environ.get("XDG_CACHE_HOME", "unset"):
        del os.environ["XDG_CACHE_HOME"]  # empty is unset by its standard, but not to the hub's library
    if arguments[:1] == ["lm-eval"]:
        from kick.engine import lm_eval_model

        return lm_eval_model.main(arguments[1:])
    if "--offline" in arguments:  # the hub's library reads it once, as it is imported
        paths.offline()
    debug = "--debug" in arguments
    try:
        with unwinding():
            app(args=[one for one in arguments if one != "--debug"], prog_name="kick")
    except KickError as error:
        if debug:
            raise
        say(f"kick: {error}")
        sys.exit(1 if isinstance(error, CellFailed) else 2)  # 1: as a run with failed cells ends


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Measures what compression does to a language model."""
    if show:
        print(f"kick {__version__}")
        raise typer.Exit
