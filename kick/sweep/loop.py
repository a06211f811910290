"""What is left to do, in which order, and the loop that gets it done: nothing done is lost or stops the rest.

`pending` is the whole resume story. `run_sweep` hands jobs to an Executor, the dense model's first, and
settles every cell by what the store says afterwards: done, failed with its cause, or in other hands.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kick.printable import counted
from kick.records import Cell, Job
from kick.store import Store, StoreError
from kick.store.claims import Heart, Watch, new_owner
from kick.sweep.contract import Event, Executor, Outcome, Summary
from kick.sweep.groups import split, title
from kick.sweep.interrupts import Interrupts

POLL = 2.0  # seconds between two looks at cells that another coordinator has


@dataclass(frozen=True)
class Claiming:
    """The work, on those cells alone that this sweep can claim; what a worker process is sent.

    A claim left by a dead worker of the same sweep (`name`) is taken over: an executor gives a job to one
    worker at a time.
    """

    work: Callable[[Job], None]
    root: str
    matrix: str | None
    name: str

    def __call__(self, job: Job) -> None:
        store = Store(self.root, self.matrix)
        owner = new_owner()
        taken = {cell.key: store.claim(cell.key, self.name, owner) for cell in job.cells}
        held = [claim for claim in taken.values() if claim is not None]
        try:
            cells = tuple(cell for cell in job.cells if taken[cell.key] and not store.done(cell.key))
            if cells:
                with Heart(store.files, held[0]):
                    self.work(replace(job, cells=cells))
        finally:
            for claim in held:
                store.release(claim)


def pending(jobs: Iterable[Job], store: Store, *, retry_failed: bool = False) -> list[Job]:
    """The jobs with those cells that are still to do, in the order to do them; failed ones only if asked.

    Done is what `Store.done` says: whole, and its checksums match. A job's cost shrinks with its cells.
    """
    jobs = list(jobs)
    skip = store.done_among([cell.key for job in jobs for cell in job.cells])
    if not retry_failed:
        skip |= {failure.key for failure in store.failures()}
    return order(part for job in jobs if (part := _without(job, skip)).cells)


def _without(job: Job, skip: Collection[str]) -> Job:
    cells = tuple(cell for cell in job.cells if cell.key not in skip)
    cost = job.cost * len(cells) / max(1, len(job.cells))
    return replace(job, variant=cells[0].variant if cells else job.variant, cells=cells, cost=cost)


def order(jobs: Iterable[Job]) -> list[Job]:
    """The dense model's jobs first, for the others compare with them; then the longest, then by name."""
    return sorted(jobs, key=lambda job: (not job.variant.dense, -job.cost, job.variant.name))


