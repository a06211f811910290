"""A matrix whose model is a hash: real tasks, planner, worker and store, answers known beforehand.

A variant's name says how it answers: `same` as dense, `slight` wrong in a tenth of what dense has right,
`bad` in nine tenths; dense is right in six of ten items.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import nullcontext
from functools import cache

import torch

from kick import compress, tasks
from kick.matrix.load import load, with_stop
from kick.matrix.plan import plan
from kick.model import load as load_model
from kick.model import resolve
from kick.records import Request, Response, TaskSpec
from kick.store import Store
from kick.sweep import rescore, reuse
from kick.sweep.run import RunOptions, worker
from kick.sweep.worker import Worker

LOST = {"same": 0.0, "slight": 0.1, "bad": 0.9}
MCQ, FACTS, FIDELITY = "kick_mini_mcq", "kick_mini_factoid", "kick_mini_fidelity"
LIMIT = {MCQ: 144, FACTS: 96, FIDELITY: 6}
LOAD = tasks.load
MATRIX = {
    "name": "stopped",
    "model": "smoke",
    "tasks": [MCQ, FACTS, FIDELITY],
    "limit": LIMIT,
    "variants": [
        {"method": "rtn", "bits": 8 - number, "group_size": 32, "name": name}
        for number, name in enumerate(LOST)
    ],
    "replicas": ["batch"],
}


def share(*parts: object) -> float:
    """A number from 0 to 1, as good as random, the same every time."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


@cache
def task(name: str):
    """A task, loaded once: building its prompts is what costs."""
    return LOAD([name])[name]


def loaded(names, data_root=None, extra=()):
    """In place of `kick.tasks.load`."""
    return {name: task(name) for name in names}


@cache
def gold() -> dict[str, str]:
    """The right answer to each context of the two tasks."""
    items = [
        one for name in (MCQ, FACTS) for one in task(name).items(TaskSpec(name, limit=LIMIT[name]), None)
    ]
    return {item.requests[0].context: item.target for item in items}


@cache
def tokenizer():
    """That of the model `smoke`."""
    return load_model(resolve("smoke"))[1]


def planned(override=None, **keys):
    """The plan of the matrix with these keys."""
    return plan(with_stop(load({**MATRIX, **keys}), override))


class Killed(BaseException):
    """The end of a process: nothing in the code takes it for a failure."""


class Hashed:
    """Answers the requests of one variant."""

    def __init__(self, variant: str, sweep: Sweep):
        self.variant, self.sweep = variant, sweep

    def answer(self, requests, on_done=None):
        """Answer in order; every answer is counted before it is handed on."""
        sweep = self.sweep
        sweep.calls.append((self.variant, [request.context for request in requests]))
        if sweep.refuses and any(sweep.refuses(self.variant, request) for request in requests):
            raise RuntimeError("the sum is not finite")
        for index, request in enumerate(requests):
            if sum(sweep.asked.values()) in sweep.kills:
                sweep.kills.discard(sum(sweep.asked.values()))
                raise Killed
            sweep.asked[self.variant, request.kind, request.context, request.continuation] += 1
            on_done(index, self.one(request))

    def one(self, request: Request) -> Response:
        """The answer to a request."""
        target = gold().get(request.context, "prose")
        right = share("dense", request.context) < 0.6
        right = right and share(self.variant, request.context) >= LOST.get(self.variant, 0.0)
        if request.kind == "fidelity":
            values = {"fdt": 9 * share(self.variant, request.context), "sdt": 0.5, "dppl": 2.0, "length": 3.0}
            return Response(values=values)
        if request.kind == "generate":
            return Response(text=f" {target}" if right else " nothing", tokens=(1, 2, 3), count=3)
        first = (request.continuation.strip() == target) == right
        return Response(logprob=-share(request.continuation) - 9 * (not first), greedy=False, count=2)

    def notes(self):
        """Nothing that matters."""
        return {"batch_tokens": 30}


class Sweep:
    """Runs the matrix in this process; `asked` counts the answers of all runs, `calls` has all calls.

    kills: at how many answers in all the process dies. refuses(variant, request): what raises.
    """

    def __init__(self, root, monkeypatch):
        self.root = root
        self.asked: Counter = Counter()
        self.calls: list = []
        self.kills: set[int] = set()
        self.refuses = None
        self.loads = 0
        self._patched = monkeypatch

    def _patch(self):
        """Put the answers of this sweep in place of models; statistics are left to readers."""
        put = self._patched.setattr
        put(tasks, "load", loaded)
        put("kick.sweep.worker.model.load", self._load)
        put("kick.sweep.compressed.footprint", lambda network: {"parameters": 0})
        put(compress, "compress", lambda *args, **options: {"steps": []})
        put(Worker, "_engine", lambda work, variant, *args: Hashed(variant.name, self))
        put(Worker, "_reference", lambda self, job, *args: (job, nullcontext()))
        put(Worker, "_note", lambda *args: None)

    def _load(self, spec, device=None):
        self.loads += 1
        return torch.nn.Module(), tokenizer()

    @property
    def store(self) -> Store:
        """The results."""
        return Store(self.root, "stopped")

    def __call__(self, override=None, **keys):
        """What `kick run` does, without its loop: plan, take what is stored, do the other jobs."""
        self._patch()
        found, store = planned(override, **keys), self.store
        rescore.rescore_stale(found, store)
        reuse.replay(found, store)
        rescore.rename(found, store)
        self.work(worker(found, store, RunOptions(out=str(self.root)), ["kick"]), found)
        return found

    def work(self, work, planned):
        """Do the jobs' cells that are not done."""
        from kick.sweep.loop import pending

        for job in pending(planned.jobs, self.store, retry_failed=True):
            work(job)

    def cell(self, planned, variant, task):
        """The stored result of a planned cell, and its samples."""
        cells = planned.by_key.items()
        key = next(k for k, one in cells if (one.variant.name, one.task.name) == (variant, task))
        return self.store.result(key), self.store.samples(key)

    def bytes(self, planned):
        """The samples of every planned cell, byte for byte."""
        store = self.store
        assert store.done_among(planned.keys) == set(planned.keys)
        return {key: store.files.read(f"{store.folder(key)}/samples.parquet") for key in planned.keys}

    def times(self, variant):
        """How often a request of the variant was answered, at most, and how many requests were."""
        counts = [count for (name, *_), count in self.asked.items() if name == variant]
        return max(counts, default=0), len(counts)
