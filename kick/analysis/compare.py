"""Two variants of one matrix, item by item: per task the paired difference, its verdict, and what flipped.

`b` is compared with `a`: a gap is b's score minus a's. Items flip if they are right or wrong in the
task's headline metric; of graded tasks (F1, ROUGE) those with the largest change are listed instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from kick.analysis.bands import Band, Reordered, band, closed
from kick.analysis.between import Side, between
from kick.analysis.cells import Stored, StoredCell, by_asked, gather
from kick.analysis.headlines import headline, info
from kick.analysis.items import Items
from kick.analysis.verdicts import inside, noise, verdict
from kick.errors import KickError
from kick.records import Sample, jsonable
from kick.registry import unknown
from kick.stats import metrics, paired

MUTUAL = "acc_mutual_info"


@dataclass(frozen=True)
class Flip:
    """An item that the two variants answer differently in worth."""

    item: str
    question: str
    target: str
    a_answer: str
    b_answer: str
    a_score: float
    b_score: float


@dataclass(frozen=True)
class ComparedTask:
    """b against a on one task; `flips` are the items that changed, the lost ones first.

    noise: the largest gap of a dense replica to dense, NaN if none was measured; verdict: in words, from
    b's side, as on the page (`kick.analysis.verdicts`); "" if the metric has none, or a is zero; of: how many
    items the task has; stopped: which of "a" and "b" ended before they were asked all of them; identical:
    what is equal of every compared item; margin: the share of a's score within which b matches; a_band,
    b_band: the range of each score over orders of its calibration, None if there was only one; across:
    whether the two were answered by different engines: then there is no verdict.
    """

    task: str
    title: str
    setting: str
    metric: str
    unit: str
    higher_is_better: bool
    a: float
    b: float
    difference: paired.Difference
    noise: float
    verdict: str
    p_holm: float
    flips: tuple[Flip, ...]
    of: int
    stopped: tuple[str, ...]
    identical: Literal["answers", "scores", ""]
    margin: float
    a_band: Band | None = None
    b_band: Band | None = None
    across: bool = False


@dataclass(frozen=True)
class Compared:
    """b against a on every task that both have. `a` and `b` are names, with their labels for readers."""

    matrix: str
    base: str
    a: str
    b: str
    a_label: str
    b_label: str
    tasks: tuple[ComparedTask, ...]
    missing: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """A row per task: both scores, their difference with interval, p and verdict, items lost and won."""
        return pd.DataFrame([_row(task) for task in self.tasks])

    def to_json(self) -> dict[str, Any]:
        """JSON values of the comparison; what could not be computed is null."""
        return jsonable(asdict(self))


def _row(task: ComparedTask) -> dict[str, Any]:
    own = (
        *("task", "title", "setting", "metric", "unit", "a", "b", "noise", "p_holm", "verdict"),
        *("of", "identical", "margin"),
    )
    paired = ("n", "units", "gap", "low", "high", "p", "lost", "won")
    numbers = {name: getattr(task.difference, name) for name in paired}
    ends = {"low": "order_low", "high": "order_high", "count": "orders"}
    over = {
        f"{side}_{name}": getattr(own, end, math.nan)
        for side, own in (("a", task.a_band), ("b", task.b_band))
        for end, name in ends.items()
    }
    return {name: getattr(task, name) for name in own} | numbers | over


def compare(store: Stored, a: str, b: str, *, matrix: str | None = None) -> Compared:
    """Variant `b` compared with variant `a`, each by its name (wanda-0.5) or its label (wanda 50 %).

    Without `matrix` the one that holds both is taken. Raises KickError for an unknown variant, two matrices
    that hold both, or no task in common.
    """
    cells, _ = gather([store])
    if not cells:
        raise KickError("these results have no finished cell; `kick run` makes some")
    cells = [cell for cell in cells if matrix is None or cell.run.matrix == matrix]
    sections = list(_sections(cells))
    meant = [(part, _named(a, part), _named(b, part)) for part in sections]
    for one, known in ((a, [first for _, first, _ in meant]), (b, [second for _, _, second in meant])):
        if not any(known):
            names = {name for cell in cells for name in (cell.variant.name, cell.label)}
            raise KickError(unknown("variant", one, names))
    both = [(part, first, second) for part, first, second in meant if first and second]
    if any(first == second for _, first, second in both):
        raise KickError(f"{a} is compared with itself; name two variants, as `kick status` lists them")
    if len(both) != 1:
        found = ", ".join(sorted({part[0].run.matrix for part, *_ in both}))
        problem = f"{a} and {b} are both in {found}" if both else f"no matrix holds both {a} and {b}"
        raise KickError(f"{problem}; name one matrix (results/<matrix>) in which both were measured")
    return _compare(*both[0])


def of_tasks(cells: Sequence[StoredCell], a: str, b: str) -> list[ComparedTask]:
    """Variant `b` compared with `a`, by name, on the tasks that both were asked; p is not adjusted.

    The cells are those of one matrix and base model.
    """
    found = []
    for part in by_asked(cells).values():
        sides = {cell.variant.name: cell for cell in part if cell.variant.name in (a, b)}
        if len(sides) == 2:
            found.append(_task(sides[a], sides[b], part))
    return found


def _named(text: str, cells: Sequence[StoredCell]) -> str | None:
    """The name of the variant that `text` means among the cells of a section: its name, else its label.

    Labels are compared without blanks and case: "Wanda 50%" is "wanda 50 %".
    """
    if any(cell.variant.name == text for cell in cells):
        return text
    squeezed = _squeezed(text)
    return next((cell.variant.name for cell in cells if _squeezed(cell.label) == squeezed), None)


def _squeezed(label: str) -> str:
    return "".join(label.split()).casefold()


def _sections(cells: Sequence[StoredCell]) -> Iterable[list[StoredCell]]:
    found: dict[tuple[str, str], list[StoredCell]] = {}
    for cell in cells:
        found.setdefault(cell.section, []).append(cell)
    return found.values()


def _compare(cells: Sequence[StoredCell], a: str, b: str) -> Compared:
    tasks, missing = of_tasks(cells, a, b), []
    for (_, _, task, setting), part in by_asked(cells).items():
        if len({cell.variant.name for cell in part} & {a, b}) == 1:
            missing.append(f"{task} ({setting})" if setting else task)
    if not tasks:
        raise KickError(f"{a} and {b} have no task in common; `kick status` lists what is done")
    tasks = _adjusted(tasks)
    labels = {cell.variant.name: cell.label for cell in cells}
    return Compared(*cells[0].section, a, b, labels[a], labels[b], tuple(tasks), tuple(missing))


def _adjusted(tasks: Sequence[ComparedTask]) -> list[ComparedTask]:
    """The tasks with Holm's p: those with a verdict are one family, distances and diagnostics another."""
    p = np.full(len(tasks), math.nan)
    compared = np.array([metrics.describe(task.metric).compared for task in tasks])
    raw = np.array([task.difference.p for task in tasks])
    for family in (compared, ~compared):
        p[family] = paired.holm(raw[family])
    return [replace(task, p_holm=float(own)) for task, own in zip(tasks, p, strict=True)]


