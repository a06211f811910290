"""The state of a sweep as it is seen: every cell's state, running jobs with rate and time left, totals."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kick.records import Cell, Job
from kick.store import Store
from kick.sweep.contract import Event
from kick.sweep.groups import title

CellState = Literal["open", "running", "done", "failed", "elsewhere"]


@dataclass
class Running:
    """A job that runs: where, since when, and how far its present cell is."""

    job: Job
    worker: str
    since: float
    cell: Cell | None = None
    answered: int = 0
    asked: int = 0
    _first: tuple[float, int] | None = field(default=None, repr=False)

    @property
    def taken(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self.since

    @property
    def rate(self) -> float:
        """Answers a second in the present cell; 0.0 where it is not known yet."""
        if self._first is None:
            return 0.0
        seconds, answers = time.monotonic() - self._first[0], self.answered - self._first[1]
        return answers / seconds if answers > 0 and seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds that the present cell still takes at this rate; None if it is not known."""
        return (self.asked - self.answered) / self.rate if self.rate else None

    def see(self, cell: Cell, answered: int, asked: int) -> None:
        """Note how far the cell is."""
        if cell is not self.cell:
            self.cell, self._first = cell, None
        if self._first is None and asked:
            self._first = (time.monotonic(), answered)
        self.answered, self.asked = answered, asked


class Board:
    """What is known of a sweep; `take` events, `look` at the store now and then. Thread-safe."""

    def __init__(self, jobs: Sequence[Job], store: Store):
        self._store = store
        self._lock = threading.RLock()
        self.start = time.monotonic()
        self.variants = [job.variant.name for job in jobs]
        self.tasks = list(dict.fromkeys(cell.task.name for job in jobs for cell in job.cells))
        self.cells = {(c.variant.name, c.task.name): c for job in jobs for c in job.cells}
        self.states: dict[str, CellState] = {cell.key: "open" for cell in self.cells.values()}
        self.notes: dict[str, str] = {}
        self.running: dict[str, Running] = {}
        self.message = ""
        shares = [(cell, job.cost / len(job.cells)) for job in jobs for cell in job.cells]
        self._cost = {cell.variant.name: share for cell, share in shares}
        self._spent, self._paid = 0.0, 0.0  # seconds taken, and the estimate of the same jobs

    @property
    def counts(self) -> Counter[str]:
        """How many cells are in each state."""
        with self._lock:
            return Counter(self.states.values())

    def take(self, event: Event) -> None:
        """Enter an event."""
        with self._lock:
            if event.kind == "plan":
                self._before()
            elif event.kind == "start" and event.job:
                self.running[title(event.job)] = Running(event.job, event.worker, time.monotonic())
                self._set(event.job, "open", "running")
            elif event.kind == "job" and event.job:
                self._ended(event.job, event)
            elif event.cell and event.kind in ("done", "failed", "elsewhere"):
                self.states[event.cell.key] = event.kind
                self.notes[event.cell.key] = event.message
            elif event.kind in ("stop", "halt", "wait"):
                self.message = event.message

    def _before(self) -> None:
        """The cells that are done or have failed as the sweep begins."""
        for failure in self._store.failures():
            if failure.key in self.states:
                self.states[failure.key], self.notes[failure.key] = "failed", failure.cause
        for key in self._store.done_among(list(self.states)):
            self.states[key] = "done"

    def _ended(self, job: Job, event: Event) -> None:
        self.running.pop(title(job), None)
        self._set(job, "running", "open")
        if event.message == "done":
            self._spent, self._paid = self._spent + event.seconds, self._paid + job.cost

    def _set(self, job: Job, old: CellState, new: CellState) -> None:
        for cell in job.cells:
            if self.states[cell.key] == old or (new == "running" and self.states[cell.key] == "failed"):
                self.states[cell.key] = new

    def look(self) -> None:
        """See in the store how far the running jobs' cells are. Raises StoreError."""
        with self._lock:
            running = list(self.running.values())
        for one in running:
            for cell in one.job.cells:
                if self.states[cell.key] != "running":
                    continue
                if "run.json" in self._store.files.names(self._store.folder(cell.key)):
                    self.states[cell.key] = "done"
                    continue
                one.see(cell, *self._store.progress(cell.key))
                break  # a job's cells are done in their order

    def left(self) -> float | None:
        """Seconds that all that is open takes, by the estimates and how right they were; None if unknown."""
        with self._lock:
            ratio = self._spent / self._paid if self._paid else 1.0
            pairs = self.cells.items()
            waiting = [self._cost[name] for (name, _), cell in pairs if self.states[cell.key] == "open"]
            running = [
                max(one.job.cost * ratio - one.taken, one.taken / 10) for one in self.running.values()
            ]  # one that takes longer than was thought: a tenth of what it took
            seconds = sum(waiting) * ratio + sum(running)
            return seconds / max(1, len(running)) if waiting or running else None

    def rows(self) -> Iterator[tuple[str, list[CellState | None]]]:
        """Each variant with the states of its cells, by task; None if it has none."""
        for variant in self.variants:
            cells = [self.cells.get((variant, task)) for task in self.tasks]
            yield variant, [None if cell is None else self.states[cell.key] for cell in cells]


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 45 s, 12 min, 3 h 20 min."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
