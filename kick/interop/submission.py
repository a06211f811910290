"""Results from elsewhere: each cell checked against itself, then a leaderboard under an index of them.

Refused is what cannot be true, or cannot be compared: a damaged cell, a key that is not that of what the cell
says it is, a score that its own items do not give, a matrix without a dense model, a variant that shares no
item with it. What a reader should know of results that are sound is a note: keys of an older version, which
cannot be computed again, tasks that this installation asks otherwise, cells that failed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kick import tasks
from kick.analysis import frame, stopped
from kick.analysis.cells import StoredCell, gather
from kick.analysis.headlines import headline
from kick.analysis.items import Items, aggregate
from kick.errors import KickError
from kick.printable import counted, plain
from kick.records import KEY_VERSION, Result
from kick.report import leaderboard, site
from kick.stats import metrics
from kick.store import Store, opened
from kick.tasks import index

CLOSE = 1e-6  # relative: what a score may differ from that of its items
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
FILE = "submission.json"
TOLD = 20  # reasons that a refusal lists


@dataclass(frozen=True)
class SubmissionCheck:
    """What was found in a folder of results: why it is refused, if it is, and what readers should know."""

    store: Store
    runs: tuple[Result, ...]
    refused: tuple[str, ...]
    notes: tuple[str, ...]


def check(results: str | Path) -> SubmissionCheck:
    """Check every cell of a folder of results. Raises KickError if it is not a folder of results."""
    store = opened(results)
    states = list(store.states(verify=True))
    if not states:
        raise KickError(f"{results} has no cell; expected a folder that `kick run` made")
    refused = [f"{one.matrix}/{one.key}: {one.note}" for one in states if one.state == "damaged"]
    runs = [store.result(state.key) for state in states if state.state == "done"]
    refused += [f"{run.matrix}/{run.key}: {text}" for run in runs for text in _wrong(store, run)]
    refused += _incomparable(store, {run.key for run in runs})
    unfinished = Counter(state.state for state in states if state.state not in ("done", "damaged"))
    notes = [f"{counted(count, 'cell')} {what}, left out" for what, count in unfinished.items()]
    return SubmissionCheck(store, tuple(runs), tuple(map(plain, refused)), (*notes, *_notes(runs)))


def _wrong(store: Store, run: Result) -> Iterator[str]:
    """What of a cell contradicts itself."""
    if run.key_version == KEY_VERSION and run.cell.key != run.key:
        yield f"its key is not that of what it says was measured, {run.cell.key}"
    ids, groups, columns = store.arrays(run.key)
    items = Items(tuple(ids), tuple(groups), columns)
    if len(set(ids)) < len(ids):
        yield f"{len(ids) - len(set(ids))} items occur twice"
    early = stopped.early(StoredCell(run, store, "", {}))
    for score in run.scores:
        metric = metrics.describe(score.metric)
        if early or not items.has(metric):  # an estimate for all items, or a score of no item alone
            continue
        value = aggregate(items, metric)
        stored = math.nan if score.value is None else score.value
        neither = math.isnan(value) and math.isnan(stored)
        if not (neither or math.isclose(value, stored, rel_tol=CLOSE, abs_tol=1e-12)):
            yield f"{score.metric} is {stored:g}, but its items give {value:g}"
        if score.n + score.missing != len(ids):
            yield f"{score.metric} is of {score.n + score.missing} items, but {len(ids)} are stored"


def _incomparable(store: Store, sound: Collection[str]) -> Iterator[str]:
    """Matrices without a dense model, and variants that share no item with it, of the sound cells."""
    cells = [cell for cell in gather([store])[0] if cell.run.key in sound]
    dense = {cell.asked: set(cell.items().ids) for cell in cells if cell.variant.dense}
    for matrix in dict.fromkeys(cell.run.matrix for cell in cells):
        if not any(asked[0] == matrix for asked in dense):
            yield f"{matrix}: no dense model, so there is nothing to compare with"
    for cell in cells:
        if cell.asked in dense and not dense[cell.asked] & set(cell.items().ids):
            yield f"{cell.run.matrix}/{cell.run.key}: none of its items were asked of the dense model"
    if cells and not any(headline(cell.run) for cell in cells):
        yield "no cell has a score"


def _notes(runs: Sequence[Result]) -> Iterator[str]:
    """What readers should know of sound results."""
    old = Counter(run.key_version for run in runs if run.key_version != KEY_VERSION)
    for version, count in old.items():
        yield f"{counted(count, 'key')} of version {version}: they cannot be computed again"
    dirty = sum(bool(run.provenance.get("dirty")) for run in runs)
    if dirty:
        yield f"{counted(dirty, 'cell')} measured by a working copy with changes of its own"
    bare = sum(not run.provenance.get("versions") for run in runs)
    if bare:
        yield f"{counted(bare, 'cell')} without the versions that measured it"
    yield from _asked_otherwise(runs)


def _asked_otherwise(runs: Sequence[Result]) -> Iterator[str]:
    """Tasks that come with their data here, and whose questions are others than those that were asked."""
    asked: dict[str, set[str]] = {}
    for run in runs:
        if run.cell.task.name in index.own() and run.key_version == KEY_VERSION:
            asked.setdefault(run.cell.task.name, set()).add(run.cell.task.digest)
    for name, digests in asked.items():
        if not name.startswith("kick_mini"):  # others' data may be on a hub
            continue
        (own,) = tasks.load([name], None).values()
        if digests != {own.digest}:
            yield f"{name} has another digest here: its files or data are of another version"


def accepted(results: str | Path) -> SubmissionCheck:
    """What was found in results that are sound. Raises KickError with the reasons if they are refused."""
    found = check(results)
    if found.refused:
        more = len(found.refused) - TOLD
        reasons = "".join(f"\n  {reason}" for reason in found.refused[:TOLD])
        raise KickError(f"{results} is refused:{reasons}" + (f"\n  and {more} more" if more > 0 else ""))
    return found


def submit(
    results: str | Path, into: str | Path, name: str | None = None
) -> tuple[list[Path], SubmissionCheck]:
    """Check results, write their leaderboard into the folder `into`/NAME and the index anew.

    Without a name it is the matrix's. Returns the files written and what was found. Raises KickError if the
    results are refused, or for a name that is taken or cannot be a folder's.
    """
    found = accepted(results)
    folder = _folder(Path(into), name, found.runs)
    written = leaderboard.render(frame.read([found.store]), folder, notes=found.notes)
    record = {
        "matrices": sorted({run.matrix for run in found.runs}),
        "cells": {run.key: run.samples["sha256"] for run in found.runs},
        "kick": sorted({str(run.provenance.get("kick", "")) for run in found.runs}),
        "notes": list(found.notes),
    }
    (folder / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return [*written, folder / FILE, site.build(into)], found


def _folder(into: Path, name: str | None, runs: Sequence[Result]) -> Path:
    """The folder of a leaderboard that is not there yet."""
    matrices = sorted({run.matrix for run in runs})
    if name is None and len(matrices) > 1:
        raise KickError(
            f"--name: the results are of several matrices ({', '.join(matrices)}); expected a name"
        )
    name = name or matrices[0]
    if not NAME.fullmatch(name):
        raise KickError(f"--name: invalid name {name!r}; expected letters, digits, '-', '_' and '.'")
    if (into / name).exists():
        raise KickError(f"--name: {into / name} is there already; expected another name")
    return into / name
