"""What can this matrix show? Simulated verdicts of right/wrong tasks, with and without stopping early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from kick.errors import KickError
from kick.matrix.plan import Plan
from kick.report import wording
from kick.stats import metrics
from kick.stats.forecast import least_items
from kick.stats.sequential import Rule
from kick.stats.studies import Population, Studies, simulate
from kick.study.pages import StudyTable

SIZES = (96, 256, 1000, 14042)
CHANGES = (0.0, -0.007, -0.024, -0.056, -0.10, -0.16, -0.25, -0.35, -1.0)
FLIPS = 0.01


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    items: number of items by task. dense: the share that dense has right. changes: true changes, as shares of
    dense's score. flips: the share of all items that flips against the direction of the change, where so many
    can. rule: how a cell ends early, and its margin. runs: simulated studies per row.
    """

    items: Mapping[str, int]
    dense: float = 0.6
    changes: Sequence[float] = CHANGES
    flips: float = FLIPS
    rule: Rule = field(default_factory=Rule)
    runs: int = 1000

    def __post_init__(self) -> None:
        highest = 1 / self.dense - 1 if self.dense > 0 else 0.0
        checks = [
            ("dense's score", self.dense, 0 < self.dense <= 1, "a share above 0 and at most 1"),
            ("margin", self.rule.margin, 0 < self.rule.margin < 1, "a share above 0 and below 1"),
            ("flips", 100 * self.flips, 0 <= self.flips < 1, "per cent, from 0 to below 100"),
            ("runs", self.runs, self.runs >= 1, "at least 1"),
            *((task, count, count >= 2, "at least 2 items") for task, count in self.items.items()),
            *(
                (
                    "change",
                    100 * one,
                    -1 <= one <= highest + 1e-9,
                    f"per cent, from -100 to {100 * highest:.4g}",
                )
                for one in self.changes
            ),
        ]
        for name, got, valid, expected in checks:
            if not valid:
                raise KickError(f"{name}: got {got:g}; expected: {expected}")


@dataclass(frozen=True)
class Simulated:
    """What is found of one task and one true change: shares of the simulated studies.

    asked: the mean share of the items that was asked. agreement: verdicts that are those of all items.
    matching, worse, better, undecided: with stopping; those with `_at_all` at all items.
    """

    task: str
    items: int
    dense: float
    margin: float
    change: float
    flips: float
    asked: float
    agreement: float
    matching: float
    worse: float
    better: float
    undecided: float
    matching_at_all: float
    worse_at_all: float
    better_at_all: float


def rows(scenario: Scenario) -> list[Simulated]:
    """A row per task and true change."""
    return [row(scenario, task, change, seed) for task in scenario.items for seed, change in
            enumerate(scenario.changes)]  # fmt: skip


def edges(scenario: Scenario) -> list[Simulated]:
    """A row per task and end of the margin: all verdicts but "undecided" are errors there."""
    margin = scenario.rule.margin
    ends = [change for change in (-margin, margin) if change * scenario.dense <= 1 - scenario.dense]
    return [row(scenario, task, change, 100) for task in scenario.items for change in ends]


def row(scenario: Scenario, task: str, change: float, seed: int) -> Simulated:
    """The row of one task and one true change."""
    room = (1 - scenario.dense, scenario.dense)[change > 0], scenario.dense * (1 - abs(min(change, 0.0)))
    flips = max(0.0, min(scenario.flips, *room))
    truth, rule = Population.changed(scenario.dense, change, flips), scenario.rule
    found = simulate(truth, scenario.items[task], rule, scenario.runs, seed)
    at_all = [float((found.fixed == code).mean()) for code in (1, 2, 3)]
    return Simulated(
        task, scenario.items[task], scenario.dense, rule.margin, change, flips,
        float(found.asked.mean() / found.total), found.agreement, *_shares(found), *at_all,
    )  # fmt: skip


def _shares(found: Studies) -> tuple[float, float, float, float]:
    matching, worse, better = (found.share(name) for name in ("matching", "lower", "higher"))
    return matching, worse, better, found.share("undecided")


def of_plan(plan: Plan) -> dict[str, int]:
    """The items of each right/wrong task of a plan, by the number that its cells ask.

    Raises KickError if there is none.
    """
    found = {}
    for cell in plan.cells:
        task = plan.tasks[cell.task.name]
        metric = metrics.describe(task.about.get("primary", ""))
        count = cell.task.limit or task.size
        if count and metric.compared and metric.support.binary:
            found[cell.task.name] = count
    if not found:
        raise KickError("this matrix has no task of right/wrong items whose number is known; use --items")
    return found


# ------------------------------------------------------------------------------------------------- as tables


def table(found: Sequence[Simulated]) -> StudyTable:
    """Share of items asked, agreement and chance of each verdict, in per cent."""
    heads = ("task", "items", "true change", "asked", "as at all items", "matching", "worse", "better",
             "undecided")  # fmt: skip
    lines = [
        [one.task, str(one.items), _signed(one.change), *(_percent(value) for value in
         (one.asked, one.agreement, one.matching, one.worse, one.better, one.undecided))]
        for one in found
    ]  # fmt: skip
    return StudyTable(heads, lines)


def errors(found: Sequence[Simulated]) -> StudyTable:
    """Wrong verdicts at the ends of the margin, in per cent: with stopping, and at all items."""
    heads = ("task", "items", "true change", "said to match", "at all items", "said to be worse or better",
             "at all items ")  # fmt: skip
    lines = []
    for one in found:
        beyond = (one.worse, one.worse_at_all) if one.change < 0 else (one.better, one.better_at_all)
        values = (one.matching, one.matching_at_all, *beyond)
        lines.append([one.task, str(one.items), _signed(one.change), *(_percent(v, 1) for v in values)])
    return StudyTable(heads, lines)


def possible(scenario: Scenario) -> str:
    """From how many items on a match is possible, in words."""
    least = least_items(scenario.dense, scenario.rule.margin)
    small = [task for task, count in scenario.items.items() if count < least]
    said = f"matching within {100 * scenario.rule.margin:g} % takes at least about {least} items"
    said += f" where dense is right on {100 * scenario.dense:g} %"
    return f"{said}; impossible on: {', '.join(small)}" if small else said


def grid(found: Sequence[Simulated]) -> StudyTable:
    """Share of items asked by true change and number of items, with the agreement in parentheses."""
    sizes = list(dict.fromkeys((one.task, one.items) for one in found))
    by = {(one.task, one.change): one for one in found}
    lines = [
        [_signed(change), *(f"{by[task, change].asked:.2f} ({by[task, change].agreement:.2f})" for task, _ in
         sizes)]
        for change in dict.fromkeys(one.change for one in found)
    ]  # fmt: skip
    return StudyTable(("true change", *(f"N = {items:,}" for _, items in sizes)), lines)


def write(
    scenario: Scenario, found: Sequence[Simulated], wrong: Sequence[Simulated], folder: Path
) -> list[Path]:
    """Write verdicts.csv and verdicts.md; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / "verdicts.csv", folder / "verdicts.md"
    lines = pd.DataFrame([asdict(one) | {"edge": one in wrong} for one in [*found, *wrong]])
    data.write_text(wording.csv(lines), encoding="utf-8")
    said = possible(scenario)
    parts = [
        f"{said[0].upper()}{said[1:]}.",
        *(t.markdown() for t in (grid(found), table(found), errors(wrong))),
    ]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [data, page]


def _percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _signed(change: float) -> str:
    return f"{100 * change:+g} %" if change else "none"
