"""What a run of a matrix would do and cost: cells with their states, estimates, warnings, what is stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kick.errors import KickError
from kick.matrix import costs, measure, stale, stopping
from kick.matrix.load import Given
from kick.matrix.memory import gigabytes
from kick.matrix.plan import Plan
from kick.printable import counted
from kick.records import Cell
from kick.store import Store
from kick.sweep import run
from kick.sweep.progress.board import duration
from kick.sweep.run import RunOptions

if TYPE_CHECKING:
    from pandas import DataFrame

FEW = 4  # variants that are named where many are alike


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a plan. `items` is None if it is not known before the text is tokenised; `note` says why a
    cell failed."""

    variant: str
    task: str
    items: int | None
    key: str
    state: Literal["done", "failed", "to do"]
    note: str = ""


@dataclass(frozen=True)
class Needs:
    """What a variant's job needs: seconds on one worker, peak bytes of memory, bytes of disk; and the peak of
    `kick compress` with its recipe, block by block, 0 without a recipe that can be carried out so."""

    seconds: float
    memory: int
    disk: int
    compress: int = 0


@dataclass(frozen=True)
class Early:
    """Items that the cells to do have in all, those that they are expected to ask under the matrix's `stop`,
    and the seconds that all items would take."""

    items: int
    expected: int
    seconds: float

    def __str__(self) -> str:
        asked = f"about {self.expected:,} of {counted(self.items, 'item')}"
        return f"stop: {asked} are asked, if each look is as likely as another to end a cell"


@dataclass(frozen=True)
class Preview:
    """What a run of a matrix would do. `estimates` are by variant, `seconds_left` on one worker; `stale`
    names the causes for which stored cells no longer count.

    With `stop`, `early` says what it is expected to save, and `unmatched` on which tasks a match cannot be
    shown.
    """

    matrix: str
    cells: tuple[PlannedCell, ...]
    estimates: Mapping[str, Needs]
    seconds_left: float
    warnings: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    early: Early | None = None
    unmatched: tuple[str, ...] = ()
    engine: str = ""
    why: str = ""  # it was chosen, "" where the matrix names it
    generated: tuple[str, ...] = ()  # what generating answers block by block takes
    notes: tuple[str, ...] = ()  # what tasks say of their data and of what they read

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def frame(self) -> DataFrame:
        """The cells as a DataFrame with a row per cell: variant, task, items, key, state, note."""
        import pandas as pd

        return pd.DataFrame([asdict(cell) for cell in self.cells])

    def lines(self) -> list[str]:
        """Totals, warnings and stale cells in words."""
        states = Counter(cell.state for cell in self.cells)
        memory = max(one.memory for one in self.estimates.values())
        disk = sum(one.disk for one in self.estimates.values())
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        early = self.early
        saved = f" ({duration(early.seconds)} without `stop`)" if early else ""
        return [
            f"{counted(len(self.cells), 'cell')}: {told}",
            f"estimate: {duration(self.seconds_left)} on one worker{saved}, {memory / 1e9:.1f} GB of memory "
            f"a job, {disk / 1e6:.1f} MB of disk",
            *([self.why] if self.why else []),
            *self.generated,
            *self.notes,
            *self._peaks(),
            *([str(early)] if early and early.items else []),
            *self.unmatched,
            *(f"warning: {warning}" for warning in self.warnings),
            *self.stale,
        ]

    def _peaks(self) -> list[str]:
        """Lines with the peak memory of each job, those of one size together, and of `kick compress`."""
        found = []
        for title, part in ((f"by {self.engine}", "memory"), ("by `kick compress`", "compress")):
            sizes: dict[str, list[str]] = {}
            for name, needs in self.estimates.items():
                if getattr(needs, part):
                    sizes.setdefault(gigabytes(getattr(needs, part)), []).append(name)
            texts = [f"{size} for {_few(names)}" for size, names in sizes.items()]
            found += [f"peak memory {title}: {'; '.join(texts)}"] if texts else []
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _few(names: Sequence[str]) -> str:
    """Names, the first ones of many."""
    more = len(names) - FEW
    return ", ".join([*names[:FEW], *([f"{more} more"] if more > 0 else [])])


def preview(matrix: Given, options: RunOptions, *, timed: bool = False) -> Preview:
    """The plan of a matrix, with what its store holds. No weights are loaded, unless `timed`: one forward
    is then measured for a better estimate.

    Raises KickError for a matrix that is wrong or cannot fit the machine.
    """
    planned, store = run.prepare(matrix, options)
    if timed and planned.variants[0].endpoint:
        raise KickError("--measure times a model on this machine; the dense model here is behind a server")
    if timed:
        measure.measure(planned.variants[0].model)
        planned, store = run.prepare(matrix, options)
    cells = _cells(planned, store)
    waiting = {cell.key for cell in cells if cell.state != "done"}
    left = sum(
        job.cost * sum(cell.key in waiting for cell in job.cells) / len(job.cells) for job in planned.jobs
    )
    local = None if "://" in options.out else Path(options.out)
    return Preview(
        planned.matrix.name,
        cells,
        {
            name: Needs(one.total, one.memory, one.disk, one.compressing)
            for name, one in planned.estimates.items()
        },
        left,
        tuple(costs.preflight(planned.estimates, local, note=planned.engine.why)),
        tuple(stale.summary(planned.stale(store))),
        _early(planned, waiting),
        _unmatched(planned, store),
        planned.engine.name,
        planned.engine.why,
        tuple(run.generated(planned, store)),
        tuple(task.note for task in planned.tasks.values() if task.note),
    )


def _items(planned: Plan, cell: Cell) -> int:
    return cell.task.limit or planned.tasks[cell.task.name].size or costs.ITEMS


def _early(planned: Plan, waiting: Collection[str]) -> Early | None:
    """What `stop` is expected to save of the cells to do; None without it."""
    if planned.matrix.stop is None:
        return None
    cells = [cell for key, cell in planned.by_key.items() if key in waiting]
    counts = [_items(planned, cell) for cell in cells]
    expected = [
        stopping.expected(planned.matrix, planned.tasks[cell.task.name], count) if cell.task.stop else count
        for cell, count in zip(cells, counts, strict=True)
    ]
    seconds = sum(
        planned.estimates[job.variant.name].total
        * sum(cell.key in waiting for cell in job.cells)
        / len(job.cells)
        for job in planned.jobs
    )
    return Early(sum(counts), sum(expected), seconds)


def _unmatched(planned: Plan, store: Store) -> tuple[str, ...]:
    """A line per task on which `stop` cannot end in a match, by dense's score if it is stored."""
    lines = []
    for key, cell in planned.by_key.items() if planned.matrix.stop else ():
        if cell.variant.dense:
            task = planned.tasks[cell.task.name]
            scores = store.result(key).scores if store.done(key) else ()
            dense = next((one.value for one in scores if one.metric == task.about.get("primary")), None)
            lines.append(stopping.cannot_match(planned.matrix, task, _items(planned, cell), dense))
    return tuple(filter(None, lines))


def _cells(planned: Plan, store: Store) -> tuple[PlannedCell, ...]:
    done = store.done_among(planned.keys)
    failed = {failure.key: failure.cause for failure in store.failures()}
    return tuple(
        PlannedCell(
            cell.variant.name,
            cell.task.name,
            cell.task.limit or planned.tasks[cell.task.name].size,
            key,
            "done" if key in done else "failed" if key in failed else "to do",
            failed.get(key, ""),
        )
        for key, cell in planned.by_key.items()
    )
