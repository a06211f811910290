"""Jobs on a Ray cluster: one that exists, or one started here. A lost node costs what no chunk had kept.

A slot is an actor that watches over one worker process of its own (kick.sweep.executors.local), so that a
crash, a time limit and an interrupt are dealt with where they happen, and the death of the actor itself
means that its node is lost: the job then goes to another node. The store must be one that every node
reaches.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kick.errors import KickError
from kick.records import Job
from kick.sweep.contract import Outcome
from kick.sweep.executors.entry import executor
from kick.sweep.executors.local import GRACE, Local
from kick.sweep.executors.process import cores
from kick.tasks import sandbox

log = logging.getLogger("kick.ray")
TICK = 0.3  # seconds between two looks
HEAD = 3.0  # seconds between two knocks at the head's door
KNOCKS = 4  # unanswered ones after which the head is lost; Ray itself ends this process after 60 s
LIVES = 3  # nodes that a job may lose before it counts as failed
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray keeps to 127.0.0.1, which it else replaces


class NodeSlot:
    """The actor: watches one worker process on its node. Its methods run side by side."""

    def __init__(self, work: Callable[[Job], None], time_limit: float | None):
        self._work = work
        self._local = Local(1, time_limit, gpus=None if os.environ.get("CUDA_VISIBLE_DEVICES") else ())
        self._where = f"{socket.gethostname()} (slot {os.getpid()})"

    def where(self) -> str:
        """The node's name; answered once the slot has its place."""
        return self._where

    def do(self, job: Job) -> Outcome:
        """Do a job in the worker process."""
        for outcome in self._local.run(self._work, [job]):
            return outcome
        return Outcome(job, "stopped", cause="interrupted")

    def stop(self) -> None:
        """Interrupt the running job."""
        self._local.stop()


@dataclass
class _Handle:
    """The coordinator's side of a slot: what it waits for, and the job it has."""

    actor: Any
    reference: Any  # of the answer awaited: to `where` first, then to each `do`
    name: str = ""  # "" until it has its place
    job: Job | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def its_job(self) -> Job:
        """The job of a slot that is known to have one."""
        if self.job is None:
            raise RuntimeError(f"the slot {self.name!r} has no job")
        return self.job


