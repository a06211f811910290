"""One worker process: a fresh Python with its own environment, sent the work once, then job after job."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe, connection
from pathlib import Path

import psutil

from kick.records import Job
from kick.sweep.executors.attempt import Attempt, attempt

TAIL = 8_000  # bytes of a worker's output that a failure keeps
STARTING = 600.0  # seconds that a worker may take to import its work, beside a job's own time
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# How many compiled kernels oneDNN and torch keep, 1,024 each by default. There is one for each number of rows
# of each matrix, of 0.3 MB in either: a worker grew by some 40 MB per job.
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "8"}
MOMENT = 0.3  # seconds for which cores are watched
BEGUN = "begun"  # what a worker says when it takes up a job
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from kick.sweep.executors.process import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settings_for(place: int, workers: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of worker `place` of `workers`: its share of the cores, and its GPU.

    The share does not depend on how many jobs there are, so that a resumed sweep computes as the first did.
    A smaller number of threads that the user set is kept, and any number of kernels.
    """
    threads = max(1, cores() // workers)
    found = {name: str(_at_most(threads, name)) for name in THREADS}
    found |= {name: os.environ.get(name, count) for name, count in KERNELS.items()}
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    return found


def threads_alone() -> int:
    """The threads of a job beside which no other runs: all cores that are idle, or a smaller number that the
    user set.

    Threads that wait for a core hold up all others at every step: with two of them on two cores that have
    other work, dense took up to 20 times as long as with one.
    """
    return _at_most(idle(), THREADS[0])


def idle() -> int:
    """How many of this process's cores have nothing to do, watched for a moment."""
    busy = psutil.cpu_percent(MOMENT, percpu=True)
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    return round(sum(1 - busy[core] / 100 for core in ours if core < len(busy)))


def _at_most(threads: int, name: str) -> int:
    given = os.environ.get(name, "")
    return min(threads, int(given)) if given.isdigit() and int(given) > 0 else threads


class Process:
    """The coordinator's end of a worker process. `job` is what it works on, None while it is idle.

    It is the leader of a session of its own: Ctrl-C in the terminal does not reach it, and ending it ends all
    that it started. It ends itself when the coordinator does, however that ended.
    """

    def __init__(self, place: int, settings: Mapping[str, str], logs: str, work: Callable[[Job], None]):
        self.place = place
        self.job: Job | None = None
        self.threads = int(settings[THREADS[0]])
        self.interrupted = False
        self._log = Path(logs) / f"worker-{place}-{time.monotonic_ns()}.log"
        self._offset, self._since = 0, 0.0
        self._began: float | None = None
        self._pipe, theirs = Pipe()
        life, self._life = os.pipe()  # closed when this process ends
        arguments = [json.dumps(sys.path), str(theirs.fileno()), str(life)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments],
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,
            )
        theirs.close()
        os.close(life)
        self.name = f"worker {place} (process {self._process.pid})"
        self._send(work)

    def _send(self, thing: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `alive` says so, and `death` why
            self._pipe.send(thing)

    def send(self, job: Job, threads: int | None = None) -> None:
        """Give it a job, to be computed with so many threads; by default with its share of the cores."""
        self.job, self._began = job, None
        self._since, self._offset = time.monotonic(), self._log.stat().st_size
        self._send((job, threads or self.threads))

    @property
    def handle(self) -> connection.Connection:
        """What `connection.wait` can wait for: it speaks, or it ended."""
        return self._pipe

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def seconds(self) -> float:
        """How long it has had the job."""
        return time.monotonic() - self._since

    def overdue(self, limit: float | None) -> bool:
        """Whether the job has taken longer than the limit, counted from when the worker took it up."""
        if limit is None:
            return False
        if self._began is None:
            return self.seconds > limit + STARTING
        return time.monotonic() - self._began > limit

    def receive(self) -> Attempt | None:
        """Its report, if there is one."""
        try:
            while self._pipe.poll():
                said = self._pipe.recv()
                if isinstance(said, Attempt):
                    return said
                self._began = time.monotonic()
        except (EOFError, ConnectionResetError):
            return None
        return None

    def death(self) -> str:
        """How the process ended, in words."""
        code = self._process.wait()
        if code >= 0:
            return f"the worker process ended with status {code} in the middle of the job"
        name = signal.Signals(-code).name
        hint = ": killed by hand, or by the system for want of memory" if -code == signal.SIGKILL else ""
        return f"the worker process died of signal {-code} ({name}){hint}"

    def tail(self) -> str:
        """The last of what it printed since the job began."""
        data = self._log.read_bytes()[self._offset :] if self._log.exists() else b""
        return data[-TAIL:].decode("utf-8", "replace")

    def interrupt(self) -> None:
        """Send it Ctrl-C, if it still runs."""
        self.interrupted = True
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it and all that it started, at once. More than once does no harm."""
        if self.alive:
            with suppress(ProcessLookupError):  # it ended just now
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if not self._pipe.closed:
            self._pipe.close()
            os.close(self._life)


def serve(pipe: int, life: int) -> None:
    """The life of a worker process: receive the work, do jobs until the coordinator is gone."""
    faulthandler.enable()
    threading.Thread(target=_die_with_coordinator, args=(life,), daemon=True).start()
    try:
        _serve(connection.Connection(pipe))
    except (EOFError, KeyboardInterrupt):  # the coordinator has gone, or wants no more
        return


def _serve(pipe: connection.Connection) -> None:
    try:
        work, broken = pipe.recv(), None
    except Exception as error:  # the work's own modules cannot be imported here
        broken = Attempt("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    while True:
        job, threads = pipe.recv()
        pipe.send(BEGUN)
        _compute_with(threads)
        report = broken or attempt(work, job)
        sys.stdout.flush()
        sys.stderr.flush()
        pipe.send(report)


def _compute_with(threads: int) -> None:
    """Have torch use so many threads. Work without torch, which came with it if it needs it, has none."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _die_with_coordinator(life: int) -> None:
    """End this process and all that it started once the other end of the pipe is closed."""
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)
