"""Peak memory and CPU seconds against an older commit: each work in a process of its own, side by side.

    python benchmarks/memory.py [WORK ...] [--commit 897272f] [--folder DIR] [--out FILE]

WORK is a name of WORKS, such as compress-wanda; all of them by default. The older commit is checked out
beside this one. A process's peak is the kernel's count of its resident set (VmHWM), of a matrix the largest
that its cells record. Rows are {work, against, ratio, target}, ratio = theirs over ours. If the older code
cannot do a work, ratio is what is allowed over what was measured, and the target 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import memory_models  # noqa: E402

RUN = """
import json, resource, sys, time
from pathlib import Path
from kick import cli
status = 0
try:
    cli.main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code or 0
lines = Path("/proc/self/status").read_text().splitlines()
peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")][0] * 1024
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"status": status, "peak": peak, "cpu": sum(one.ru_utime + one.ru_stime for one in used)}))
"""
GB = 10**9


@dataclass(frozen=True)
class Work:
    """A command to be measured; OUT in its arguments is a new folder, MODEL the checkpoint's, MATRIX a file
    with the work's matrix.

    title: in words. model: a name of `memory_models.SHAPES`, "" for none. peak: bytes allowed. cpu: seconds
    allowed, as a share of theirs. theirs: whether the older code can do it. disk: bytes that must be free.
    matrix: its text, in which ENGINE is ours or theirs.
    """

    title: str
    model: str
    arguments: tuple[str, ...]
    peak: float  # a share of theirs, or bytes if they cannot do it
    cpu: float = 1.0
    theirs: bool = True
    disk: int = 0
    matrix: str = ""


OURS, THEIRS = "{name: layered}", "{name: transformers}"  # its name of what is packed now
MATRIX = """
name: group
model: MODEL
tasks: [kick_mini_mcq, kick_mini_perplexity]
limit: {kick_mini_mcq: 40, kick_mini_perplexity: 4}
calibration: {corpus: kick_mini_calibration, sequences: 4, length: 128}
variants:
  - {method: wanda, sparsity: [0.3, 0.5, 0.7]}
replicas: []
engine: ENGINE
"""
WINDOWS = """
name: windows
model: MODEL
tasks: [kick_mini_perplexity]
limit: 4
calibration: {corpus: kick_mini_calibration, sequences: 4, length: 128}
variants:
  - {method: wanda, sparsity: 0.5}
