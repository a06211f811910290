"""Which variant to take: the cheapest that is shown to match dense on every task chosen, with its evidence.

    said = advise(frame, tolerance=0.05, memory=4e9)    # of one matrix and base model
    said.chosen                                         # a Candidate, or None: none is shown to

Only "matching" on every task is a recommendation: "undecided" is none, whatever the score. The frame's
verdicts are taken as they are; `kick.analysis.advised` computes them for another tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from kick.analysis import verdicts
from kick.analysis.frame_rows import headlines, records
from kick.errors import KickError
from kick.records import jsonable
from kick.registry import unknown
from kick.stats import metrics

SHOWN = 3  # variants that are named as nearest
SIZES = {"shipped": "shipped_bytes", "packed": "bytes"}
Size = Literal["shipped", "packed"]
Task = tuple[str, str]  # a task and its setting


@dataclass(frozen=True)
class Evidence:
    """A candidate on a task: its verdict at the tolerance, and what that is of.

    key: of the cell; n, of: items compared, and items the task has; verdict: in words, "not measured" without
    a cell, "none" if there is none (dense scores 0), "in doubt" if its samples do not confirm its record,
    "another engine" if dense was answered by another one;
    identical: whether every item is scored as dense's; decide: about how many items would decide an undecided
    task, None if that is not known.
    """

    task: str
    title: str
    setting: str
    key: str
    metric: str
    unit: str
    n: int
    of: int
    value: float
    dense: float
    gap: float
    low: float
    high: float
    verdict: str
    identical: bool = False
    decide: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A variant with its size in bytes and its evidence, a task each.

    simulated: whether it is quantized, and was measured on dequantized weights: it has no speed of its own.
    decode, dense_decode: tokens that it and dense generate per second by the engine, device and shapes of
    cost_of, which are dense's too; NaN and "" if `kick cost` has not measured both so.
    """

    label: str
    variant: str
    size: float
    size_of: str
    simulated: bool
    evidence: tuple[Evidence, ...]
    decode: float = math.nan
    dense_decode: float = math.nan
    cost_of: str = ""

    @property
    def shown(self) -> bool:
        """Whether it is shown to match on every task."""
        return all(one.verdict == "matching" for one in self.evidence)

    @property
    def open(self) -> tuple[Evidence, ...]:
        """The tasks on which it is not shown to match."""
        return tuple(one for one in self.evidence if one.verdict != "matching")

    @property
    def distance(self) -> tuple[int, int, float]:
        """How far it is from being shown, to sort by: tasks that speak against it, tasks open, its size."""
        against = sum(one.verdict not in ("matching", "undecided", "not measured") for one in self.evidence)
        return against, len(self.open), self.size


