"""The contract of a sweep: what an Executor does with jobs, and the records that tell of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kick.records import Cell, Job


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    done: the work returned. failed: it raised, crashed or ran past its time. stopped: given up by Ctrl-C; no
    cell is to blame. halted: the store cannot be written, so that no other job could be kept either.
    `log` is the tail of what the worker printed, `worker` where it ran. `crashed` tells a worker that died or
    was killed: its first cell that is not done is to blame, while an exception is the whole job's.
    """

    job: Job
    state: Literal["done", "failed", "stopped", "halted"]
    seconds: float = 0.0
    cause: str = ""
    traceback: str = ""
    log: str = ""
    worker: str = ""
    crashed: bool = False


def _ignore(job: Job, worker: str) -> None:
    """Takes no notice of a job that starts."""


class Executor(Protocol):
    """Runs jobs somewhere. A job's failure is data, not an exception; the work is sent to a worker once."""

    def run(
        self, work: Callable[[Job], None], jobs: Sequence[Job], started: Callable[[Job, str], None] = _ignore
    ) -> Iterator[Outcome]:
        """One Outcome a job, as they end; `started(job, worker)` is called as they start."""

    def stop(self) -> None:
        """Hand out no more jobs and ask running ones to end; `run` then ends. Safe in a signal handler."""

    def close(self) -> None:
        """End the workers at once. Safe in a signal handler, and more than once."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a sweep, for progress and logs. `cell` where it is one cell's."""

    kind: Literal["plan", "start", "done", "failed", "elsewhere", "wait", "job", "stop", "halt", "end"]
    message: str = ""
    job: Job | None = None
    cell: Cell | None = None
    worker: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Summary:
    """How a sweep ended, in cells. `before` were done and `failed_before` had failed when it began and were
    left alone; `left` were given up, and running it again does them."""

    total: int
    before: int
    failed_before: int
    done: int
    failed: int
    left: int
    seconds: float
    interrupted: bool = False
    halted: str = ""

    @property
    def status(self) -> int:
        """The exit status: 0 where every cell is done, else 1."""
        return 0 if self.before + self.done == self.total else 1