replicas: []
engine: ENGINE
"""
RUN_MATRIX = ("run", "MATRIX", "--out", "OUT", "--executor", "inline")
SMALL = ("--sequences", "4", "--length", "128", "--out", "OUT")
WANDA = ("compress", "MODEL", "--method", "wanda", "--sparsity", "0.5", *SMALL)
WORKS = {
    "compress-wanda": Work("compress wanda 50 %, 0.8B bfloat16", "0.8b", WANDA, 0.17),
    "compress-sparsegpt": Work(
        "compress sparsegpt 50 %, 0.8B bfloat16",
        "0.8b",
        ("compress", "MODEL", "--method", "sparsegpt", "--sparsity", "0.5", *SMALL),
        0.25,
    ),
    "compress-gptq": Work(
        "compress gptq 4 bits, 0.8B bfloat16",
        "0.8b",
        ("compress", "MODEL", "--method", "gptq", "--bits", "4", "--group_size", "128", *SMALL),
        0.25,
    ),
    "group": Work(
        "dense and wanda 30, 50, 70 %: perplexity and 40 choices, 0.8B bfloat16",
        "0.8b",
        RUN_MATRIX,
        0.2,  # 1.4 of 7.1 GB
        0.85,
        matrix=MATRIX,
    ),
    "windows-7b": Work(
        "dense and wanda 50 %: 4 windows of perplexity, 7B bfloat16",
        "7b",
        RUN_MATRIX,
        6 * GB,
        theirs=False,
        disk=27 * GB,
        matrix=WINDOWS,
    ),
    "demo": Work("a worker of the demo", "", ("run", "demo", "--out", "OUT", "--workers", "1"), 0.5, 1.03),
}


def measured(arguments: tuple[str, ...], code: Path) -> dict[str, Any]:
    """Peak and CPU seconds of a `kick` command with the code of a folder. Raises if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, env=environment, cwd=code
    )
    lines = done.stdout.splitlines()
    found = (
        json.loads(lines[-1]) if lines and lines[-1].startswith('{"status"') else {"status": done.returncode}
    )
    if found["status"] != 0:
        raise RuntimeError(f"kick {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return found


def worst(out: Path) -> int:
    """The largest peak that cells record, 0 if there are none."""
    runs = out.glob("*/*/run.json")
    return max((json.loads(one.read_text())["peak_memory"] for one in runs), default=0)


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The code of a commit in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "code"
        subprocess.run(["git", "worktree", "add", "--detach", code, commit], cwd=ROOT, check=True)
        try:
            yield code
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", code], cwd=ROOT, check=True)


def compare(work: Work, folder: Path, older: Path) -> list[dict[str, Any]]:
    """The rows of a work: memory, and CPU seconds if there is something to compare them with."""
    name, free = work.title, shutil.disk_usage(folder).free
    if free < work.disk:
        print(f"{name}: SKIPPED, needs {work.disk / GB:.0f} GB of free disk, {free / GB:.0f} GB are free")
        return []
    model = folder / work.model
    if work.model:
        memory_models.make(memory_models.SHAPES[work.model], model)
    figures = []
    for code, engine in ((ROOT, OURS), (older, THEIRS)) if work.theirs else ((ROOT, OURS),):
        out, matrix = folder / "out", folder / "matrix.yaml"
        shutil.rmtree(out, ignore_errors=True)
        matrix.write_text(work.matrix.replace("MODEL", str(model)).replace("ENGINE", engine))
        words = {"MODEL": str(model), "OUT": str(out), "MATRIX": str(matrix)}
        found = measured(tuple(words.get(one, one) for one in work.arguments), code)
        figures.append(found | {"peak": worst(out) or found["peak"]})
        shutil.rmtree(out, ignore_errors=True)
    ours = figures[0]
    facts = {"peak_gb": round(ours["peak"] / GB, 3), "cpu_seconds": round(ours["cpu"], 1)}
    if not work.theirs:
        ratio = round(work.peak / ours["peak"], 3)
        return [{"work": f"{name}: memory", "against": "allowed", "ratio": ratio, "target": 1, **facts}]
    theirs = figures[1]
    facts |= {"their_peak_gb": round(theirs["peak"] / GB, 3), "their_cpu_seconds": round(theirs["cpu"], 1)}
    return [
        {
            "work": f"{name}: {what}",
            "against": "897272f",
            "ratio": round(theirs[key] / ours[key], 3),
            "target": round(1 / share, 2),
            **facts,
        }
        for what, key, share in (("memory", "peak", work.peak), ("CPU seconds", "cpu", work.cpu))
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"one of {', '.join(WORKS)}")
    parser.add_argument("--commit", default="897272f")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "kick" / "benchmarks")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "memory.json")
    options = parser.parse_args()
    if unknown := set(options.works) - set(WORKS):
        parser.error(f"no work {min(unknown)!r}; expected: {', '.join(WORKS)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.out.read_text()) if options.out.exists() else []
    rows = {row["work"]: row for row in known}
    with checked_out(options.commit) as older:
        for name in options.works or WORKS:
            rows |= {row["work"]: row for row in compare(WORKS[name], options.folder, older)}
            options.out.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    table = Table("work", "against", "ratio", "target", "peak, GB", "theirs", "CPU s", "theirs")
    keys = (
        "work",
        "against",
        "ratio",
        "target",
        "peak_gb",
        "their_peak_gb",
        "cpu_seconds",
        "their_cpu_seconds",
    )
    for row in rows.values():
        table.add_row(*(str(row.get(key, "-")) for key in keys))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
