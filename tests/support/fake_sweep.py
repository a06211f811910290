"""A sweep without a model: work whose answers are a hash, kept in chunks, and which fails in any way asked.

As a program it is a coordinator to be killed:
`python tests/support/fake_sweep.py ROOT '{"variants": 4, "items": 40}'`.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kick.errors import CellFailed, KickError
from kick.records import Cell, Job, ModelSpec, Response, Result, Sample, Score, Step, TaskSpec, Variant
from kick.store import Store
from kick.sweep.executors import make_executor
from kick.sweep.loop import run_sweep
from kick.sweep.progress import show

HERE = Path(__file__).parent
MATRIX = "fake"
MODEL = ModelSpec("fake", digest="0" * 64)


def fake_jobs(variants: int = 3, tasks: int = 2, trouble: tuple[str, ...] = ()) -> list[Job]:
    """A dense job and `variants - 1` others, each over `tasks` cells; one more for each kind of trouble."""
    names = ["dense", *(f"wanda-{number}" for number in range(1, variants)), *trouble]
    jobs = []
    for number, name in enumerate(names):
        recipe = () if name == "dense" else (Step("wanda", {"sparsity": number / 100, "label": name}),)
        variant = Variant(name, MODEL, recipe)
        cells = tuple(Cell(variant, TaskSpec(f"task_{task}", digest="1")) for task in range(tasks))
        jobs.append(Job(variant, cells, cost=float(number)))
    return jobs


def fake_answer(key: str, index: int) -> Response:
    """The one right answer of this fake model."""
    digest = hashlib.sha256(f"{key} {index}".encode()).digest()
    return Response(logprob=-digest[0] / 7.0, text=digest.hex()[:12], tokens=tuple(digest[:4]), count=4)


def fake_result(cell: Cell, answers: list[Response]) -> tuple[Result, list[Sample]]:
    """A result that depends on the answers alone."""
    samples = [
        Sample(f"item-{index}", "p", "prompt", "target", (answer,), {"acc": float(answer.logprob < -18.0)})
        for index, answer in enumerate(answers)
    ]
    mean = sum(sample.scores["acc"] for sample in samples) / len(samples)
    score = Score("acc", mean, len(samples), 0.0, mean, mean)
    return Result(cell.key, MATRIX, cell, (score,), {"items": len(samples)}), samples


def misbehave(name: str) -> None:
    """Fail as the variant's name says; return where it names no trouble."""
    if name == "raise":
        raise RuntimeError("the sum is not finite")
    if name == "known":
        raise CellFailed("layer 3: the Hessian is not positive definite")
    if name == "memory":
        raise MemoryError("wanted 9 TiB")
    if name == "kill":
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "segfault":
        ctypes.string_at(0)
    if name == "exit":
        sys.exit(7)
    while name == "hang":
        time.sleep(0.1)


@dataclass(frozen=True)
class FakeWork:
    """Answers `items` requests a cell, `pause` seconds each, a chunk every `every`; notes each in `asked`.

    The line `asked` is written before the answer is given to the store; `kept` when all so far are on disk.
    With `gate`, a cell other than dense's waits for that file in its second chunk, after its second item.
    """

    root: str
    items: int = 8
    pause: float = 0.0
    every: int = 4
    asked: str = ""
    gate: str = ""

    def __call__(self, job: Job) -> None:
        store = Store(self.root, MATRIX)
        for cell in job.cells:
            misbehave(cell.variant.name)
            gate = self.gate if cell.variant.recipe else ""
            store.put(*fake_result(cell, self.answers(store, cell.key, gate)))

    def answers(self, store: Store, key: str, gate: str = "") -> list[Response]:
        """The answers of a cell: the kept ones, and the others asked now."""
        with store.partial(key, self.items, every=self.every) as partial:
            for index in range(self.items):
                if index in partial.answers:
                    continue
                self.note(f"asked {key} {index}")
                time.sleep(self.pause)
                while gate and index == self.every + 1 and not Path(gate).exists():
                    time.sleep(0.02)
                partial.add(index, fake_answer(key, index))
                if not partial.waiting:
                    self.note(f"kept {key} {index}")
            return [partial.answers[index] for index in range(self.items)]

    def note(self, line: str) -> None:
        """Append a line, whole, to the log that all processes share."""
        if self.asked:
            number = os.open(self.asked, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(number, f"{line}\n".encode())
            os.close(number)


def contents(root: str | Path, matrix: str = MATRIX) -> dict[str, bytes]:
    """Every cell's samples, byte for byte, and its scores, of a store on a disk."""
    store = Store(root, matrix)
    found = {}
    for result in store.runs():
        assert store.done(result.key)
        found[result.key] = store.files.read(f"{store.folder(result.key)}/samples.parquet")
        found[result.key + " scores"] = repr(result.scores).encode()
    return found


def coordinator(
    root: str | Path, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen:
    """A sweep as a process, and group of processes, of its own; its events come as JSON lines."""
    paths = [*(environment or {}).get("PYTHONPATH", "").split(os.pathsep), str(HERE.parents[1])]
    environment = {**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(HERE / "fake_sweep.py"), str(root), json.dumps(options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, process_group=0, **pipes)


def main() -> int:
    """Run a fake sweep and show its events, as JSON lines by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("options", type=json.loads)
    parser.add_argument("--how", default="json")
    arguments = parser.parse_args()
    options = arguments.options
    trouble = tuple(options.pop("trouble", ()))
    jobs = fake_jobs(options.pop("variants", 3), options.pop("tasks", 2), trouble)
    names = ("workers", "time_limit", "address")
    retry = options.pop("retry_failed", False)
    where = make_executor(
        options.pop("executor", "local"), **{n: options.pop(n) for n in names if n in options}
    )
    from tests.support.fake_sweep import FakeWork  # not this program's own: other processes import it by name

    work = FakeWork(arguments.root, **options)

    store = Store(arguments.root, MATRIX)
    try:
        with show(jobs, store, arguments.how) as view:
            return run_sweep(work, jobs, store, where, retry_failed=retry, on_event=view).status
    except KickError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
