"""Output of commands: results on standard output, progress on standard error.

Also the options that several commands share.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from kick import plugins
from kick.errors import KickError

if TYPE_CHECKING:
    from kick.store import Store
from kick.printable import plain


def _folders(named: list[str] | None) -> list[str] | None:
    for folder in named or ():
        if not Path(folder).is_dir():
            raise KickError(f"--tasks: {folder!r} is not a folder of task files")
    return named


def _load_plugins(named: list[str] | None) -> list[str]:
    return list(plugins.load(named or ()))


DataRoot = Annotated[str | None, typer.Option(help="a local mirror of data sets (else KICK_DATA_ROOT)")]
TaskFolders = Annotated[
    list[str] | None, typer.Option("--tasks", help="a folder of your own task files", callback=_folders)
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugins", help="a file or folder of your own code", callback=_load_plugins),
]


def printable_streams() -> None:
    """Let standard output and error show marks that their encoding lacks as escapes, not as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def unwinding() -> Iterator[None]:
    """Context in which SIGTERM ends the process as an exception does: what is half written is removed.

    A sweep listens to the signal itself. In a thread that is not the main one nothing changes.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would stop the clearing up
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_json(value: Any) -> None:
    """A JSON value, on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    print(text if plain(text, keep="\n") == text else json.dumps(value, indent=2, allow_nan=False))


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """A table in a terminal; tab-separated lines elsewhere, so that other programs can read them."""
    console = Console()
    rows = [[plain(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for row in [heads, *rows]:
            print("\t".join(row))
        return
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*[cell.replace("[", r"\[") for cell in row])
    console.print(table)


Matrix = Annotated[str, typer.Argument(help="a matrix file, or a preset: smoke, demo, demo-full, ...")]
Results = Annotated[list[str], typer.Argument(help="folders (or URLs) of results")]
Out = Annotated[str, typer.Option(help="where results are stored: a folder or an fsspec URL")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Limit = Annotated[int | None, typer.Option(help="items per task, instead of the matrix's own limits")]

AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="run programs that the model writes, confined by bubblewrap")
]
Unconfined = Annotated[
    bool, typer.Option("--unconfined", help="with --allow-code: run them with limits alone")
]


def code(allow: bool, unconfined: bool) -> Literal["", "confined", "unconfined"]:
    """How programs may be run, by the two options. Raises KickError for the second one alone."""
    if unconfined and not allow:
        raise KickError("--unconfined is for --allow-code; add that, or leave it out")
    return "unconfined" if unconfined else "confined" if allow else ""


Stop = Annotated[
    str | None, typer.Option(help="decided: end a cell when its verdict is known; off: ask all items")
]


def opened(folder: str) -> Store:
    """The store of a folder or URL that is read. Raises KickError if the folder is not there."""
    from kick import store

    return store.opened(folder)