@dataclass(frozen=True)
class Advice:
    """What the results of a matrix say.

    memory: bytes that the variant may have, None for any; chosen: the smallest variant shown to match, None
    if none is; nearest: smaller ones than the chosen that are not shown to (of none chosen, any), the nearest
    first; dense: the size of dense itself; looked: how many variants fit and were looked at; too_large,
    unsized: labels of variants that do not fit, and of those whose size is not known.
    """

    matrix: str
    base: str
    tolerance: float
    memory: float | None
    by: Size
    tasks: tuple[str, ...]
    chosen: Candidate | None
    nearest: tuple[Candidate, ...]
    dense: float
    looked: int
    too_large: tuple[str, ...]
    unsized: tuple[str, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; what is not known is null."""
        return jsonable(asdict(self))


def advise(
    frame: pd.DataFrame,
    *,
    tolerance: float,
    memory: float | None = None,
    tasks: Sequence[str] = (),
    by: Size = "shipped",
) -> Advice:
    """The advice of one matrix and base model's rows.

    Args:
        frame: of `kick.analysis.frame`, its verdicts at this tolerance.
        tolerance: the share of dense's score within which a variant matches.
        memory: bytes that a variant may have at most.
        tasks: their names; all whose headline metric has a verdict if none is given.

    Raises:
        KickError: an unknown task, or one whose headline metric has no verdict.
    """
    rows = headlines(frame)
    chosen, skipped = _chosen(rows, tasks)
    dense = rows[rows["dense"]]
    others = rows[~rows["dense"]]
    found = [_candidate(part, chosen, dense, by) for _, part in others.groupby("variant", sort=False)]
    sized = [one for one in found if math.isfinite(one.size)]
    fitting = [one for one in sized if memory is None or one.size <= memory]
    shown = min((one for one in fitting if one.shown), key=lambda one: one.size, default=None)
    rest = [one for one in fitting if not one.shown and (shown is None or one.size < shown.size)]
    first = rows.iloc[0]
    return Advice(
        matrix=first["matrix"],
        base=first["base"],
        tolerance=tolerance,
        memory=memory,
        by=by,
        tasks=tuple(dict.fromkeys(task for task, _ in chosen)),
        chosen=shown,
        nearest=tuple(sorted(rest, key=lambda one: one.distance)[:SHOWN]),
        dense=_size(dense, by),
        looked=len(fitting),
        too_large=tuple(one.label for one in sized if one not in fitting),
        unsized=tuple(one.label for one in found if one not in sized),
        skipped=skipped,
    )


def _chosen(rows: pd.DataFrame, named: Sequence[str]) -> tuple[list[Task], tuple[str, ...]]:
    """The tasks with their settings, and titles of those left out because they have no verdict."""
    known = list(
        dict.fromkeys(zip(rows["task"], rows["setting"], rows["title"], rows["metric"], strict=True))
    )
    names = {task for task, *_ in known}
    for name in named:
        if name not in names:
            raise KickError(f"--tasks: {unknown('task', name, names)}")
    compared = [one for one in known if metrics.describe(one[3]).compared]
    without = {task for task, *_ in known} - {task for task, *_ in compared}
    for name in named:
        if name in without:
            raise KickError(f"--tasks: {name} has no verdict: its metric is a distance or a diagnostic")
    if not compared:
        raise KickError("no task of these results has a metric with a verdict")
    chosen = [(task, setting) for task, setting, *_ in compared if not named or task in named]
    skipped = () if named else tuple(title for task, _, title, _ in known if task in without)
    return chosen, skipped


def _size(rows: pd.DataFrame, by: Size) -> float:
    """The size of a variant: the same in all of its rows, but for rows of older results."""
    return float(rows[SIZES[by]].max())


def _candidate(rows: pd.DataFrame, tasks: Sequence[Task], dense: pd.DataFrame, by: Size) -> Candidate:
    own, theirs = ({(row["task"], row["setting"]): row for row in records(part)} for part in (rows, dense))
    first = rows.iloc[0]
    return Candidate(
        label=first["label"],
        variant=first["variant"],
        size=_size(rows, by),
        size_of=first["shipped_as"] if by == "shipped" else "ideal packed format",
        simulated=bool(first["simulated"]),
        evidence=tuple(_evidence(own.get(task), theirs.get(task), task) for task in tasks),
        **_speed(first, dense),
    )


def _speed(row: pd.Series, dense: pd.DataFrame) -> dict[str, Any]:
    """What was measured of a variant's speed, if dense was measured the same way."""
    same = dense[dense["cost_of"].eq(row["cost_of"]) & dense["decode"].notna()]
    if not row["cost_of"] or same.empty or not math.isfinite(row["decode"]):
        return {}
    return {
        "decode": float(row["decode"]),
        "dense_decode": float(same["decode"].iloc[0]),
        "cost_of": str(row["cost_of"]),
    }


def _evidence(row: Mapping[str, Any] | None, dense: Mapping[str, Any] | None, task: Task) -> Evidence:
    if row is None:
        title = str(dense["title"]) if dense else task[0]
        metric, unit = (str(dense["metric"]), str(dense["unit"])) if dense else ("", "")
        nothing = (math.nan, math.nan, math.nan, math.nan, math.nan)
        return Evidence(task[0], title, task[1], "", metric, unit, 0, 0, *nothing, verdict="not measured")
    return Evidence(
        task=task[0],
        title=str(row["title"]),
        setting=task[1],
        key=str(row["key"]),
        metric=str(row["metric"]),
        unit=str(row["unit"]),
        n=int(row["n"]),
        of=int(row["of"]),
        value=float(row["value"]),
        dense=float(row["dense_value"]),
        gap=float(row["gap"]),
        low=float(row["gap_low"]),
        high=float(row["gap_high"]),
        verdict=_verdict(row),
        identical=bool(row["n"] > 0 and row["same"] == row["n"]),
    )


def _verdict(row: Mapping[str, Any]) -> str:
    """The verdict in words; undecided is undecided, inside the noise or not: nothing is shown."""
    if row["doubt"]:
        return "in doubt"
    if row["foreign"]:
        return "another engine"
    if row["verdict"] in ("undecided", ""):
        return row["verdict"] or "none"
    return verdicts.of_row(row)
