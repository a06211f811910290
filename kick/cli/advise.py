"""The commands `kick advise`, which variant to take, and `kick cost`, which measures what one costs."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated

import typer

from kick.cli import panels
from kick.cli.reading import OneFolder
from kick.cli.terminal import DataRoot, Json, Plugins, opened, print_json
from kick.errors import KickError
from kick.printable import say

if TYPE_CHECKING:
    from kick.analysis.advice import Size

app = typer.Typer()
_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@app.command(rich_help_panel=panels.READ)
def advise(
    results: OneFolder,
    memory: Annotated[str | None, typer.Option(help="the size that a variant may have: 4GB, 500MB")] = None,
    tolerance: Annotated[
        str | None, typer.Option(help="share of dense's score that may be lost: 5%; else the matrix's margin")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="names of tasks, with commas; else all")] = None,
    packed: Annotated[bool, typer.Option("--packed", help="by the size in an ideal packed format")] = False,
    as_json: Json = False,
) -> None:
    """Name the smallest variant shown to match dense on the tasks chosen, with its evidence."""
    most = None if memory is None else size(memory)
    share = None if tolerance is None else portion(tolerance)
    named = [] if tasks is None else [name.strip() for name in tasks.split(",")]
    from kick.analysis import advised, frame

    read = frame.read([opened(results)])
    by: Size = "packed" if packed else "shipped"
    found = advised.advised(read, tolerance=share, memory=most, tasks=named, by=by)
    for note in read.notes:
        say(f"kick: {note}")
    if as_json:
        print_json([one.to_json() for one in found])
        return
    from kick.report import advice_view

    print("\n\n".join("\n".join(advice_view.lines(one)) for one in found))


@app.command(rich_help_panel=panels.READ)
def cost(
    results: OneFolder,
    engine: Annotated[str, typer.Option(help="packed or plain")] = "packed",
    prompt: Annotated[int, typer.Option(help="tokens of a prompt")] = 512,
    new: Annotated[int, typer.Option(help="tokens generated after it")] = 64,
    batch: Annotated[int, typer.Option(help="requests at a time")] = 1,
    variant: Annotated[list[str] | None, typer.Option(help="names of variants; else all")] = None,
    data_root: DataRoot = None,
    plugins: Plugins = None,
) -> None:
    """Measure load time, memory and speed of each variant on this machine, for the page and `kick advise`."""
    from kick.sweep import cost as sweep_cost

    how = sweep_cost.CostOptions(
        engine=engine,
        prompt=prompt,
        new=new,
        batch=batch,
        variants=tuple(variant or ()),
        data_root=data_root,
        plugins=tuple(plugins or ()),
    )
    sweep_cost.measure(results, how)


def size(text: str, option: str = "--memory") -> float:
    """Bytes of a size that an option gives: "4GB" is 4e9, "4GiB" 4 * 2**30. Raises KickError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B|)", text.strip().upper())
    if found is None or found[2] == "IB" or not float(found[1]) > 0:
        raise KickError(f"{option}: got {text!r}; expected a size above 0, as 4GB or 500MB")
    return float(found[1]) * _UNITS[found[2]]


def portion(text: str) -> float:
    """A share between 0 and 1: "5%" and "0.05". Raises KickError."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise KickError(f"--tolerance: got {text!r}; expected a share above 0 and below 1, as 5% or 0.05")
    return value