def run_sweep(
    work: Callable[[Job], None],
    jobs: Sequence[Job],
    store: Store,
    executor: Executor,
    *,
    retry_failed: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Summary:
    """Do what is pending of the jobs, and say how it ended. Ctrl-C once gives up cleanly, twice at once.

    Raises StoreError if the store cannot be written at all.
    """
    store.check_writable()
    start = time.monotonic()
    todo = pending(jobs, store, retry_failed=retry_failed)
    sweep = _Sweep(work, todo, store, executor, on_event)
    total = len({cell.key for job in jobs for cell in job.cells})
    before = total - len(sweep.open)
    failed_before = 0 if retry_failed else len(sweep.attempts.keys() & {c.key for j in jobs for c in j.cells})
    on_event(
        Event("plan", f"{len(sweep.open)} of {counted(total, 'cell')} to do in {counted(len(todo), 'job')}")
    )
    with Interrupts(executor, lambda text: on_event(Event("stop", text))) as interrupts:
        try:
            sweep.run(interrupts)
        except StoreError as error:
            sweep.halted = str(error)
        finally:
            executor.close()
    if sweep.halted:
        on_event(Event("halt", sweep.halted))
    summary = Summary(
        total=total,
        before=before - failed_before,
        failed_before=failed_before,
        done=len(sweep.done),
        failed=len(sweep.failed),
        left=len(sweep.open),
        seconds=time.monotonic() - start,
        interrupted=interrupts.count > 0,
        halted=sweep.halted,
    )
    on_event(Event("end", describe(summary), seconds=summary.seconds))
    return summary


def describe(summary: Summary) -> str:
    """The summary in a sentence, with what to do next."""
    parts = [f"{summary.before + summary.done} of {counted(summary.total, 'cell')} done ({summary.done} now)"]
    failed = summary.failed + summary.failed_before
    if failed:
        parts.append(f"{failed} failed: `kick status` says why, --retry-failed tries again")
    if summary.left:
        why = "stopped" if summary.interrupted else "not reached"
        parts.append(f"{summary.left} {why}: nothing is lost, the same command continues from here")
    return "; ".join(parts)


@dataclass
class _Sweep:
    """The state of a running sweep: which cells are open, done, failed, or in another coordinator's hands."""

    work: Callable[[Job], None]
    jobs: list[Job]
    store: Store
    executor: Executor
    on_event: Callable[[Event], None]
    name: str = field(default_factory=lambda: secrets.token_hex(6))
    halted: str = ""

    def __post_init__(self) -> None:
        self.open: dict[str, Cell] = {cell.key: cell for job in self.jobs for cell in job.cells}
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self._elsewhere: set[str] = set()
        self._crashed: set[str] = set()  # variants whose worker died
        self._alone: set[str] = set()  # variants of groups that failed as a whole
        self._empty: dict[str, int] = {}  # how often a worker returned without a result
        self.attempts = {failure.key: failure.attempts for failure in self.store.failures()}
        self._watch = Watch(self.store.files)

    def run(self, interrupts: Interrupts) -> None:
        """Wave after wave until nothing is open: the dense jobs, then all others."""
        work = Claiming(self.work, self.store.root, self.store.matrix, self.name)
        waiting = False
        while not (interrupts.count or self.halted):
            self._look()
            wave = self._wave()
            if not wave:
                return
            free = [job for job in wave if any(self._free(cell) for cell in job.cells)]
            if not free:
                if not waiting:
                    self._tell(
                        "wait",
                        f"waiting for {counted(len(self._elsewhere), 'cell')} in another sweep's hands",
                    )
                waiting = True
                interrupts.wait(POLL)
                continue
            waiting = False
            ended = 0
            for outcome in self.executor.run(work, free, self._started):
                self._settle(outcome)
                ended += 1
            if not (ended or interrupts.count or self.halted):
                self.halted = "the executor took no job: it was closed before the sweep began"

    def _wave(self) -> list[Job]:
        """The open jobs that can go now: nothing but the dense model's while it is open."""
        done = self.done | self.failed
        whole = [part for job in self.jobs if (part := _without(job, done)).cells]
        left = [part for job in whole for part in (split(job) if self._apart(job) else [job])]
        return [job for job in left if job.variant.dense] or left

    def _apart(self, job: Job) -> bool:
        """Whether the job is a group that failed as a whole."""
        return not self._alone.isdisjoint(one.name for one in job.variants)

    def _free(self, cell: Cell) -> bool:
        """Whether no living claim of another is known on the cell."""
        if cell.key in self._elsewhere and not self._watch.free(self.store.folder(cell.key)):
            return False
        self._elsewhere.discard(cell.key)
        return True

    def _look(self) -> None:
        """Settle the cells that another coordinator has finished."""
        for key in list(self._elsewhere):
            cell = self.open[key]
            self._settle_cell(cell, Outcome(Job(cell.variant, (cell,)), "stopped"))

    def _started(self, job: Job, worker: str) -> None:
        self._tell("start", f"{title(job)}: {counted(len(job.cells), 'cell')}", job=job, worker=worker)

    def _settle(self, outcome: Outcome) -> None:
        if outcome.state == "halted" and not self.halted:
            self.halted = outcome.cause
            self.executor.stop()
        group = len(outcome.job.variants) > 1
        if group and outcome.state == "failed":  # one of them is to blame: each is tried by itself
            self._alone |= {variant.name for variant in outcome.job.variants}
            self._tell("wait", f"{title(outcome.job)}: {outcome.cause}; each variant is tried by itself")
            outcome = replace(outcome, state="stopped")
        for cell in outcome.job.cells:
            self._settle_cell(cell, self._blame(cell, outcome))
        if outcome.crashed and not group:
            self._crashed.add(outcome.job.variant.name)
        self._tell("job", outcome.state, job=outcome.job, worker=outcome.worker, seconds=outcome.seconds)

    def _blame(self, cell: Cell, outcome: Outcome) -> Outcome:
        """The outcome as it is the cell's: after a crash the cells that were not yet tried stay open.

        A job that crashes again without a cell done in between is given up whole.
        """
        cells = outcome.job.cells
        tried = [one for one in cells if one.key in self.open or one.key in self.failed][:1]
        again = outcome.job.variant.name in self._crashed and not any(one.key in self.done for one in cells)
        if not outcome.crashed or again or cell in tried:
            return outcome
        return replace(outcome, state="stopped")

    def _settle_cell(self, cell: Cell, outcome: Outcome) -> None:
        """Move the cell to where the store says it is; record a failure that the worker could not."""
        key = cell.key
        other = self.store.held_by_other(key, self.name)
        if self.store.done(key):
            self._close(cell, self.done, Event("done", job=outcome.job, cell=cell, worker=outcome.worker))
        elif other:
            if key not in self._elsewhere:
                self._tell("elsewhere", other, cell=cell)
            self._elsewhere.add(key)
        elif (failure := self.store.failure(key)) and failure.attempts > self.attempts.get(key, 0):
            self._close(cell, self.failed, Event("failed", failure.cause, outcome.job, cell, outcome.worker))
        elif outcome.state == "failed":
            self._fail(cell, outcome)
        elif outcome.state == "done":
            self._empty[key] = self._empty.get(key, 0) + 1
            if self._empty[key] > 1:
                self._fail(cell, replace(outcome, cause="the worker ended without storing a result"))

    def _fail(self, cell: Cell, outcome: Outcome) -> None:
        self.store.fail(cell.key, outcome.cause, cell, outcome.traceback, outcome.log)
        self._close(cell, self.failed, Event("failed", outcome.cause, outcome.job, cell, outcome.worker))

    def _close(self, cell: Cell, into: set[str], event: Event) -> None:
        self._elsewhere.discard(cell.key)
        if self.open.pop(cell.key, None) is not None:
            into.add(cell.key)
            self.on_event(event)

    def _tell(self, kind: Any, message: str, **fields: Any) -> None:
        self.on_event(Event(kind, message, **fields))
