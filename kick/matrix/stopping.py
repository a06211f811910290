"""Rules by which the cells of a matrix end before all items are asked, from its keys `stop`, `margin`, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kick.matrix.schema import Matrix
from kick.records import Cell, TaskSpec, Variant

if TYPE_CHECKING:
    from kick.stats.sequential import Rule  # brings scipy in; a mistyped key is told without it
    from kick.tasks import Task

POINTS = 100  # in a share


def rule(matrix: Matrix, task: Task) -> Rule | None:
    """The rule of the matrix for a task; None if all items are asked."""
    from kick.stats.sequential import Rule

    if matrix.stop is None:
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


def stops(variant: Variant) -> bool:
    """Whether a variant's cells may end early: dense and its replicas, the noise floor, ask all items."""
    return not variant.dense and variant.replica is None


def cell(variant: Variant, spec: TaskSpec, dense: str, engine: str, needs_reference: bool) -> Cell:
    """The cell of a variant; one that may end early names the dense cell too, whose items are its design."""
    compared = not variant.dense and (needs_reference or bool(spec.stop))
    return Cell(variant, spec, dense if compared else None, engine)
