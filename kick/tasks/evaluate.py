"""Ask, score, summarise. Only asking needs a model; scores can be redone from stored answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from kick.errors import KickError
from kick.records import Request, Response, Sample, Score, TaskSpec
from kick.stats import intervals, metrics
from kick.stats.metrics import support_of, units_of
from kick.stats.sequential import Decision
from kick.tasks import lengths
from kick.tasks.ahead import calls
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
    """A cell's samples, its scores, counts of items, requests, truncated prompts, generated tokens, what says
    that its scores may tell nothing of the model, and how it ended if it could end early."""

    samples: tuple[Sample, ...]
    scores: tuple[Score, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stopping: Mapping[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Phase:
    """Requests whose answers an evaluation needs before it goes on, some of which are there already.

    kept: takes each answer. known: answers from elsewhere, by index.
    """

    requests: Sequence[Request]
    kept: Answers
    known: Mapping[int, Response] = field(default_factory=dict)

    @property
    def todo(self) -> list[int]:
        """The indices of the requests that have no answer yet."""
        return [i for i in range(len(self.requests)) if i not in self.kept.answers and i not in self.known]

    def ask(self, engine: Answering) -> None:
        """Have the engine answer what is left to do."""
        todo = self.todo
        engine.answer([self.requests[i] for i in todo], lambda j, response: self.kept.add(todo[j], response))

    def responses(self) -> list[Response]:
        """All answers, in order. Raises RuntimeError if one is missing."""
        missing = len(self.todo)
        if missing:
            raise RuntimeError(
                f"the engine left {missing} of {len(self.requests)} requests without an answer"
            )
        answers, known = self.kept.answers, self.known
        return [answers[i] if i in answers else known[i] for i in range(len(self.requests))]


Found = TypeVar("Found")
Steps: TypeAlias = Generator[Phase, None, Found]  # yields what to ask, is resumed once that is answered
Responses: TypeAlias = list[list[Response]]  # of each item
Known: TypeAlias = Mapping[
    str, Sequence[Response]
]  # all responses of an item that was answered before, by id


class Waves(Protocol):
    """Numbers of items at which an evaluation may end, and what decides whether it does."""

    @property
    def looks(self) -> Sequence[int]:
        """The numbers of items, growing; the last one is all of them."""

    def decide(self, samples: Sequence[Sample]) -> Decision:
        """What the first items say."""


def evaluate(task: Task, items: Sequence[Item], engine: Answering, keep: Keep | None = None) -> Evaluation:
    """Ask what is not yet answered, score everything.

    `keep` opens the answers of a phase ("first", "second": a task may ask again with the answers so far in
    hand, until it has nothing more to ask); those that an interrupted run left are not asked again.
    """
    with closing(whole(task, items, keep)) as steps:
        while True:
            try:
                phase = next(steps)
            except StopIteration as end:
                found: Evaluation = end.value
                return found
            phase.ask(engine)


def whole(
    task: Task, items: Sequence[Item], keep: Keep | None = None, known: Known | None = None
) -> Steps[Evaluation]:
    """The steps of an evaluation that asks all items; what is `known` is not asked."""
    responses = yield from _responses(task, items, keep or _in_memory, known or {})
    return summarised(task, items, score(task, items, responses))


def in_waves(
    task: Task,
    items: Sequence[Item],
    waves: Waves,
    keep: Keep | None = None,
    known: Known | None = None,
) -> Steps[Evaluation]:
    """The steps of an evaluation that asks items in order up to a look, and ends there if that decides.

    The answers of a call are kept under its phases' names and its first item's place. A call can have the
    items of several looks (`kick.tasks.ahead`), of which those behind the end are dropped.
    """
    keep, known = keep or _in_memory, known or {}
    samples: list[Sample] = []
    for looks in calls(items, waves.looks):
        start = len(samples)
        part = items[start : looks[-1]]

        def here(phase: str, total: int, start: int = start) -> AbstractContextManager[Answers]:
            return keep(f"{phase} from {start}", total)

        responses = yield from _responses(task, part, here, known)
        scored = score(task, part, responses)
        for look in looks:
            samples += scored[len(samples) - start : look - start]
            decision = waves.decide(samples)
            if decision.done:
                break
        if decision.done:
            break
    return replace(summarised(task, items[: len(samples)], samples), stopping=decision.record)


def summarised(task: Task, items: Sequence[Item], samples: Sequence[Sample]) -> Evaluation:
    """The evaluation of samples that are scored."""
    scores = summarise(task, samples)
    return Evaluation(tuple(samples), scores, counts(samples), warnings(task, items, samples, scores))


def _in_memory(phase: str, total: int) -> AbstractContextManager[Answers]:
    return nullcontext(InMemory())


def _responses(task: Task, items: Sequence[Item], keep: Keep, known: Known) -> Steps[Responses]:
    """All responses of the items: to the first requests, then to what the task asks with these in hand."""
    responses = yield from _asked(items, keep, "first", [known.get(item.id, ()) for item in items])
    phases = chain(("second", "third"), (f"turn {number}" for number in count(4)))
    while more := task.follow_up(items, responses):
        rest = [known.get(item.id, ())[len(has) :] for item, has in zip(items, responses, strict=True)]
        found = yield from _asked(more, keep, next(phases), rest)
        responses = [[*before, *now] for before, now in zip(responses, found, strict=True)]
    return responses


def _asked(
    items: Sequence[Item], keep: Keep, phase: str, known: Sequence[Sequence[Response]]
) -> Steps[Responses]:
    """The responses of every item, in order; what was kept or is known is not asked again.

    Raises RuntimeError if a request is left without an answer.
    """
    requests = [request for item in items for request in item.requests]
    padded = (
        [*has, *[None] * len(item.requests)][: len(item.requests)]
        for item, has in zip(items, known, strict=True)
    )
    there = {i: response for i, response in enumerate(chain(*padded)) if response is not None}
    with keep(phase, len(requests)) as kept:
        step = Phase(requests, kept, there)
        if step.todo:
            yield step
        answers = iter(step.responses())
    return [[next(answers) for _ in item.requests] for item in items]


def score(task: Task, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> tuple[Sample, ...]:
    """The samples: what was answered, and what that is worth."""
    scores = task.score(items, responses)
    return tuple(
        item.sample(
            answers,
            lengths.scores(item, answers)
            | (values if _numbers(answers) else dict.fromkeys(values, math.nan)),
        )
        for item, answers, values in zip(items, responses, scores, strict=True)
    )


def _numbers(answers: Sequence[Response]) -> bool:
    """Whether the model computed every log-probability: among NaNs the first choice would be the largest."""
    return not any(answer.logprob is not None and math.isnan(answer.logprob) for answer in answers)


def rescore(task: Task, spec: TaskSpec, samples: Sequence[Sample]) -> Evaluation:
    """Score stored answers again, with no model and no tokenizer, in the order of the samples if the spec has
    a rule, which then has not decided anew.

    Raises KickError if the stored samples do not answer the task as it is now.
    """
    items = task.answered(spec, samples)
    stored = dict(zip(_numbered([sample.item for sample in samples]), samples, strict=True))
    ids = _numbered([item.id for item in items])
    if spec.stop:  # not all are asked, and in an order of their own
        there = dict(zip(ids, items, strict=True))
        ids = [name for name in stored if name in there]
        items = [there[name] for name in ids]
    lost = [name for name in ids if name not in stored]
    if lost or len(items) != len(stored):
        raise KickError(
            f"task {task.name} has {len(items)} items now, of which {len(lost)} have no stored answer "
            f"(stored: {len(stored)}): the cell must be run again, not rescored"
        )
    again = score(task, items, [stored[name].responses for name in ids])
    whole = [_as_stored(new, stored[name]) for new, name in zip(again, ids, strict=True)]
    return summarised(task, items, whole)


def _numbered(ids: Sequence[str]) -> list[tuple[str, int]]:
    """Each id with how many of it came before: earlier versions gave equal windows of a corpus one id."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in ids:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


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
