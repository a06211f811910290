"""What stopping early saves, and what it changes.

    python benchmarks/verdicts.py [--only replay,paper,seconds,matrix] [--python PATH]

replay   `benchmarks/replay/` holds what a full run of demo-full answered; the rule is replayed on it
paper    the same answers drawn again to the sizes of the paper's data sets
seconds  demo-full on three tasks, CPU seconds of answering: commit 897272f, which asks every item (today's
         items, copied into its checkout), and this checkout
matrix   the whole small matrix of `verdicts_matrix.py`, from nothing to stored results

Prints a table and writes benchmarks/out/verdicts.json, where lines of earlier runs stay. A ratio is theirs
over ours, so that larger is better. `seconds` needs git history and makes an environment for the old commit
unless --python names one; without history it is left out, and says so.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from contest import Line, show
from engine import write
from verdicts_record import ITEMS

from kick.stats import paired, sequential
from kick.stats.metrics import describe
from kick.stats.sequential import Design, Rule
from kick.stats.support import BINARY

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "out/verdicts.json"
BEFORE = "897272f"
ACCURACY = describe("acc")  # every headline here is right or wrong
PAPER = {
    "kick_mini_mcq": 14_042,
    "kick_mini_factoid": 3_610,
    "kick_mini_closed": 1_000,
    "kick_mini_open": 1_000,
}
DRAWS = 5  # of the answers, to a paper's size
ASKED = ["kick_mini_mcq", "kick_mini_factoid", "kick_mini_closed"]
DATA = "tasks/kick_mini/data"
# seconds are CPU seconds: the run is one process, and its clock is that of the process
DRIVER = """
import pathlib, runpy, sys, time
time.perf_counter = time.process_time
import kick
checkout, matrix, out = sys.argv[1:]
assert pathlib.Path(kick.__file__).parents[1] == pathlib.Path(checkout), kick.__file__
sys.argv = ["kick", "run", matrix, "--executor", "inline", "--out", out, "--offline"]
runpy.run_module("kick.cli", run_name="__main__")
"""


# --------------------------------------------------------------------------------- replayed


def cells(items: pd.DataFrame) -> Iterator[tuple[str, str, Design, np.ndarray]]:
    """Task, variant, design and scores of every variant on every task."""
    for task, table in items.groupby("task", sort=False):
        design = Design(table["dense"].to_numpy(float), table["stratum"].to_numpy(np.int64))
        for name in table.columns.drop(["task", "item", "dense", "stratum"]):
            if table[name].notna().any():
                yield str(task), name, design, table[name].to_numpy(float)


def fixed(design: Design, values: np.ndarray) -> str:
    """The verdict at all items, by the rule without stopping."""
    found = paired.paired(design.dense, values, support=BINARY)
    return ("better" if found.gap > 0 else "worse") if found.verdict == "not matching" else found.verdict


def saved(found: list[tuple[Design, np.ndarray]]) -> tuple[float, float, int]:
    """The share of items asked, the share of verdicts as at all items, and verdicts that contradict."""
    asked = total = equal = other = 0
    for design, values in found:
        early, late = sequential.replay(design, values, ACCURACY, Rule()), fixed(design, values)
        asked, total = asked + early.asked, total + early.of
        equal += early.verdict == late
        other += early.verdict != late and "undecided" not in (early.verdict, late)
    return asked / total, equal / len(found), other


def lines_of(work: str, found: list[tuple[Design, np.ndarray]], most: float, aim: float) -> list[Line]:
    """Two lines: items, and verdicts."""
    share, same, other = saved(found)
    note = f"{share:.1%} of the items asked (at most {most:.0%}, aim {aim:.0%})"
    told = f"{same:.1%} of {len(found)} verdicts as at all items, {other} decided otherwise"
    return [
        Line(f"{work}, items", "asking every item", 1 / share, 1 / most, share, 1.0, note),
        Line(f"{work}, verdicts", "97 % as at all items", same / 0.97, 1.0, 1 / same, 1 / 0.97, told),
    ]


def replay() -> list[Line]:
    """Stopping on the stored answers of demo-full."""
    found = [(design, values) for *_, design, values in cells(pd.read_parquet(ITEMS))]
    return lines_of(f"demo-full, {len(found)} right/wrong cells, replayed", found, 0.45, 0.35)


def paper() -> list[Line]:
    """The stored answers drawn again, with replacement and all variants alike, to the paper's sizes."""
    rng, drawn = np.random.default_rng(0), []
    for task, _, design, values in cells(pd.read_parquet(ITEMS)):
        for _ in range(DRAWS if task in PAPER else 0):
            rows = rng.integers(len(values), size=PAPER[task])
            drawn.append((Design(design.dense[rows], design.strata[rows]), values[rows]))
    return lines_of("the same at the paper's sizes", drawn, 0.30, 0.20)


