"""Data for the page's comparison of any two variants: right/wrong bits of all items, and what was answered.

The bits are those of every variant whose headline metric is right or wrong, so that the page's script can
pair any two of them. Prompts, gold answers and the variants' texts are many times larger: they are given to
the items on which most variants differ from dense first, and only as long as there is room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kick.analysis import bits
from kick.analysis.bits import Bits
from kick.analysis.cells import StoredCell
from kick.analysis.compare import answer_of
from kick.printable import counted
from kick.records import Sample
from kick.report import answers, select, wording
from kick.stats import metrics

ROOM = 3_000_000  # characters of texts in a page
MOST = 100  # rows whose answers are in the page
ANSWER, QUESTION = 240, 280  # characters shown of an answer, and of a prompt's end


@dataclass
class Room:
    """How many characters of texts a page has left."""

    left: int

    def take(self, size: int) -> bool:
        """Whether there was room for so many characters."""
        if size > self.left:
            self.left = 0
            return False
        self.left -= size
        return True


@dataclass
class BitsOfTask:
    """A task: its rows by label, the item ids in dense's order, the bits by row of the page."""

    rows: Mapping[str, Mapping[str, Any]]
    n: int
    right: dict[int, np.ndarray]
    texts: list[Any] = field(default_factory=list)
    shown: tuple[int, ...] = ()

    def order(self) -> list[int]:
        """Places of the items, those first on which most variants differ from dense."""
        dense = next(iter(self.right.values()))
        flips = sum(((one != dense).astype(int) for one in self.right.values()), np.zeros(self.n, dtype=int))
        return [int(place) for place in np.argsort(-flips, kind="stable")]


def data(
    frame: pd.DataFrame, cells: Mapping[str, StoredCell], found: Mapping[str, Bits], room: Room
) -> dict[str, Any]:
    """The data of a section; no tasks if nothing is right or wrong.

    {"rows": [label], "tasks": [...], "said": text}; a task is {"title", "metric", "n", "noise", "up",
    "bits": [[right, known] or null per row], "engines": [name per row] or null, "early": [row],
    "shown": [row], "texts": [[place, prompt, gold, group, [answer], [answer's place per shown row]]]}.

    cells: by key; found: bits by key.
    """
    rows = select.variant_order(select.headlines(frame, replicas=True))
    labels = list(dict.fromkeys(rows["label"]))
    tasks: list[dict[str, Any]] = []
    made = []
    for task in select.tasks(rows):
        part = select.by_label(select.of_task(rows, task))
        asked = _asked(part, labels, found)
        if asked is not None:
            made.append((asked, _texts(asked, labels, cells)))
            tasks.append(_task(part, labels, found, asked))
    _give(made, room)
    for told, (asked, _) in zip(tasks, made, strict=True):
        told.update(shown=asked.shown, texts=asked.texts)
    return {"rows": labels, "tasks": tasks, "said": _said([asked for asked, _ in made])}


def _asked(
    rows: Mapping[str, Mapping[str, Any]], labels: Sequence[str], found: Mapping[str, Bits]
) -> BitsOfTask | None:
    """The task's bits; None if fewer than two variants, or not dense's, are right or wrong."""
    dense = next((row for row in rows.values() if row["dense"]), None)
    if dense is None or dense["key"] not in found:
        return None
    n = found[dense["key"]]["n"]
    own = {labels.index(label): found[row["key"]] for label, row in rows.items() if row["key"] in found}
    first = labels.index(dense["label"])
    right = {
        at: bits.unpacked(one["right"], n) for at, one in sorted(own.items(), key=lambda e: e[0] != first)
    }
    return BitsOfTask(rows, n, right) if len(right) > 1 else None


def _task(
    rows: Mapping[str, Mapping[str, Any]], labels: Sequence[str], found: Mapping[str, Bits], asked: BitsOfTask
) -> dict[str, Any]:
    first = next(iter(rows.values()))
    keys = [rows[label]["key"] if label in rows else "" for label in labels]
    engines = [rows[label]["engine"] if label in rows else "" for label in labels]
    return {
        "title": wording.task_label(first),
        "metric": wording.metric_label(first["metric"]),
        "n": asked.n,
        "noise": float(first["noise"]) if wording.known(first["noise"]) else 0.0,
        "up": bool(first["higher_is_better"]),
        "bits": [[found[key]["right"], found[key]["known"]] if key in found else None for key in keys],
        "early": [at for at, label in enumerate(labels) if label in rows and rows[label]["stopped"]],
        "engines": engines if len(set(engines)) > 1 else None,
    }


def _texts(asked: BitsOfTask, labels: Sequence[str], cells: Mapping[str, StoredCell]) -> Iterable[list[Any]]:
    """Sets which variants are shown; then the items with their texts, one after the other."""
    ours = [cells[asked.rows[labels[at]]["key"]] for at in sorted(asked.right)]
    chosen = {cell.run.key: answers.samples(cell) for cell in answers.spaced(ours, MOST)}
    chosen = {key: table for key, table in chosen.items() if table}
    asked.shown = tuple(at for at in sorted(asked.right) if asked.rows[labels[at]]["key"] in chosen)
    keys = [asked.rows[labels[at]]["key"] for at in asked.shown]
    dense = next((row["key"] for row in asked.rows.values() if row["dense"]), "")
    if dense not in chosen:
        return
    ids = list(chosen[dense])
    if len(ids) != asked.n:  # an item asked twice has no place of its own
        return
    metric = metrics.describe(asked.rows[labels[asked.shown[0]]]["metric"])
    for place in asked.order():
        yield _item(place, ids[place], [chosen[key] for key in keys], chosen[dense][ids[place]], metric)


def _item(
    place: int, name: str, tables: Sequence[Mapping[str, Sample]], dense: Sample, metric: metrics.Metric
) -> list[Any]:
    """An item: place, prompt, gold, group, the different answers, and which of them each shown row gave."""
    own: dict[str, int] = {}
    given = []
    for table in tables:
        text = wording.visible(answer_of(table[name], metric).strip(), ANSWER) if name in table else None
        given.append(-1 if text is None else own.setdefault(text, len(own)))
    prompt = wording.visible(wording.question(dense.preview, QUESTION)).replace("\u21b5", "")
    gold, group = wording.visible(dense.target, ANSWER), wording.visible(dense.group, 60)
    return [place, prompt, gold, group, list(own), given]


def _give(made: Sequence[tuple[BitsOfTask, Iterable[list[Any]]]], room: Room) -> None:
    """Give the tasks' items their room in turn, until it ends."""
    waiting = [(asked, iter(items)) for asked, items in made]
    while waiting:
        for one in list(waiting):
            asked, items = one
            item = next(items, None)
            if item is None or not room.take(len(json.dumps(item))):
                waiting.remove(one)
            else:
                asked.texts.append(item)


def _said(tasks: Sequence[BitsOfTask]) -> str:
    """How many items have their texts in the page, in a sentence."""
    items, texts = sum(one.n for one in tasks), sum(len(one.texts) for one in tasks)
    rows = max((len(one.right) for one in tasks), default=0)
    shown = max((len(one.shown) for one in tasks), default=0)
    if not items:
        return ""
    whose = "" if shown == rows else f", of {shown} of {counted(rows, 'row')}"
    if texts == items:
        return f"The page holds the texts of all {counted(items, 'item')}{whose}."
    return (
        f"The page holds the right/wrong bits of all {counted(items, 'item')}, and the texts of "
        f"{texts}{whose}: those on which most variants differ from dense, up to {ROOM / 1e6:g} million "
        "characters. kick compare RESULTS A B has the others."
    )
