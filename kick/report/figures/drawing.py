"""Draws the registered figures to files: PNG, PDF, and the CSV behind each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

from kick.errors import KickError
from kick.registry import UnknownName, unknown
from kick.report import published, select, wording
from kick.report.figures import style
from kick.report.figures.entry import FigureEntry, known

PAPERS = ("llm-kick",)


@dataclass(frozen=True)
class Drawn:
    """Outcome of a figure: its files, or why it was not drawn."""

    name: str
    title: str
    files: tuple[Path, ...] = ()
    skipped: str = ""


def draw(
    frame: pd.DataFrame,
    out: str | Path,
    *,
    names: Sequence[str] = (),
    paper: str | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> list[Drawn]:
    """Draw figures of these names, or all, into the folder `out`; one without data is skipped with a reason.

    With `paper` "llm-kick" only the figures that the papers have, the published numbers beside ours:
    `numbers`, as `published.load` reads them, or the packaged ones. Several matrices or base models get a
    file each. Raises KickError for an unknown figure or paper.
    """
    if paper is not None and paper not in PAPERS:
        raise KickError(unknown("paper", paper, PAPERS))
    try:
        entries = {name: known[name] for name in (names or known)}
    except UnknownName as error:
        raise KickError(str(error)) from None
    folder = wording.folder_for(out)
    drawn: list[Drawn] = []
    with mpl.rc_context(style.settings()):
        for name, entry in entries.items():
            if paper is None or entry.paper:
                drawn += _one(
                    name, entry, frame, folder, numbers if paper is None else numbers or published.load()
                )
    return drawn


def _one(
    name: str, entry: FigureEntry, frame: pd.DataFrame, folder: Path, numbers: Mapping[str, Any] | None
) -> Iterator[Drawn]:
    parts = [("", frame)] if entry.across else select.sections(frame)
    for section, rows in parts:
        file = f"{name}-{wording.file_name(section)}" if section else name
        title = f"{entry.title} ({section})" if section else entry.title
        try:
            chosen = entry.rows(rows)
        except select.Nothing as nothing:
            yield Drawn(name, title, skipped=str(nothing))
            continue
        if entry.published and numbers is not None:
            theirs = published.pruning(entry.published, numbers).assign(kind="published")
            chosen = pd.concat([chosen, theirs], ignore_index=True)
        yield Drawn(name, title, _save(entry, chosen, folder / file))


def _save(entry: FigureEntry, rows: pd.DataFrame, path: Path) -> tuple[Path, ...]:
    """The three files of a figure; PNG and PDF carry no date, so equal results give equal files."""
    drawn = entry.draw(rows)
    files = tuple(path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "pdf", "csv"))
    drawn.savefig(files[0])
    drawn.set_layout_engine("none")  # laid out once is enough
    drawn.savefig(files[1], metadata={"CreationDate": None})
    files[2].write_text(wording.csv(rows), encoding="utf-8")
    return files
