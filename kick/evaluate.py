"""Ask, score, summarise. Only asking needs a model; scores can be redone from stored answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from kick import metrics, significance
from kick.records import KickError, Request, Response, Sample, Score, TaskSpec
from kick.tasks.harness import unflatten
from kick.tasks.task import Aggregate, Item, Task

Answers = Mapping[str, Sequence[Response]]  # by item id
OnItem = Callable[[Item, Sequence[Response]], None]

AGGREGATE_RESAMPLES = 1000  # for lm-eval's aggregations that are plain Python functions of a list


class Engine(Protocol):
    """What answers requests: batching, caches and drafts unseen."""

    def answer(
        self, requests: Sequence[Request], on_done: Callable[[int, Response], None] | None = None
    ) -> list[Response]:
        """One Response a request, in the order asked; `on_done(index, response)` as each is finished."""


@dataclass(frozen=True)
class Evaluation:
    """A cell's samples, its scores, and counts of items, requests, truncated prompts, generated tokens."""

    samples: tuple[Sample, ...]
    scores: tuple[Score, ...]
    counts: Mapping[str, int] = field(default_factory=dict)


def evaluate(
    task: Task,
    items: Sequence[Item],
    engine: Engine,
    *,
    answered: Answers | None = None,
    on_item: OnItem | None = None,
) -> Evaluation:
    """Ask what is not yet answered, score everything.

    `answered` holds answers kept from an interrupted run; `on_item` is called with each item that is answered
    now, in the order in which the engine finishes them.
    """
    first = ask(engine, items, answered or {}, on_item)
    responses = [first[item.id] for item in items]
    more = task.follow_up(items, responses)
    if more:
        second = ask(engine, more, {}, None)
        responses = [[*one, *second[item.id]] for one, item in zip(responses, more, strict=True)]
    samples = score(task, items, responses)
    return Evaluation(samples, summarise(task, samples), _counts(samples))


def ask(
    engine: Engine, items: Sequence[Item], answered: Answers, on_item: OnItem | None
) -> dict[str, list[Response]]:
    """The responses of every item, by id; items in `answered` are not asked again."""
    found = {item.id: list(answered[item.id]) for item in items if item.id in answered}
    owners = [(item, i) for item in items if item.id not in found for i in range(len(item.requests))]
    parts: dict[str, dict[int, Response]] = {}

    def done(index: int, response: Response) -> None:
        item, place = owners[index]
        got = parts.setdefault(item.id, {})
        got[place] = response
        if len(got) == len(item.requests):
            found[item.id] = [got[i] for i in range(len(got))]
            if on_item:
                on_item(item, found[item.id])

    if owners:
        engine.answer([item.requests[i] for item, i in owners], done)
    missing = [item.id for item in items if item.id not in found]
    if missing:
        raise RuntimeError(f"the engine left {len(missing)} of {len(items)} items without an answer")
    return found


def score(task: Task, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> tuple[Sample, ...]:
    """The samples: what was answered, and what that is worth."""
    scores = task.score(items, responses)
    return tuple(
        item.sample(answers, values) for item, answers, values in zip(items, responses, scores, strict=True)
    )


def rescore(task: Task, spec: TaskSpec, tokenizer: Any, samples: Sequence[Sample]) -> Evaluation:
    """Score stored answers again, with no model.

    `tokenizer` is needed only by tasks whose prompts or windows are made of it. Raises KickError where the
    stored samples do not answer the task as it is now.
    """
    stored = {sample.item: sample for sample in samples}
    items = task.items(spec, tokenizer, stored if task.needs_reference else None)
    lost = [item.id for item in items if item.id not in stored]
    if lost or len(items) != len(stored):
        raise KickError(
            f"task {task.name} has {len(items)} items now, of which {len(lost)} have no stored answer "
            f"(stored: {len(stored)}): the cell must be run again, not rescored"
        )
    again = score(task, items, [stored[item.id].responses for item in items])
    again = tuple(replace(new, prompt=stored[new.item].prompt) for new in again)
    return Evaluation(again, summarise(task, again), _counts(again))


def summarise(task: Task, samples: Sequence[Sample]) -> tuple[Score, ...]:
    """One Score a metric: lm-eval's aggregation where it has its own, else kick's table of metrics."""
    columns = _columns(samples)
    better = task.higher_is_better()
    scores = []
    for name in _names(task, columns):
        metric = metrics.describe(name)
        direction = better.get(name, metric.higher_is_better)
        if metric.column in columns:
            scores.append(_from_table(metric, columns, direction))
        elif name in task.aggregates():
            scores.append(_from_lm_eval(name, task.aggregates()[name], samples, direction))
    return tuple(scores)


def _names(task: Task, columns: Mapping[str, np.ndarray]) -> Iterable[str]:
    """The metrics that these columns can give, the table's and the task's."""
    table = [name for name, metric in metrics.metrics.items() if metric.column in columns]
    read = {metrics.describe(name).column for name in table}
    read |= {metrics.describe(name).weight for name in table}
    plain = [name for name in columns if "#" not in name and name not in read]
    paired = [name for name in task.aggregates() if f"{name}#0" in columns]
    named = [
        name for name in table if (metrics.describe(name).weight or metrics.describe(name).column) in columns
    ]
    return dict.fromkeys([*named, *plain, *paired])


def _columns(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for sample in samples for name in sample.scores)
    return {name: np.array([s.scores.get(name, math.nan) for s in samples], dtype=float) for name in names}


def _from_table(metric: metrics.Metric, columns: Mapping[str, np.ndarray], direction: bool) -> Score:
    values = columns[metric.column]
    weights = columns[metric.weight] if metric.weight else None
    value = significance.aggregate(values, metric.kind, weights)
    low, high, stderr = significance.interval(values, metric.kind, weights)
    missing = int(np.isnan(values).sum())
    return Score(metric.name, value, len(values) - missing, stderr, low, high, direction, missing)


def _from_lm_eval(name: str, aggregate: Aggregate, samples: Sequence[Sample], direction: bool) -> Score:
    """A metric whose items are tuples, such as F1 of (gold, predicted), by lm-eval's aggregation."""
    values = [unflatten(name, sample.scores) for sample in samples]
    draws = np.random.default_rng(0).integers(len(values), size=(AGGREGATE_RESAMPLES, len(values)))
    means = np.array([float(aggregate([values[i] for i in draw])) for draw in draws])
    low, high = np.quantile(means, [0.025, 0.975])
    stderr = float(means.std(ddof=1))
    return Score(name, float(aggregate(values)), len(values), stderr, float(low), float(high), direction)


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    responses = [response for sample in samples for response in sample.responses]
    return {
        "items": len(samples),
        "requests": len(responses),
        "truncated": sum(response.truncated > 0 for response in responses),
        "generated_tokens": sum(r.count or 0 for r in responses if r.text is not None),
    }
