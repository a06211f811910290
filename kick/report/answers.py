"""A few items with what every variant answered: the ones on which the variants disagree most.

Answers are model output: they are made visible here (`wording.visible`) and escaped by the page's template.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kick.analysis.cells import StoredCell
from kick.analysis.headlines import headline, info
from kick.errors import Damaged
from kick.records import Sample
from kick.report import wording

log = logging.getLogger("kick.report")
MOST = 24  # variants whose answers to an item are shown


def shown(cells: Sequence[StoredCell]) -> list[StoredCell]:
    """Those whose answers are shown: no replicas; of more than MOST dense and others evenly spaced."""
    return spaced([cell for cell in cells if not cell.variant.replica], MOST)


def spaced(cells: Sequence[StoredCell], most: int) -> list[StoredCell]:
    """At most so many of them: the first and the last, and others evenly spaced."""
    if len(cells) <= most:
        return list(cells)
    step = (len(cells) - 1) / (most - 1)
    return [cells[round(place * step)] for place in range(most)]


@dataclass(frozen=True)
class Answer:
    """Answer of these variants, and its score.

    `right` is None if items are not right or wrong.
    """

    labels: tuple[str, ...]
    text: str
    score: str
    right: bool | None


@dataclass(frozen=True)
class Example:
    """An item of a task with the variants' answers."""

    question: str
    target: str
    group: str
    answers: tuple[Answer, ...]


def examples(cells: Sequence[StoredCell], labels: Mapping[str, str], *, most: int = 3) -> list[Example]:
    """The first item of a task, then those with most disagreement; none if answers are not text.

    `cells` are those of one task and setting that are `shown`, dense first; `labels` names them by key. A
    damaged one has no answers here, nor has one that ended before an item was asked; without dense's there
    are none.
    """
    if not cells or not cells[0].variant.dense:
        return []
    metric = headline(cells[0].run)
    first = samples(cells[0])
    items = [name for name, sample in first.items() if _text(sample) is not None]
    if not items:  # a choice among given answers
        return []
    found = {cells[0].run.key: first} | {cell.run.key: samples(cell) for cell in cells[1:]}
    cells = [cell for cell in cells if found[cell.run.key]]
    found = {key: table for key, table in found.items() if table}
    written = [any(_text(sample) is not None for sample in table.values()) for table in found.values()]
    if not all(written):  # a reading of dense's
        return []
    spread = {
        name: _spread([table[name] for table in found.values() if name in table], metric) for name in items
    }
    ranked = sorted(items[1:], key=lambda name: -spread[name])
    chosen = [items[0], *(name for name in ranked[: most - 1] if spread[name] > 0)]
    return [_example(name, cells, found, labels, metric) for name in chosen]


def samples(cell: StoredCell) -> dict[str, Sample]:
    """Samples of a cell by item, for their texts: none if its task's are not shown, and none, with a warning,
    if the cell is damaged."""
    if info(cell.run).unshown:
        return {}
    try:
        return {sample.item: sample for sample in cell.store.samples(cell.run.key)}
    except Damaged as error:
        log.warning("%s; its answers are not shown", error)
        return {}


def _example(
    name: str,
    cells: Sequence[StoredCell],
    found: Mapping[str, Mapping[str, Sample]],
    labels: Mapping[str, str],
    metric: str,
) -> Example:
    sample = found[cells[0].run.key][name]
    same: dict[tuple[str, str, bool | None], list[str]] = {}
    for cell in cells:
        if name in found[cell.run.key]:
            answer = _worth(found[cell.run.key][name], metric)
            same.setdefault(answer, []).append(labels[cell.run.key])
    return Example(
        wording.visible(wording.question(sample.preview)).replace("\u21b5", ""),
        wording.visible(sample.target),
        wording.visible(sample.group, 60),
        tuple(Answer(tuple(names), *answer) for answer, names in same.items()),
    )


def _worth(sample: Sample, metric: str) -> tuple[str, str, bool | None]:
    """The answer as it can be shown, its score, and whether it is right."""
    score = sample.scores.get(metric, math.nan)
    right = bool(score) if score in (0.0, 1.0) else None
    return wording.visible((_text(sample) or "").strip()), "" if math.isnan(score) else f"{score:.2f}", right


def _text(sample: Sample) -> str | None:
    """The first generated text; None if nothing was generated."""
    return next((response.text for response in sample.responses if response.text is not None), None)


def _spread(samples: Sequence[Sample], metric: str) -> float:
    scores = [sample.scores.get(metric, math.nan) for sample in samples]
    known = [score for score in scores if not math.isnan(score)]
    mean = sum(known) / len(known) if known else 0.0
    return sum((score - mean) ** 2 for score in known)
