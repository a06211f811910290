"""Long contexts against lm-eval's HFLM on the same prompts, in CPU time on one thread.

    python benchmarks/longcontext.py [--tasks TASK ...] [--limit N] [--out benchmarks/out/longcontext.json]

For each task a row {work, against, ratio, target, seconds, against_seconds}: the seconds in which each side
continues the prompts of the task's first N items; ratio is theirs over ours, so that larger is better. Both
sides get the same requests, and the share of equal texts is written beside the times. One text is asked for
five items in `needles` and `qa`: what is read once is the reason for the ratio.

memory      the last row: peak bytes of processes that answer N and 2 N items of the first task; ratio is the
            peak of N over that of 2 N, and flat is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # LAPACK's idle threads use CPU time too

import torch

from kick import tasks
from kick.engine import Engine
from kick.model import load, resolve
from kick.model.owned import own
from kick.records import Request, TaskSpec

TARGET = 3.0
TASKS = ("kick_long_needles_2048", "kick_long_qa_2048", "kick_long_needle_2048")
FLAT = 0.9  # of the peak of some items over that of twice as many


def requests_of(name: str, limit: int, tokenizer: Any) -> list[Request]:
    """The prompts of the first items of a task."""
    items = tasks.load([name])[name].items(TaskSpec(name, limit=limit), tokenizer)
    return [request for item in items for request in item.requests]


def by_kick(requests: Sequence[Request], model: Any, tokenizer: Any) -> tuple[float, list[str]]:
    """CPU seconds and texts of kick's engine."""
    start = time.process_time()
    found = Engine(model, tokenizer).answer(requests)
    return time.process_time() - start, [one.text or "" for one in found]


def by_lm_eval(requests: Sequence[Request], model: Any, tokenizer: Any) -> tuple[float, list[str]]:
    """CPU seconds and texts of HFLM with its defaults."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=model, tokenizer=tokenizer)
    asked = [
        Instance(
            "generate_until",
            {},
            (one.context, {"until": list(one.until), "max_gen_toks": one.max_tokens, "do_sample": False}),
            place,
        )
        for place, one in enumerate(requests)
    ]
    start = time.process_time()
    texts = theirs.generate_until(asked, disable_tqdm=True)
    return time.process_time() - start, texts


def compared(name: str, limit: int) -> dict[str, Any]:
    """The row of a task."""
    model, tokenizer = load(resolve("smollm2-135m"))
    own(model)
    requests = requests_of(name, limit, tokenizer)
    ours, mine = by_kick(requests, model, tokenizer)
    theirs, others = by_lm_eval(requests, model, tokenizer)
    same = sum(a == b for a, b in zip(mine, others, strict=True))
    return {
        "work": f"{name}, {len(requests)} items",
        "against": "lm-eval HFLM",
        "ratio": round(theirs / ours, 3),
        "target": TARGET,
        "seconds": round(ours, 2),
        "against_seconds": round(theirs, 2),
        "equal_texts": round(same / len(requests), 3),
    }


def peak(name: str, limit: int) -> int:
    """Peak bytes of a process that answers the first items of a task."""
    command = [sys.executable, __file__, "--peak", name, "--limit", str(limit)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def flat(name: str, limit: int) -> dict[str, Any]:
    """The row of memory: the peak of half of the items over that of all."""
    few, many = peak(name, limit // 2), peak(name, limit)
    return {
        "work": f"peak memory of {limit} items of {name}",
        "against": f"the same of {limit // 2} items",
        "ratio": round(few / many, 3),
        "target": FLAT,
        "bytes": many,
        "against_bytes": few,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--peak", help="only print the peak bytes of answering this task")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "longcontext.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        model, tokenizer = load(resolve("smollm2-135m"))
        own(model)
        by_kick(requests_of(options.peak, options.limit, tokenizer), model, tokenizer)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    rows = [compared(name, options.limit) for name in options.tasks]
    rows.append(flat(options.tasks[0], 2 * options.limit))
    for row in rows:
        print(json.dumps(row))
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
