"""Peak memory and CPU seconds against an older commit: each work in a process of its own, side by side.

    python benchmarks/memory.py [--works WORK ...] [--commit 897272f] [--folder DIR] [--out FILE]

The older commit is checked out beside this one. A process's peak is the kernel's count of its resident set
(VmHWM). Rows are {work, against, ratio, target}, ratio = theirs over ours. If the older code cannot do a
work, ratio is what is allowed over what was measured, and the target 1.
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
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"status": status, "peak": peak, "cpu": used.ru_utime + used.ru_stime}))
"""
GB = 10**9


@dataclass(frozen=True)
class Work:
    """A command to be measured; OUT in its arguments is a new folder, MODEL the checkpoint's.

    peak: bytes allowed. cpu: seconds allowed, as a share of theirs. theirs: whether the older code can do it.
    disk: bytes that must be free.
    """

    model: str
    arguments: tuple[str, ...]
    peak: float  # a share of theirs, or bytes if they cannot do it
    cpu: float = 1.0
    theirs: bool = True
    disk: int = 0


SMALL = ("--sequences", "4", "--length", "128", "--out", "OUT")
WANDA = ("compress", "MODEL", "--method", "wanda", "--sparsity", "0.5", *SMALL)
WORKS = {
    "compress wanda 50 %, 0.8B bfloat16": Work("0.8b", WANDA, 0.17),
    "compress sparsegpt 50 %, 0.8B bfloat16": Work(
        "0.8b", ("compress", "MODEL", "--method", "sparsegpt", "--sparsity", "0.5", *SMALL), 0.25
    ),
    "compress gptq 4 bits, 0.8B bfloat16": Work(
        "0.8b", ("compress", "MODEL", "--method", "gptq", "--bits", "4", "--group_size", "128", *SMALL), 0.25
    ),
    "compress wanda 50 %, 7B bfloat16": Work("7b", WANDA, 6 * GB, theirs=False, disk=30 * GB),
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


def compare(name: str, work: Work, folder: Path, older: Path) -> list[dict[str, Any]]:
    """The rows of a work: memory, and CPU seconds if there is something to compare them with."""
    if shutil.disk_usage(folder).free < work.disk:
        print(f"{name}: skipped, it needs {work.disk / GB:.0f} GB of free disk")
        return []
    model = memory_models.make(memory_models.SHAPES[work.model], folder / work.model)
    figures = []
    for code in (ROOT, older) if work.theirs else (ROOT,):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        words = {"MODEL": str(model), "OUT": str(out)}
        figures.append(measured(tuple(words.get(one, one) for one in work.arguments), code))
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
    parser.add_argument("--works", nargs="*", default=list(WORKS), help="a part of a work's name")
    parser.add_argument("--commit", default="897272f")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "kick" / "benchmarks")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "memory.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.out.read_text()) if options.out.exists() else []
    rows = {row["work"]: row for row in known}
    with checked_out(options.commit) as older:
        for name, work in WORKS.items():
            if any(part in name for part in options.works):
                rows |= {row["work"]: row for row in compare(name, work, options.folder, older)}
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