def _noise(cells: Sequence[StoredCell], metric: str) -> float:
    """The noise floor of a metric, by the dense replicas among the cells that were asked the same."""
    values = {
        cell.variant.name: score.value
        for cell in cells
        for score in cell.run.scores
        if score.metric == metric
    }
    dense = next((values.get(cell.variant.name) for cell in cells if cell.variant.dense), None)
    replicas = [
        values.get(cell.variant.name) for cell in cells if cell.variant.replica and not cell.variant.reordered
    ]
    return noise(value - dense for value in replicas if value is not None and dense is not None)


def _task(a: StoredCell, b: StoredCell, cells: Sequence[StoredCell]) -> ComparedTask:
    first, second = (cell.store.samples(cell.run.key) for cell in (a, b))
    sides = Side(a, Items.of(first)), Side(b, Items.of(second))
    name = headline(a.run)
    metric = metrics.describe(name)
    both = between(*sides, cells, metric)
    if both is None:
        raise KickError(
            f"{a.run.cell.task.name}: the samples have no {metric.column}; `kick rescore` adds it"
        )
    across = a.run.cell.engine != b.run.cell.engine
    found = replace(both.difference, verdict="", p=math.nan) if across else both.difference
    better = next((s.higher_is_better for s in a.run.scores if s.metric == name), metric.higher_is_better)
    floor = _noise(cells, name)
    noisy = inside(found.gap, floor) and not (a.variant.replica or b.variant.replica)
    again = Reordered(cells)
    moves = [again.moves(one).get(name, []) for one in (a, b)]
    return ComparedTask(
        task=a.run.cell.task.name,
        title=info(a.run).title,
        setting=a.setting,
        metric=name,
        unit=metric.unit,
        higher_is_better=better,
        a=both.a,
        b=both.b,
        difference=found,
        noise=floor,
        verdict="" if across else verdict(found.verdict, found.gap, better, noisy, closed(found.gap, *moves)),
        p_holm=math.nan,
        flips=() if info(a.run).unshown else tuple(_changed(first, second, metric, better)),
        of=both.of,
        stopped=tuple(name for name, side in zip("ab", sides, strict=True) if side.early),
        identical=_identical(first, second, metric, found),
        margin=b.run.margin,
        a_band=band(both.a, moves[0]),
        b_band=band(both.b, moves[1]),
        across=across,
    )


