"""Jobs one after the other in this process: for tests and for a debugger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from kick.records import Job
from kick.sweep.contract import Outcome
from kick.sweep.executors.attempt import attempt
from kick.sweep.executors.entry import executor


@executor("inline", title="this process, one job after the other")
class Inline:
    """Runs each job where it is called. No time limit, and a crash is the coordinator's own."""

    def __init__(self) -> None:
        self._stopped = False
        self._busy = False

    def run(
        self,
        work: Callable[[Job], None],
        jobs: Sequence[Job],
        started: Callable[[Job, str], None] = lambda job, worker: None,
    ) -> Iterator[Outcome]:
        """One Outcome a job, in order, until stopped."""
        for job in jobs:
            if self._stopped:
                return
            started(job, "here")
            start = time.monotonic()
            try:
                self._busy = True
                report = attempt(work, job)
            finally:
                self._busy = False
            yield report.outcome(job, time.monotonic() - start, "here")

    def stop(self) -> None:
        """No more jobs; the running one is interrupted where it is."""
        self._stopped = True
        if self._busy:
            raise KeyboardInterrupt

    def close(self) -> None:
        """No more jobs."""
        self._stopped = True