def connect(address: str | None, cpus: int | None) -> tuple[Any, bool]:
    """Ray, connected, and whether it was started here. Raises KickError if that cannot be.

    An address, else RAY_ADDRESS, is of a cluster that runs; else one is started on 127.0.0.1 alone.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None or address.startswith(("127.", "localhost")):
        os.environ.setdefault(LOOPBACK, "0")
    try:
        import ray
    except ImportError as error:
        raise KickError('the ray executor needs Ray: pip install "kick[ray]"') from error
    if ray.is_initialized():
        return ray, False
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        if address is None:
            here = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
            ray.init("local", num_cpus=cpus or cores(), **here, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise KickError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    return ray, address is None


@executor("ray", title="a Ray cluster", takes=("address", "workers", "time_limit", "gpus"), at_once=4)
class Ray:
    """Slots on a cluster, spread over its nodes, kept from one `run` to the next.

    Args:
        address: of the cluster ("host:port", "auto", "ray://..." is not meant); see `connect`.
        workers: slots at once; by default as many as the cluster has room for.
        time_limit: seconds a job may take.
        gpus: of each job; by default 1 where the cluster has any.
        cpus: of each job, which is also its number of threads.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        time_limit: float | None = None,
        gpus: float | None = None,
        cpus: int = 1,
    ):
        self._ray, self._own = connect(address, workers * cpus if workers else None)
        self._workers, self._time_limit, self._cpus = workers, time_limit, cpus
        self._gpus = gpus if gpus is not None else float(self._total("GPU") > 0)
        self._places = self.room()
        self._slots: list[_Handle] = []
        self._lost: dict[str, int] = {}  # nodes lost, by variant
        self._unborn, self._why = 0, ""  # slots in a row that could not start
        self._work: Any = None
        self._asked: float | None = None
        self._closed = False
        self._head = _Door(self._ray.get_runtime_context().gcs_address)

    def _total(self, name: str) -> float:
        return self._ray.cluster_resources().get(name, 0.0)

    def room(self) -> int:
        """How many slots the cluster has room for when it is empty, at least one."""
        if self._workers is not None:
            return self._workers
        by_cpu = int(self._total("CPU") // self._cpus)
        return max(1, min(by_cpu, int(self._total("GPU") // self._gpus)) if self._gpus else by_cpu)

    def run(
        self,
        work: Callable[[Job], None],
        jobs: Sequence[Job],
        started: Callable[[Job, str], None] = lambda job, worker: None,
    ) -> Iterator[Outcome]:
        """One Outcome per job, as they end; a lost node's job goes to another, a lost head ends it all."""
        if self._work is None or self._work[0] != work:
            self._drop(self._slots)
            self._work = (work, self._ray.put(work))
        queue = deque(jobs)
        while not self._closed and (self._busy() or (queue and self._asked is None)):
            if self._head.knock():  # only then: with the head gone, the question would wait for ever
                self._places = self.room()
            trouble = self._head.trouble or self._stillborn()
            if trouble:
                yield from self._give_up(queue, trouble)
                return
            if self._asked is None:
                self._hire(len(queue))
                self._hand_out(queue, started)
            yield from self._look(queue)
            yield from self._overdue()

    def _busy(self) -> list[_Handle]:
        return [slot for slot in self._slots if slot.job is not None]

    def _hire(self, waiting: int) -> None:
        """Start slots, up to the room there is and the jobs there are."""
        wanted = min(self._places, waiting + len(self._busy()))
        while len(self._slots) < wanted:
            code = {sandbox.VARIABLE: how} if (how := sandbox.allowed()) else {}
            kind = self._ray.remote(NodeSlot).options(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_restarts=0,
                max_concurrency=2,
                scheduling_strategy="SPREAD",
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._cpus), **code}},
            )
            actor = kind.remote(self._work[1], self._time_limit)
            self._slots.append(_Handle(actor, actor.where.remote()))

    def _hand_out(self, queue: deque[Job], started: Callable[[Job, str], None]) -> None:
        for slot in self._slots:
            if queue and slot.name and slot.job is None:
                slot.job, slot.since = queue.popleft(), time.monotonic()
                slot.reference = slot.actor.do.remote(slot.job)
                started(slot.job, slot.name)

    def _look(self, queue: deque[Job]) -> Iterator[Outcome]:
        """What the slots have answered within a tick."""
        waited = [slot for slot in self._slots if slot.reference is not None]
        if not waited:
            time.sleep(TICK)
            return
        ready, _ = self._ray.wait([slot.reference for slot in waited], timeout=TICK)
        for slot in [slot for slot in waited if slot.reference in ready]:
            try:
                answer = self._ray.get(slot.reference)
            except self._ray.exceptions.RayTaskError as error:  # the slot lives: sending the job went wrong
                answer = Outcome(slot.its_job, "failed", cause=_last_line(error), traceback=str(error))
            except self._ray.exceptions.RayError as error:
                if not self._head.answers():  # the slot may live on: `trouble` will tell in a moment
                    time.sleep(TICK)
                    return
                yield from self._bury(slot, queue, _last_line(error))
                continue
            slot.reference = None
            if isinstance(answer, Outcome):
                job, slot.job = slot.its_job, None
                yield replace(answer, job=job, worker=f"{answer.worker} on {slot.name}")
            else:
                slot.name, self._unborn = answer, 0

    def _bury(self, slot: _Handle, queue: deque[Job], cause: str) -> Iterator[Outcome]:
        """A slot that is gone with its node: its job is given to the next one, a few times."""
        self._drop([slot])
        job = slot.job
        if not slot.name:
            self._unborn, self._why = self._unborn + 1, cause
        if job is None:
            return
        name = job.variant.name
        self._lost[name] = self._lost.get(name, 0) + 1
        if self._asked is not None:
            yield Outcome(job, "stopped", time.monotonic() - slot.since, f"its node was lost: {cause}")
        elif self._lost[name] < LIVES:
            log.warning("%s was lost with its node %s (%s): another one continues it", name, slot.name, cause)
            queue.appendleft(job)
        else:
            text = f"lost {LIVES} nodes that worked on it, the last {slot.name}: {cause}"
            yield Outcome(job, "failed", time.monotonic() - slot.since, text, worker=slot.name, crashed=True)

    def _overdue(self) -> Iterator[Outcome]:
        """After `stop`: interrupt the running jobs, and end those that do not heed it."""
        if self._asked is None:
            return
        for slot in self._busy():
            if self._asked >= slot.since:  # not yet told
                slot.actor.stop.remote()
                slot.since = time.monotonic()
            elif time.monotonic() - self._asked > GRACE + 5.0:
                self._drop([slot])
                yield Outcome(slot.its_job, "stopped", cause="did not stop in time and was ended")

    def _stillborn(self) -> str:
        return f"{LIVES} Ray workers in a row could not start: {self._why}" if self._unborn >= LIVES else ""

    def _give_up(self, queue: deque[Job], trouble: str) -> Iterator[Outcome]:
        """No job can be done any more: all end as halted. A lost head is asked for nothing more."""
        left = [slot.its_job for slot in self._busy()] + list(queue)
        if self._head.trouble:
            self._slots, self._own = [], False
        self._closed = True
        for job in left:
            yield Outcome(job, "halted", cause=trouble)

    def _drop(self, slots: Sequence[_Handle]) -> None:
        for slot in list(slots):
            self._slots.remove(slot)
            self._ray.kill(slot.actor)

    def stop(self) -> None:
        """Hand out no more jobs; the running ones are interrupted, and keep what is answered."""
        if self._asked is None:
            self._asked = time.monotonic()

    def close(self) -> None:
        """End the slots, and the cluster if it was started here."""
        self._closed = True
        self._drop(self._slots)
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


class _Door:
    """Whether the head still answers: asked by a plain connection, for Ray's own calls would wait for it."""

    def __init__(self, address: str):
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._next = 0.0
        self._silent = 0
        self._error: OSError | None = None
        self.trouble = ""  # why no more can be done, once the head is lost

    def knock(self) -> bool:
        """Whether it answered just now; False also while it is too early to knock again."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + HEAD
        self._silent = 0 if self.answers() else self._silent + 1
        if self._silent >= KNOCKS:
            where = ":".join(map(str, self._address))
            self.trouble = (
                f"the head of the Ray cluster at {where} is gone ({self._error}); nothing stored is lost, "
                f"run the same command again on another cluster"
            )
        return self._silent == 0

    def answers(self) -> bool:
        """Whether a connection is taken now."""
        try:
            socket.create_connection(self._address, timeout=HEAD).close()
        except OSError as error:
            self._error = error
            return False
        return True