# --------------------------------------------------------------------------------- run


def seconds(python: str | None) -> list[Line]:
    """CPU seconds of answering a part of demo-full, at the old commit and here."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder).resolve() / "before"
        made = subprocess.run(
            ["git", "worktree", "add", "--detach", before, BEFORE], cwd=ROOT, capture_output=True
        )
        if made.returncode:
            print(f"`seconds` is left out: commit {BEFORE} is not in this history", file=sys.stderr)
            return []
        try:
            shutil.copytree(ROOT / DATA, before / DATA, dirs_exist_ok=True)  # today's items, the old code
            if python is None:
                subprocess.run(["make", ".venv/installed"], cwd=before, check=True)
                python = str(before / ".venv/bin/python")
            old = answered(before, python, Path(folder), stop=False)
            new = answered(ROOT, sys.executable, Path(folder), stop=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)
    theirs, ours = sum(old.values()), sum(new.values())
    note = f"{ours / theirs:.1%} of its seconds (at most 55 %, aim 40 %), dense answered in full by both"
    work = f"answering {len(new)} right/wrong cells of demo-full"
    return [Line(work, f"commit {BEFORE}", theirs / ours, 1 / 0.55, ours, theirs, note)]


def subset() -> dict[str, Any]:
    """The preset demo-full, on its right/wrong tasks that are answered in a few words, without replicas."""
    preset = yaml.safe_load((ROOT / "kick/matrix/presets/demo-full.yaml").read_text())
    return {**preset, "name": "subset", "tasks": ASKED, "replicas": []}


def answered(checkout: Path, python: str, folder: Path, stop: bool) -> dict[str, float]:
    """CPU seconds of answering, by cell, of a run in a checkout."""
    name = "after" if stop else "without"
    matrix, out = folder / f"{name}.yaml", folder / name
    matrix.write_text(json.dumps({**subset(), **({"stop": "decided"} if stop else {})}))
    subprocess.run(
        [python, "-c", DRIVER, checkout, matrix, out],
        cwd=checkout,
        check=True,
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
    )
    runs = [json.loads(path.read_text()) for path in (out / "subset").glob("*/run.json")]
    return {
        f"{run['cell']['variant']['name']} {run['cell']['task']['name']}": run["seconds"]["answer"]
        for run in runs
    }


def matrix() -> list[Line]:
    """The whole small matrix against the other ways."""
    import engine_items
    from verdicts_matrix import sized_matrix

    from kick.model import load, resolve

    engine_items.check()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return sized_matrix(*load(resolve("smollm2-135m")), Path(folder))


def main() -> None:
    """Run what was asked for, print the table, write the file."""
    contests = ("replay", "paper", "seconds", "matrix")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(contests))
    parser.add_argument("--python", help=f"an interpreter with what commit {BEFORE} needs installed")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    lines: list[Line] = []
    for name in options.only.split(","):
        if name in ("replay", "paper") and not ITEMS.exists():
            sys.exit(
                f"{ITEMS} is not there; benchmarks/verdicts_record.py makes it of a full run of demo-full"
            )
        lines += seconds(options.python) if name == "seconds" else globals()[name]()
        write(lines, options.out)
    show(lines)


if __name__ == "__main__":
    main()