def _identical(
    first: Sequence[Sample], second: Sequence[Sample], metric: metrics.Metric, found: paired.Difference
) -> Literal["answers", "scores", ""]:
    """What all items have in common: the answers that were given, or no more than their scores."""
    if not found.n or found.same < found.n:
        return ""
    others = {sample.item: sample for sample in second}
    pairs = [(one, others[one.item]) for one in first if one.item in others]
    answers = [tuple(answer_of(sample, metric) for sample in pair) for pair in pairs]
    return "answers" if all(one and one == other for one, other in answers) else "scores"


def _changed(
    first: Sequence[Sample], second: Sequence[Sample], metric: metrics.Metric, better: bool
) -> list[Flip]:
    """Items whose score changed: losses first, the largest change first; scores without text have none."""
    column = metric.column
    others = {sample.item: sample for sample in second}
    pairs = [(sample, others[sample.item]) for sample in first if sample.item in others]
    changes = [(one, other, _score(other, column) - _score(one, column)) for one, other in pairs]
    changed = [entry for entry in changes if entry[2] and not math.isnan(entry[2])]
    sign = 1 if better else -1
    changed.sort(key=lambda entry: (sign * entry[2] > 0, -abs(entry[2])))
    return [
        Flip(
            one.item,
            one.preview,
            one.target,
            answer_of(one, metric),
            answer_of(other, metric),
            _score(one, column),
            _score(other, column),
        )
        for one, other, _ in changed
    ]


def _score(sample: Sample, column: str) -> float:
    return float(sample.scores.get(column, math.nan))


def answer_of(sample: Sample, metric: metrics.Metric) -> str:
    """The generated text, or which of the choices has the highest log-likelihood.

    With lm-eval's acc_mutual_info each choice is asked a second time without the question, behind all others.
    """
    texts = [response.text for response in sample.responses if response.text is not None]
    if texts:
        return texts[0]
    logs = [response.logprob for response in sample.responses]
    alone: list[float | None] = []
    if any(name.partition("@")[0] == MUTUAL for name in sample.scores):
        logs, alone = logs[: len(logs) // 2], logs[len(logs) // 2 :]
    found = [log for log in logs if log is not None]
    bare = [log for log in alone if log is not None]
    if len(found) < max(2, len(logs)):
        return ""
    if bare and len(bare) == len(alone) and metric.name.partition("@")[0] == MUTUAL:
        found = [log - without for log, without in zip(found, bare, strict=True)]
    return f"choice {int(np.argmax(found)) + 1} of {len(found)}"
