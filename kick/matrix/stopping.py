"""Rules by which the cells of a matrix end before all items are asked, from its keys `stop`, `margin`, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kick.matrix.schema import Matrix
from kick.records import Cell, TaskSpec, Variant

if TYPE_CHECKING:
    from kick.stats.sequential import Rule  # brings scipy in; a mistyped key is told without it
    from kick.tasks import Task

POINTS = 100  # in a share
HALF = 50  # per cent: a task on which dense must score no more than this is not warned of


def rule(matrix: Matrix, task: Task) -> Rule | None:
    """The rule of the matrix for a task; None if all items are asked."""
    from kick.stats.sequential import Rule

    if matrix.stop is None or task.at_once:
        return None
    return Rule(
        margin=matrix.margin,
        precision=precision(matrix.precision, task.about.get("primary", "")),
        looks=matrix.looks,
    )


def text(matrix: Matrix, task: Task) -> str:
    """The rule's text, for the task's spec; "" if all items are asked."""
    found = rule(matrix, task)
    return found.text if found else ""


def precision(points: float | None, primary: str) -> float | None:
    """The half-width that `points` are for a headline metric, in its unit.

    Points are hundredths of a share, and of perplexity hundredths of dense's; a score in tokens, words, nats
    or grades has the number itself.
    """
    from kick.stats import metrics

    if points is None:
        return None
    own_unit = bool(primary) and metrics.describe(primary).unit in ("tokens", "words", "nats", "points")
    return points if own_unit else points / POINTS


def expected(matrix: Matrix, task: Task, items: int) -> int:
    """The number of items that a variant's cell is expected to ask: all of them without a rule, else the mean
    of the looks, as if each were as likely as another to be the last.

    Simulated matrices ask 0.4 of 256 items and 0.2 of 14,042, as this gives. `kick study verdicts` simulates.
    """
    from kick.stats import metrics
    from kick.stats.sequential import looks

    found, metric = rule(matrix, task), metrics.describe(task.about.get("primary", ""))
    if found is None or not (metric.compared or found.precision):
        return items
    at = looks(items, found, metric.kind)
    return round(sum(at) / len(at))


def cannot_match(matrix: Matrix, task: Task, items: int, dense: float | None) -> str:
    """Why so many items of a right/wrong task cannot show a match, even if no answer flips; "" if they can.

    As long as `dense`, its share right, is not known, from which share on they can.
    """
    from kick.stats import metrics
    from kick.stats.forecast import least_items

    metric = metrics.describe(task.about.get("primary", ""))
    if not (metric.support.binary and metric.compared) or dense == 0:
        return ""
    if dense is not None:
        least = least_items(dense, matrix.margin)
        enough = f"dense scores {dense:.0%}, so that a match takes at least {least:,} items"
        return "" if items >= least else f"{task.name}: {enough}, and there are {items:,}"
    least = least_items(1.0, matrix.margin)
    if items < least:
        return f"{task.name}: a match takes at least {least:,} items, and there are {items:,}"
    able = next(share for share in range(1, 101) if least_items(share / 100, matrix.margin) <= items)
    return (
        ""
        if able <= HALF
        else f"{task.name}: {items:,} items can show a match if dense scores {able} % or more"
    )


def stops(variant: Variant) -> bool:
    """Whether a variant's cells may end early: dense and its replicas, the noise floor, ask all items; so
    does a served variant, which has a verdict only beside a dense model of its own engine, and one with a
    run-time method, what it reads being counted over all items."""
    return not (variant.dense or variant.replica or variant.endpoint or variant.runtime)


def cell(variant: Variant, spec: TaskSpec, dense: str, engine: str, needs_reference: bool) -> Cell:
    """The cell of a variant; one that may end early names the dense cell too, whose items are its design."""
    compared = not variant.dense and (needs_reference or bool(spec.stop))
    return Cell(variant, spec, dense if compared else None, engine)
