"""Worker processes on this machine: a job's crash costs that job, and the process is replaced."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path

from kick.records import Job
from kick.sweep.contract import Outcome
from kick.sweep.executors.attempt import Attempt
from kick.sweep.executors.entry import executor
from kick.sweep.executors.process import Process, cores, settings_for, threads_alone

GRACE = 15.0  # seconds that an interrupted job has to keep its answers
TICK = 0.2  # seconds between two looks at the clock and at `stop`


def visible_gpus() -> list[str]:
    """The GPUs that this process may use: of CUDA_VISIBLE_DEVICES, else those that the driver lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in {"", "-1"}]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(place) for place, _ in enumerate(driver.iterdir())] if driver.is_dir() else []


def default_workers(gpus: Sequence[str]) -> int:
    """One worker a GPU; without any, two for up to 8 cores and one more for each 4 beyond."""
    return len(gpus) or max(min(cores(), 2), cores() // 4)


@executor("local", title="worker processes of this machine", takes=("workers", "time_limit"), at_once=None)
class Local:
    """A pool of worker processes, kept from one `run` to the next while the work is the same.

    Args:
        workers: processes at once; by default one a GPU, or two and more by the number of cores.
        time_limit: seconds a job may take before its worker is killed; None for no limit.
        gpus: the CUDA devices to deal out, by default all that are visible.
    """

    def __init__(
        self, workers: int | None = None, time_limit: float | None = None, gpus: Sequence[str] | None = None
    ):
        self.gpus = visible_gpus() if gpus is None else list(gpus)
        self.workers = workers or default_workers(self.gpus)
        self.time_limit = time_limit
        self._work: Callable[[Job], None] | None = None
        self._pool: list[Process] = []
        self._logs = ""
        self._asked: float | None = None  # when `stop` was called
        self._closed = False

    def run(
        self,
        work: Callable[[Job], None],
        jobs: Sequence[Job],
        started: Callable[[Job, str], None] = lambda job, worker: None,
    ) -> Iterator[Outcome]:
        """One Outcome a job, as they end; after `stop`, of the running ones."""
        if work != self._work:
            self._end_all()
            self._work = work
        queue, threads = deque(jobs), self._threads(jobs)
        while not self._closed:
            if self._asked is None:
                while queue and (worker := self._idle(len(jobs))) is not None:
                    job = queue.popleft()
                    worker.send(job, threads)
                    started(job, worker.name)
            busy = [worker for worker in self._pool if worker.job is not None]
            if not busy:
                return
            connection.wait([worker.handle for worker in busy], TICK)
            for worker in busy:
                outcome = self._look(worker)
                if outcome is not None:
                    yield outcome

    def _threads(self, jobs: Sequence[Job]) -> int | None:
        """The threads of each job; None for a worker's share of the cores.

        The dense model's job, for which all others wait, has more if cores are idle. The last one of several
        that runs has not: after an interruption it would be another one.
        """
        share = max(1, cores() // self.workers)
        if len(jobs) > 1 or not jobs or not jobs[0].variant.dense or self.gpus or share == cores():
            return None
        alone = threads_alone()
        return alone if alone > share else None

    def _idle(self, jobs: int) -> Process | None:
        """A worker without a job, started if need be; None where all are busy."""
        for worker in list(self._pool):
            if worker.job is None and not worker.alive:
                self._pool.remove(worker)
                worker.kill()
        for worker in self._pool:
            if worker.job is None:
                return worker
        if self._work is None or len(self._pool) >= min(self.workers, jobs):
            return None
        place = next(place for place in range(self.workers) if all(place != one.place for one in self._pool))
        if not self._logs:
            self._logs = tempfile.mkdtemp(prefix="kick-workers-")
        worker = Process(place, settings_for(place, self.workers, self.gpus), self._logs, self._work)
        self._pool.append(worker)
        return worker

    def _look(self, worker: Process) -> Outcome | None:
        """The Outcome of the worker's job, if it has ended or has to."""
        alive = worker.alive  # asked first: what it sent before it died is there to be received
        report = worker.receive()
        if report is None and alive:
            report = self._deadline(worker)
        elif report is None:
            if self._asked:
                report = Attempt("stopped", "interrupted", clean=False, crashed=True)
            else:
                report = Attempt("failed", worker.death(), clean=False, crashed=True)
        if report is None or worker.job is None:
            return None
        outcome = report.outcome(worker.job, worker.seconds, worker.name, worker.tail())
        worker.job = None
        if not report.clean:
            self._pool.remove(worker)
            worker.kill()
        return outcome

    def _deadline(self, worker: Process) -> Attempt | None:
        """Interrupt a worker that was asked to stop, and end one whose time is over."""
        now = time.monotonic()
        if self._asked is not None:
            if not worker.interrupted:
                worker.interrupt()
            if now - self._asked > GRACE:
                return Attempt("stopped", f"did not stop within {GRACE:.0f} s and was ended", clean=False)
        elif worker.overdue(self.time_limit):
            cause = f"ran past its time limit of {self.time_limit:g} s and was ended"
            return Attempt("failed", cause, clean=False, crashed=True)
        return None

    def stop(self) -> None:
        """Hand out no more jobs and interrupt the running ones: each has GRACE seconds to end."""
        if self._asked is None:
            self._asked = time.monotonic()

    def close(self) -> None:
        """Kill the workers."""
        self._closed = True
        self._end_all()

    def _end_all(self) -> None:
        for worker in self._pool:
            worker.kill()
        self._pool = []
        if self._logs:
            shutil.rmtree(self._logs, ignore_errors=True)
            self._logs = ""
