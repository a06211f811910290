"""What a worker process says of a job: the one place where any exception becomes data."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kick.errors import KickError
from kick.records import Job
from kick.store import StoreError
from kick.sweep.contract import Outcome


@dataclass(frozen=True)
class Attempt:
    """How an attempt at a job ended; `clean` is False where the process is to be replaced."""

    state: Literal["done", "failed", "stopped", "halted"]
    cause: str = ""
    traceback: str = ""
    clean: bool = True
    crashed: bool = False

    def outcome(self, job: Job, seconds: float, worker: str, log: str = "") -> Outcome:
        """The Outcome of the job; the log's tail is kept for failures alone."""
        log = log if self.state == "failed" else ""
        return Outcome(job, self.state, seconds, self.cause, self.traceback, log, worker, self.crashed)


def attempt(work: Callable[[Job], None], job: Job) -> Attempt:
    """Do the job. A known reason (CellFailed, KickError) leaves the process fit for the next one."""
    try:
        work(job)
    except KeyboardInterrupt:
        return Attempt("stopped", "interrupted")
    except StoreError as error:
        return Attempt("halted", str(error), traceback.format_exc())
    except KickError as error:
        return Attempt("failed", str(error), traceback.format_exc())
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        return Attempt("failed", cause, traceback.format_exc(), clean=False)
    return Attempt("done")
