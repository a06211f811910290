"""Signs that a cell's scores tell nothing of its model: said with the run, and kept in its record.

Each is about all answers of a cell: all begin with a blank that the gold answers have not, all are empty, all
were cut by the token limit, none has the form that was asked for; or a metric that no item has a value of.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from kick.records import Response, Sample, Score
from kick.tasks.task import Item, Task


def warnings(
    task: Task, items: Sequence[Item], samples: Sequence[Sample], scores: Sequence[Score]
) -> tuple[str, ...]:
    """The signs of a cell, a line each."""
    found = [_without_value(scores), _unscored(samples)]
    texts = [answer.text for sample in samples for answer in sample.responses if answer.text is not None]
    if texts and not task.needs_reference:
        empty = _empty(texts)
        found += [empty, _cut(items, samples), "" if empty else _unparsed(task, items, samples)]
        found.append("" if empty else _blank(task, items, samples))
    return tuple(line for line in found if line)


def _without_value(scores: Sequence[Score]) -> str:
    values = {score.metric: score.value for score in scores}
    undiverged = {"margin"} if values.get("sdt") == 0 else set()  # dense against itself: no margin to have
    names = [one.metric for one in scores if not one.n and one.missing and one.metric not in undiverged]
    return f"no item has a value of {', '.join(names)}" if names else ""


def _unscored(samples: Sequence[Sample]) -> str:
    answers = [a for sample in samples for a in sample.responses if a.greedy is not None]
    none = sum(answer.count == 0 for answer in answers)
    what = f"{none} of {len(answers)} continuations have no token of their own, and their items are missing"
    return what if none else ""


def _empty(texts: Sequence[str]) -> str:
    return "" if any(text.strip() for text in texts) else f"all {len(texts)} answers are empty"


def _cut(items: Sequence[Item], samples: Sequence[Sample]) -> str:
    limits = {
        item.id: next((r.max_tokens for r in item.requests if r.kind == "generate"), 0) for item in items
    }
    cut = [
        bool(limits.get(sample.item)) and (answer.count or 0) >= limits[sample.item]
        for sample in samples
        for answer in sample.responses
        if answer.text is not None
    ]
    most = max(limits.values(), default=0)
    return f"all {len(cut)} answers were cut by the limit of {most} tokens" if all(cut) else ""


def _unparsed(task: Task, items: Sequence[Item], samples: Sequence[Sample]) -> str:
    columns = [sample.scores.get("format_failure", math.nan) for sample in samples]
    if all(value == 1.0 for value in columns):
        return f"none of the {len(samples)} answers has the form that was asked for"
    filters = task.unparsed(items)
    return f"no answer has what the filter {', '.join(filters)} looks for" if filters else ""


def _blank(task: Task, items: Sequence[Item], samples: Sequence[Sample]) -> str:
    """Answers that all begin with a blank, gold answers that do not, and scores that this changes."""
    texts = [answer.text or "" for sample in samples for answer in sample.responses]
    said = [text for text in texts if text.strip()]
    golds = [sample.target for sample in samples if sample.target]
    if not all(text[:1].isspace() for text in said) or any(gold[:1].isspace() for gold in golds) or not golds:
        return ""
    again = task.score(items, [[_stripped(answer) for answer in sample.responses] for sample in samples])
    changed: Counter[str] = Counter()
    for values, sample in zip(again, samples, strict=True):
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        changed.update(name for name, value in known.items() if value != sample.scores.get(name))
    if not changed:
        return ""
    name, number = changed.most_common(1)[0]
    return (
        f"every answer begins with a blank and no gold answer does: without it {name} would be another for "
        f"{number} of {len(samples)} items (a filter remove_whitespace takes it off)"
    )


def _stripped(answer: Response) -> Response:
    return answer if answer.text is None else replace(answer, text=answer.text.strip())
