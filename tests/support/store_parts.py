"""What the tests of the store put into it, and files that crash at a step."""

import math

from kick.records import Cell, ModelSpec, Response, Result, Sample, Score, Step, TaskSpec, Variant

MODEL = ModelSpec("tiny", digest="ab" * 32)
CELL = Cell(Variant("dense", MODEL), TaskSpec("task", digest="1"))
OTHER = Cell(Variant("wanda-0.5", MODEL, (Step("wanda", {"sparsity": 0.5}),)), TaskSpec("task", digest="1"))
SAMPLES = [
    Sample(
        "a", "p1", "…the end", "Rome", (Response(text="Rome\n", tokens=(1, 2), count=2),), {"f1": math.nan}
    ),
    Sample(
        "b", "p2", "q", "t", (Response(logprob=-0.1 / 3, greedy=True),) * 4, {"acc": 1.0, "f1": 0.5}, "maths"
    ),
    Sample("c", "p3", "<b>=cmd()</b>", "t", (Response(logprob=-math.inf),), {"acc": 0.0, "f1": 0.0}),
]
RESULT = Result(CELL.key, "demo", CELL, (Score("acc", 0.5, 2, 0.1, 0.2, 0.8),), {"items": 3})


class Crash(BaseException):
    """The process ends here."""


class CrashingFiles:
    """Files that end the process before the operation number `step` that changes anything."""

    def __init__(self, files, step):
        self._files, self._left, self.root = files, step, files.root

    def __getattr__(self, name):
        method = getattr(self._files, name)
        if name not in {"write", "create", "move", "delete", "delete_folder"}:
            return method

        def counted(*arguments, **options):
            if self._left == 0:
                raise Crash
            self._left -= 1
            return method(*arguments, **options)

        return counted
