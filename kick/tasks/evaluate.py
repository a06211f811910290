"""Ask, score, summarise. Only asking needs a model; scores can be redone from stored answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, Protocol

import numpy as np

from kick.errors import KickError
from kick.records import Request, Response, Sample, Score, TaskSpec
from kick.stats import intervals, metrics
from kick.stats.metrics import support_of, units_of
from kick.tasks.lm_eval_task import unflatten
from kick.tasks.signs import warnings
from kick.tasks.task import Aggregate, Item, Task

AGGREGATE_RESAMPLES = 1000  # for lm-eval's aggregations that are plain Python functions of a list


class Answering(Protocol):
    """What answers requests: batching, caches and drafts unseen."""

    def answer(
        self, requests: Sequence[Request], on_done: Callable[[int, Response], None] | None = None
    ) -> list[Response]:
        """One Response a request, in the order asked; `on_done(index, response)` as each is finished."""


@dataclass(frozen=True)
class Evaluation:
    """A cell's samples, its scores, counts of items, requests, truncated prompts, generated tokens, and what
    says that its scores may tell nothing of the model."""

    samples: tuple[Sample, ...]
    scores: tuple[Score, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Answers(Protocol):
    """Answers of one list of requests, by index, that outlive an interruption."""

    answers: dict[int, Response]

    def add(self, index: int, response: Response) -> None:
        """Keep the answer to request `index`."""


Keep = Callable[[str, int], AbstractContextManager[Answers]]  # (phase, number of requests) -> Kept


@dataclass
class InMemory:
    """Keeps nothing beyond the run."""

    answers: dict[int, Response] = field(default_factory=dict)

    def add(self, index: int, response: Response) -> None:
        """Keep the answer in memory."""
        self.answers[index] = response


def evaluate(task: Task, items: Sequence[Item], engine: Answering, keep: Keep | None = None) -> Evaluation:
    """Ask what is not yet answered, score everything.

    `keep` opens the answers of a phase ("first", "second": a task may ask again with the answers so far in
    hand, until it has nothing more to ask); those that an interrupted run left are not asked again.
    """
    keep = keep or (lambda phase, total: nullcontext(InMemory()))
    responses = ask(engine, items, keep, "first")
    phases = chain(("second", "third"), (f"turn {number}" for number in count(4)))
    while more := task.follow_up(items, responses):
        found = ask(engine, more, keep, next(phases))
        responses = [[*before, *now] for before, now in zip(responses, found, strict=True)]
    samples = score(task, items, responses)
    scores = summarise(task, samples)
    return Evaluation(samples, scores, counts(samples), warnings(task, items, samples, scores))


def ask(engine: Answering, items: Sequence[Item], keep: Keep, phase: str) -> list[list[Response]]:
    """The responses of every item, in order; requests whose answers were kept are not asked again.

    Raises RuntimeError if the engine leaves a request without an answer.
    """
    requests = [request for item in items for request in item.requests]
    with keep(phase, len(requests)) as kept:
        todo = [i for i in range(len(requests)) if i not in kept.answers]
        if todo:
            engine.answer([requests[i] for i in todo], lambda j, response: kept.add(todo[j], response))
        missing = sum(i not in kept.answers for i in todo)
        if missing:
            raise RuntimeError(f"the engine left {missing} of {len(todo)} requests without an answer")
        answers = iter([kept.answers[i] for i in range(len(requests))])
    return [[next(answers) for _ in item.requests] for item in items]


def score(task: Task, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> tuple[Sample, ...]:
    """The samples: what was answered, and what that is worth."""
    scores = task.score(items, responses)
    return tuple(
        item.sample(answers, values if _numbers(answers) else dict.fromkeys(values, math.nan))
        for item, answers, values in zip(items, responses, scores, strict=True)
    )


def _numbers(answers: Sequence[Response]) -> bool:
    """Whether the model computed every log-probability: among NaNs the first choice would be the largest."""
    return not any(answer.logprob is not None and math.isnan(answer.logprob) for answer in answers)


def rescore(task: Task, spec: TaskSpec, samples: Sequence[Sample]) -> Evaluation:
    """Score stored answers again, with no model and no tokenizer.

    Raises KickError if the stored samples do not answer the task as it is now.
    """
    stored = {sample.item: sample for sample in samples}
    items = task.answered(spec, samples)
    lost = [item.id for item in items if item.id not in stored]
    if lost or len(items) != len(stored):
        raise KickError(
            f"task {task.name} has {len(items)} items now, of which {len(lost)} have no stored answer "
            f"(stored: {len(stored)}): the cell must be run again, not rescored"
        )
    again = score(task, items, [stored[item.id].responses for item in items])
    again = tuple(_as_stored(new, stored[new.item]) for new in again)
    scores = summarise(task, again)
    return Evaluation(again, scores, counts(again), warnings(task, items, again, scores))


def _as_stored(new: Sample, old: Sample) -> Sample:
    """The new scores on the old sample; a judge's grades are not the task's own scores, and stay."""
    judged = {name: value for name, value in old.scores.items() if name.startswith("judge")}
    return replace(old, target=new.target or old.target, scores=judged | dict(new.scores))


def summarise(task: Task, samples: Sequence[Sample]) -> tuple[Score, ...]:
    """One Score a metric: lm-eval's aggregation where it has its own, else kick's table of metrics.

    Of several filters each gives a metric `name@filter`, which is aggregated as `name` is.
    """
    columns = _columns(samples)
    own, better = task.aggregates(), task.higher_is_better()
    scores = []
    for name, whole in _names(columns).items():
        metric, plain = metrics.describe(name), name.partition("@")[0]
        direction = better.get(plain, metric.higher_is_better)
        if whole and plain in own:
            scores.append(_from_lm_eval(name, own[plain], samples, direction))
        elif metric.column in columns:
            scores.append(_from_table(metric, columns, direction))
    return tuple(scores)


def _names(columns: Mapping[str, np.ndarray]) -> dict[str, bool]:
    """The metrics that these columns can give; true for those that lm-eval itself gave an item."""
    table = [name for name, metric in metrics.known.items() if metric.column in columns]
    read = frozenset().union(*(metrics.describe(name).columns for name in table))
    named = [
        name for name in table if (metrics.describe(name).weight or metrics.describe(name).column) in columns
    ]
    given = dict.fromkeys(name.partition("#")[0] for name in columns)
    return {name: name in given for name in dict.fromkeys([*named, *(n for n in given if n not in read)])}


def _columns(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for sample in samples for name in sample.scores)
    return {name: np.array([s.scores.get(name, math.nan) for s in samples], dtype=float) for name in names}


def _from_table(metric: metrics.Metric, columns: Mapping[str, np.ndarray], direction: bool) -> Score:
    values = columns[metric.column]
    weights = columns[metric.weight] if metric.weight else None
    value = intervals.aggregate(values, metric.kind, weights)
    units = units_of(metric, columns)
    low, high, stderr = intervals.interval(
        values, metric.kind, weights, support=support_of(metric, columns), units=units
    )
    missing = int(np.isnan(values).sum())
    known = len(values) - missing
    independent = None if units is None else len(np.unique(units[~np.isnan(values)]))
    return Score(metric.name, value, known, stderr, low, high, direction, missing, independent)


def _from_lm_eval(name: str, aggregate: Aggregate, samples: Sequence[Sample], direction: bool) -> Score:
    """A metric with lm-eval's own aggregation, such as F1 over pairs (gold, predicted).

    An item without the value, or whose value is not a number (a text), is missing.
    """
    values = [value for sample in samples if _known(value := unflatten(name, sample.scores))]
    missing = len(samples) - len(values)
    if not values:
        return Score(name, None, 0, None, None, None, direction, missing)
    draws = np.random.default_rng(0).integers(len(values), size=(AGGREGATE_RESAMPLES, len(values)))
    means = np.array([float(aggregate([values[i] for i in draw])) for draw in draws])
    low, high = np.quantile(means, [0.025, 0.975])
    value, stderr = float(aggregate(values)), float(means.std(ddof=1))
    low, high = min(low, value), max(high, value)
    return Score(name, value, len(values), stderr, float(low), float(high), direction, missing)


def _known(value: Any) -> bool:
    """Whether a value, or a tuple of such, is there and no NaN."""
    if isinstance(value, tuple | list):
        return all(map(_known, value))
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Items, requests, prompts that were cut, continuations without a token to score, tokens generated."""
    responses = [response for sample in samples for response in sample.responses]
    return {
        "items": len(samples),
        "requests": len(responses),
        "truncated": sum(response.truncated > 0 for response in responses),
        "unscored": sum(response.count == 0 for response in responses if response.greedy is not None),
        "generated_tokens": sum(r.count or 0 for r in responses if r.text is not None),
    }
