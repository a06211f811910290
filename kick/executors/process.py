"""One worker process: started by spawn with its own environment, sent the work once, then job after job."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path

from kick.executors.report import Report, attempt
from kick.records import Job

TAIL = 8_000  # bytes of a worker's output that a failure keeps
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def settings_for(place: int, workers: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of worker `place` of `workers`: its share of the cores, and its GPU.

    The share does not depend on how many jobs there are, so that a resumed sweep computes as the first did.
    A smaller number of threads that the user set is kept.
    """
    threads = max(1, cores() // workers)
    found = {}
    for name in THREADS:
        given = os.environ.get(name, "")
        found[name] = str(min(threads, int(given)) if given.isdigit() and int(given) > 0 else threads)
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    return found


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The settings in this process's environment, for a child to inherit before it imports anything."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold back SIGINT: a child inherits that until it has left the terminal's process group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Process:
    """The coordinator's end of a worker process. `job` is what it works on, None while it is idle."""

    def __init__(self, place: int, settings: Mapping[str, str], logs: str, work: Callable[[Job], None]):
        self.place = place
        self.job: Job | None = None
        self.interrupted = False
        context = multiprocessing.get_context("spawn")
        self._log = Path(logs) / f"worker-{place}-{time.monotonic_ns()}.log"
        self._log.touch()
        self._offset, self._since = 0, 0.0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, str(self._log)), daemon=True)
        with _environment(settings), _no_interrupt():
            self._process.start()
        theirs.close()
        self.name = f"worker {place} (process {self._process.pid})"
        self._send(work)

    def _send(self, thing: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `alive` says so, and `death` why
            self._pipe.send(thing)

    def send(self, job: Job) -> None:
        """Give it a job."""
        self.job, self._since, self._offset = job, time.monotonic(), self._log.stat().st_size
        self._send(job)

    @property
    def handles(self) -> list[object]:
        """What `connection.wait` can wait for: an answer, or the end of the process."""
        return [self._pipe, self._process.sentinel]

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    @property
    def seconds(self) -> float:
        """How long the job has been running."""
        return time.monotonic() - self._since

    def receive(self) -> Report | None:
        """Its report, if there is one."""
        try:
            return self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, ConnectionResetError):
            return None

    def death(self) -> str:
        """How the process ended, in words."""
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"the worker process ended with status {code} in the middle of the job"
        name = signal.Signals(-code).name
        hint = ": killed by hand, or by the system for want of memory" if -code == signal.SIGKILL else ""
        return f"the worker process died of signal {-code} ({name}){hint}"

    def tail(self) -> str:
        """The last of what it printed since the job began."""
        data = self._log.read_bytes()[self._offset :] if self._log.exists() else b""
        return data[-TAIL:].decode("utf-8", "replace")

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self._process.pid is not None and self._process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        if self._process.pid is not None and self._process.is_alive():
            with suppress(ProcessLookupError, PermissionError):  # it has not yet made its group, or is gone
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.join()
        self._pipe.close()


def serve(pipe: connection.Connection, log: str) -> None:
    """The life of a worker process: leave the terminal, receive the work, do jobs until there are no more."""
    os.setsid()
    number = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(number, 1)
    os.dup2(number, 2)
    faulthandler.enable()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _serve(pipe)
    except (EOFError, KeyboardInterrupt):  # the coordinator has gone, or wants no more
        return


def _serve(pipe: connection.Connection) -> None:
    try:
        work, broken = pipe.recv(), None
    except Exception as error:  # the work's own modules cannot be imported here
        broken = Report("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    while (job := pipe.recv()) is not None:
        report = broken or attempt(work, job)
        sys.stdout.flush()
        sys.stderr.flush()
        pipe.send(report)


def _die_with_parent() -> None:
    """End this process and all that it started when the coordinator does, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
