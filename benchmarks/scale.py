"""How large a matrix can be: planning, reading, and a sweep of 100,000 cells on 1,000 simulated workers.

    python benchmarks/scale.py [--cells 1000 10000 100000] [--stored 10000] [--folder /dev/shm] [--out FILE]

The planner, the sweep's loop, the claims and the store are the real ones; the work is fake: it stores a
result of 50 items at once, and the executor lets its workers' time pass on a simulated clock. What is
measured is the coordinator: all the time that is not spent in the work. The store lies in memory (tmpfs).
Seconds are CPU seconds of the process; on a quiet machine the clock says the same.
"""

from __future__ import annotations

import argparse
import heapq
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kick.analysis import kept  # noqa: E402
from kick.matrix.plan import Plan  # noqa: E402
from kick.records import Cell, Job, Response, Result, Sample, Score  # noqa: E402
from kick.stats import intervals  # noqa: E402
from kick.store import Store  # noqa: E402
from kick.sweep.contract import Outcome  # noqa: E402
from kick.sweep.loop import pending, run_sweep  # noqa: E402
from tests.support import small_tables  # noqa: E402

TASKS, ITEMS, WORKERS, SETS = 20, 50, 1000, 64
MATRIX = "scale"


def planned(cells: int) -> Plan:
    """A plan of about so many cells, by the real planner: 20 tasks, wanda at many levels, and dense."""
    variants = max(1, cells // TASKS - 1)
    levels = ", ".join(f"{(number + 1) / (variants + 2):.6f}" for number in range(variants))
    tasks = {f"task_{n}": small_tables.Asked(f"task_{n}", f"digest {n}") for n in range(TASKS)}
    sources = replace(
        small_tables.SOURCES,
        tasks=lambda names, root: {name: tasks[name] for name in names},
        kinds=lambda: dict.fromkeys(tasks, "multiple_choice"),
    )
    text = f"name: {MATRIX}\nmodel: tiny\ntasks: [{', '.join(tasks)}]\nvariants:\n"
    return small_tables.planned(f"{text}  - {{method: wanda, sparsity: [{levels}]}}\n", sources)


class Work:
    """Stores a result for each cell at once, and counts the time that takes.

    Each cell has one of 64 sets of answers, made beforehand, and one answer of its own. With `notes` the
    statistics beside dense are kept with it, as a worker does.
    """

    def __init__(self, root: str, notes: bool = False):
        self.root, self.notes = root, notes
        self.dense: dict[str, Result] = {}  # by task
        self.sets = [answers(number) for number in range(SETS)]

    def __call__(self, job: Job) -> None:
        store = Store(self.root, MATRIX)
        for cell in job.cells:
            scores, samples = self.sets[int(cell.key, 16) % SETS]
            own = sample(0, cell.key, samples[0].scores)
            stored = store.put(result(cell, scores), [own, *samples[1:]])
            if self.notes:
                dense = self.dense.setdefault(cell.task.name, stored)
                kept.note(store, stored, dense)


def answers(number: int) -> tuple[tuple[Score, ...], list[Sample]]:
    """50 items, right with a chance that is the set's own, and graded beside that."""
    luck = np.random.default_rng(number).random((ITEMS, 2))
    right = (luck[:, 0] < 0.3 + 0.5 * number / SETS).astype(float)
    columns = {"exact_match": right, "f1": np.maximum(right, luck[:, 1].round(3))}
    scores = []
    for name, values in columns.items():
        low, high, stderr = intervals.interval(values)
        scores.append(Score(name, float(values.mean()), ITEMS, stderr, low, high))
    rows = [{name: float(columns[name][item]) for name in columns} for item in range(ITEMS)]
    return tuple(scores), [sample(item, f"set {number}", row) for item, row in enumerate(rows)]


def sample(item: int, whose: str, scores: Mapping[str, float]) -> Sample:
    """An item with its answer."""
    response = Response(text=f"answer {item} of {whose}", count=6)
    return Sample(f"item-{item}", "hash", "a prompt's end", "a target", (response,), scores)


def result(cell: Cell, scores: tuple[Score, ...]) -> Result:
    """A result with as much beside its scores as real ones have."""
    versions = {f"package-{n}": f"{n}.0.1" for n in range(20)}
    return Result(cell.key, MATRIX, cell, scores, {"items": ITEMS}, provenance={"versions": versions})


class Simulated:
    """Workers whose time passes on a simulated clock: each job takes its cost, and ends in that order."""

    def __init__(self, workers: int):
        self.workers = workers
        self.busy = 0.0  # real seconds spent in the work
        self.clock = 0.0  # simulated seconds

    def run(
        self,
        work: Callable[[Job], None],
        jobs: Sequence[Job],
        started: Callable[[Job, str], None],
    ) -> Iterator[Outcome]:
        """One Outcome a job, in the order in which the simulated workers end them."""
        running: list[tuple[float, int]] = []
        for number, job in enumerate(jobs):
            if len(running) == self.workers:
                yield self._end(jobs, running)
            started(job, f"simulated {number % self.workers}")
            before = time.process_time()
            work(job)
            self.busy += time.process_time() - before
            heapq.heappush(running, (self.clock + job.cost, number))
        while running:
            yield self._end(jobs, running)

    def _end(self, jobs: Sequence[Job], running: list[tuple[float, int]]) -> Outcome:
        self.clock, number = heapq.heappop(running)
        return Outcome(jobs[number], "done", jobs[number].cost, worker="simulated")

    def stop(self) -> None:
        """Nothing runs beside."""

    def close(self) -> None:
        """Nothing runs beside."""


def sweep(cells: int, folder: Path) -> dict[str, float]:
    """Plan, sweep and plan again; seconds of each, and the coordinator's milliseconds a cell."""
    root = folder / f"sweep-{cells}"
    times: dict[str, float] = {"yardstick s": yardstick()}
    start = time.process_time()
    plan = planned(cells)
    times["plan s"] = time.process_time() - start
    store, how = Store(root, MATRIX), Simulated(WORKERS)
    start = time.process_time()
    summary = run_sweep(Work(str(root)), plan.jobs, store, how)
    whole = time.process_time() - start
    if summary.status:
        raise SystemExit(f"the simulated sweep went wrong: {summary}")
    times |= {"cells": len(plan.cells), "work ms a cell": 1000 * how.busy / len(plan.cells)}
    times["coordinator ms a cell"] = 1000 * (whole - how.busy) / len(plan.cells)
    start = time.process_time()
    if pending(plan.jobs, store):
        raise SystemExit("something is pending after all was done")
    times["pending, all done s"] = time.process_time() - start
    times["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shutil.rmtree(root)
    return times


def reading(cells: int, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of reading a store of so many cells, each in a process of its own."""
    root = folder / f"stored-{cells}"
    jobs, work = planned(cells).jobs, Work(str(root), notes=True)
    times: dict[str, float] = {"yardstick s": yardstick()}
    start = time.process_time()
    for job in jobs:
        work(job)
    times["put, with statistics, ms a cell"] = 1000 * (time.process_time() - start) / cells
    for name, (code, without) in programs(str(root), str(folder / "page"), cells).items():
        for pattern in without:
            for file in (root / MATRIX).glob(pattern):
                file.unlink()
        found = measured(code)
        times |= {f"{name} s": found[0], f"{name} MB": found[1]}
    times["page MB"] = (folder / "page" / "index.html").stat().st_size / 1e6
    shutil.rmtree(root)
    return times


def programs(root: str, page: str, cells: int) -> dict[str, tuple[str, Sequence[str]]]:
    """What is measured of a store: the program, and which derived files are taken away before."""
    store = f"from kick.store import Store; store = Store({root!r}, {MATRIX!r})"
    cli = "import sys; from kick.cli import main; sys.argv[1:] = "
    status = f"{cli}['status', {root + '/' + MATRIX!r}]; main()"
    leaderboard = f"{cli}['leaderboard', {root + '/' + MATRIX!r}, '--out', {page!r}]; main()"
    indexes = ("index.parquet", "statistics.parquet")
    return {
        "runs, no index": (f"{store}; assert len(list(store.runs())) == {cells}", indexes),
        "runs": (f"{store}; assert len(list(store.runs())) == {cells}", ()),
        "states": (f"{store}; assert len(list(store.states())) == {cells}", ()),
        "states, verified": (f"{store}; assert len(list(store.states(verify=True))) == {cells}", ()),
        "all scores": (f"{store}; [store.arrays(one.key) for one in store.runs()]", ()),
        "kick status, first": (status, indexes),
        "kick status": (status, ()),
        "kick leaderboard, first": (leaderboard, indexes),
        "kick leaderboard": (leaderboard, ()),
        "kick leaderboard, nothing derived": (leaderboard, (*indexes, "*/statistics.json")),
    }


def yardstick() -> float:
    """CPU seconds of a fixed loop: how much other work on the machine stretches a CPU second."""
    start = time.process_time()
    sum(number * number for number in range(5_000_000))
    return time.process_time() - start


def measured(code: str) -> tuple[float, float]:
    """CPU seconds and peak MB of a Python program, imports included."""
    peak = "[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0]"
    last = f"import sys, time; print(time.process_time(), {peak}, file=sys.stderr)"
    program = f"import atexit\natexit.register(lambda: exec({last!r}))\n{code}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{code}\n{done.stderr[-2000:]}")
    seconds, peak = done.stderr.split()[-2:]
    return float(seconds), int(peak) / 1024


def show(rows: list[dict[str, float]]) -> None:
    """The rows as a table, a column a measurement."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table("", *[f"{row.get('cells', 0):,.0f} cells" for row in rows], box=None)
    for name in names:
        if name != "cells":
            table.add_row(name, *[f"{row[name]:.2f}" if name in row else "" for row in rows])
    Console().print(table)


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument(
        "--stored", type=int, default=10_000, help="cells of the store that is read; 0 for none"
    )
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kick-scale-", dir=arguments.folder) as folder:
        if arguments.cells:
            sweep(2 * TASKS, Path(folder))  # what is imported on the way is no cell's cost
        sweeps = [sweep(cells, Path(folder)) for cells in arguments.cells]
        if sweeps:
            show(sweeps)
        read = (
            [reading(arguments.stored, Path(folder)) | {"cells": arguments.stored}]
            if arguments.stored
            else []
        )
        if read:
            show(read)
    if arguments.out:
        arguments.out.write_text(json.dumps({"sweeps": sweeps, "reading": read}, indent=1))


if __name__ == "__main__":
    main()
