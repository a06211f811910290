"""Makes the registered tables, and writes them to files: Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, known


def make_all(frame: pd.DataFrame, names: Sequence[str] = ()) -> dict[str, Table]:
    """Every table, or those of these names, that the frame can feed.

    A section's name is added if there are several.
    """
    made: dict[str, Table] = {}
    for name in names or ordered():
        for section, rows in select.sections(frame):
            try:
                made[f"{name} ({section})" if section else name] = known[name].make(rows)
            except select.Nothing:
                continue
    return made


def ordered() -> list[str]:
    """The names of all tables as they are written one after the other."""
    return sorted(known, key=lambda name: (known[name].place, name))


@dataclass(frozen=True)
class WrittenTable:
    """Outcome of a table: its files, or why it was not written."""

    name: str
    files: tuple[Path, ...] = ()
    skipped: str = ""


def write(
    frame: pd.DataFrame, out: str | Path, names: Sequence[str] = (), *, paper: str | None = None
) -> Iterator[WrittenTable]:
    """Write tables into the folder `out`; several matrices or base models get files each.

    With `paper` only the tables that a paper has.
    """
    folder = wording.folder_for(out)
    for name in names or ordered():
        if paper is not None and not known[name].paper:
            continue
        for section, rows in select.sections(frame):
            stem = f"table-{name}-{wording.file_name(section)}" if section else f"table-{name}"
            try:
                made = known[name].make(rows)
            except select.Nothing as nothing:
                yield WrittenTable(name, skipped=str(nothing))
                continue
            yield WrittenTable(name, save(made, folder / stem))


def save(made: Table, path: Path) -> tuple[Path, ...]:
    """Write a table beside `path` as Markdown, CSV and LaTeX; the files."""
    texts = {"md": made.markdown(), "csv": made.csv(), "tex": made.latex()}
    files = tuple(path.with_name(f"{path.name}.{suffix}") for suffix in texts)
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text, encoding="utf-8", errors="replace")
    return files
